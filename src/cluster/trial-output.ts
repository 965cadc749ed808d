import { closeSync, constants, openSync } from 'node:fs';
import { Socket } from 'node:net';
import { type Exec, mustExec } from '../lib/exec.ts';

const KEPT_CHARS = 2_000;

/**
 * Where a trial container writes its stdout and stderr: a pipe, because an application can find out what it writes to and a pod writes to a pipe too.
 * It is a named one, so that it can be given to a program that ends before the container does.
 */
export class TrialOutput {
  readonly #reader: Socket;
  readonly #ended: Promise<void>;
  #writer: number | undefined;
  #text = '';

  private constructor(reader: number, writer: number) {
    this.#writer = writer;
    this.#reader = new Socket({ fd: reader, readable: true, writable: false });
    this.#reader.setEncoding('utf8');
    this.#reader.on('data', (text: string) => {
      this.#text = (this.#text + text).slice(-KEPT_CHARS);
    });
    this.#reader.on('error', () => undefined);
    this.#ended = new Promise((resolve) => this.#reader.once('close', () => resolve()));
  }

  static async open(exec: Exec, file: string): Promise<TrialOutput> {
    await mustExec(exec, 'mkfifo', ['-m', '600', file], { timeoutMs: 10_000 });
    // Each opened by itself, the reading end first: the container's may wait, ours may not.
    const reader = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK);
    return new TrialOutput(reader, openSync(file, constants.O_WRONLY));
  }

  /** The end to write to, until {@link handOver}. */
  get fd(): number {
    return this.#writer ?? -1;
  }

  /** Whoever should write has it now. */
  handOver(): void {
    if (this.#writer !== undefined) closeSync(this.#writer);
    this.#writer = undefined;
  }

  /** The last that was written, once nobody writes any more. */
  async all(): Promise<string> {
    await this.#ended;
    return this.#text.trim();
  }

  close(): void {
    this.handOver();
    this.#reader.destroy();
  }
}
