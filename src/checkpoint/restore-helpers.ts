import { fstatSync } from 'node:fs';
import { type Running, runDetached, startDetached, type Waiting } from '../lib/exec.ts';
import { Tasks } from '../lib/tasks.ts';
import { CgroupGate } from './cgroup-gate.ts';

/** Room for the arguments of a restore, which take the place of this one's: see `helper spare`. */
const PADDING = 'x'.repeat(32 * 1024);

/** Longer than a restore mostly takes. */
const REFILL_AFTER_MS = 100;

/**
 * The helpers of restores. Some wait already, so that a restore does not wait for a process to be made: that takes
 * milliseconds in a program of Node's size. They end by themselves when this process does.
 */
export class RestoreHelpers implements AsyncDisposable {
  readonly #helper: string;
  readonly #spares: number;
  readonly #gate = new CgroupGate();
  readonly #waiting: Waiting[] = [];
  readonly #work = new Tasks();
  #prepared = false;
  #refill: NodeJS.Timeout | undefined;

  constructor(options: { readonly helper: string; readonly spares: number }) {
    this.#helper = options.helper;
    this.#spares = options.spares;
  }

  /** Has spares wait from now on; without them every helper is started when it is needed. */
  prepare(): void {
    this.#prepared = true;
    while (this.#waiting.length < this.#spares) this.#waiting.push(startDetached(this.#helper, ['spare', PADDING]));
  }

  /** A restore may be wanted in a moment: what it would wait for begins. */
  expect(): void {
    this.#gate.open();
  }

  /** Runs `helper restore …`; `connection` is the number of the slot's connection in this process, which becomes the helper's descriptor 3. */
  run(args: readonly string[], connection: number): Running {
    // Before a spare is taken: of a descriptor that is none this throws, and nobody would end the spare.
    const fields = [String(connection), String(fstatSync(connection, { bigint: true }).ino), ...args];
    const size = args.reduce((sum, arg) => sum + Buffer.byteLength(arg) + 1, 0);
    const spare = size >= PADDING.length ? undefined : this.#take();
    this.#refillSoon();
    if (spare === undefined) return runDetached(this.#helper, args, connection);
    return spare.go([String(fields.length), ...fields].map((field) => `${field}\0`).join(''));
  }

  /** What is still to be done once a restore is told: disposing waits for it. */
  afterwards(work: Promise<unknown>): void {
    void this.#work.add(work);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#prepared = false;
    clearTimeout(this.#refill);
    await Promise.all([this.#work.settled(), ...this.#waiting.splice(0).map((spare) => spare.end())]);
  }

  /** Once nothing has been restored for a moment: making a process takes what a restore needs. */
  #refillSoon(): void {
    clearTimeout(this.#refill);
    this.#refill = setTimeout(() => {
      if (this.#prepared) this.prepare();
    }, REFILL_AFTER_MS);
  }

  #take(): Waiting | undefined {
    for (;;) {
      const spare = this.#waiting.shift();
      if (spare === undefined || spare.alive) return spare;
    }
  }
}
