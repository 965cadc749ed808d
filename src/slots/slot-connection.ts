import type { Socket } from 'node:net';
import { orAborted } from '../lib/abort.ts';
import { RekindleError } from '../lib/errors.ts';
import { type AgentLine, formatAgentLine, type Hello, type LineSplitter, parseSlotLine, type SlotLine } from './protocol.ts';

/**
 * One connection of a slot, from its `hello` on. What `hello` says is a claim: believe it only after {@link prove} and `proveProcess`.
 *
 * While a slot is claimed its connection is the restore's lifeline: as long as anybody has the agent's end open, the slot waits. A helper
 * inherits {@link descriptor} by number as descriptor 3 or higher (`extraFds` of lib/exec.ts), and the socket stays usable here, reading included. Not as
 * descriptor 0 to 2: libuv makes those blocking, for both processes, as they share one open file. Not as `stdio: [socket]`
 * either: Node then pauses reading here. A descriptor handed over is O_NONBLOCK. Never `end()` the socket: a shutdown
 * reaches through every duplicate; {@link close} only closes ours.
 */
export class SlotConnection {
  readonly hello: Hello;
  readonly socket: Socket;
  /** Where it comes from; undefined over the unix socket. A slot of a pod has one of the pod's own addresses. */
  readonly remoteAddress: string | undefined;
  /** Resolves with the application's status once the slot has said it, or with undefined when the connection closes before. */
  readonly ended: Promise<number | undefined>;
  /** Resolves when the connection is closed, by whichever side. Never rejects. */
  readonly closed: Promise<void>;
  readonly #ended = Promise.withResolvers<number | undefined>();
  readonly #closed = Promise.withResolvers<void>();
  #proof: PromiseWithResolvers<void> | undefined;
  #parking: PromiseWithResolvers<number> | undefined;
  #can: readonly string[] | 'asked' | undefined;
  #exited = false;

  /** For {@link SlotServer}: takes over a socket whose `hello` was read, and the lines that came with it. */
  constructor(options: {
    readonly hello: Hello;
    readonly socket: Socket;
    readonly remoteAddress?: string | undefined;
    readonly splitter: LineSplitter;
    readonly lines: readonly string[];
  }) {
    const { hello, socket, splitter, lines } = options;
    this.hello = hello;
    this.socket = socket;
    this.remoteAddress = options.remoteAddress;
    this.ended = this.#ended.promise;
    this.closed = this.#closed.promise;
    socket.on('data', (chunk: Buffer) => this.#take(splitter.push(chunk)));
    socket.once('close', () => {
      this.#ended.resolve(undefined);
      this.#proof?.reject(this.#gone());
      this.#parking?.reject(this.#gone());
      this.#closed.resolve();
    });
    this.#take(lines);
  }

  /**
   * Asks the slot to take `nonce` (1 to 15 of A-Za-z0-9_-) as its process name; resolves when it says that it did, and does not look.
   * One at a time. Rejects with `container_failed` when the connection closes, with the signal's reason when that aborts.
   */
  async prove(nonce: string, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    if (this.socket.destroyed) throw this.#gone();
    if (this.#proof !== undefined) throw new RekindleError('internal', `slot ${this.hello.uid} is being asked to prove itself already`);
    this.socket.cork();
    // Answered before `proved`, or never.
    if (this.#can === undefined) {
      this.#can = 'asked';
      this.#say({ say: 'can' });
    }
    this.#say({ say: 'prove', nonce });
    this.socket.uncork();
    // After an abort it stays: its answer may still come, and must neither count as nonsense nor answer another question.
    this.#proof = Promise.withResolvers<void>();
    await orAborted(this.#proof.promise, signal);
  }

  /** Whether {@link parkAgain} is understood: slots of the first version do not. Known once {@link prove} has resolved. */
  get canParkAgain(): boolean {
    return Array.isArray(this.#can) && this.#can.includes('again');
  }

  /**
   * Ends the application of a live slot (SIGTERM, `graceMs` to obey, then SIGKILL to all there is) and parks the slot again in place: process 1 and
   * this connection stay. Resolves with the application's status; its files are still there. May be asked again after an abort: the slot goes on meanwhile.
   * Rejects with `container_failed` when the slot cannot do that, or when the connection closes, as it does when the application ended a moment
   * before ({@link ended} tells) or the container is being ended.
   */
  async parkAgain(graceMs: number, signal: AbortSignal): Promise<number> {
    signal.throwIfAborted();
    if (this.socket.destroyed) throw this.#gone();
    if (!this.canParkAgain)
      throw new RekindleError(
        'container_failed',
        `the slot of ${this.hello.uid} is of an older version and cannot be parked again in place`,
      );
    if (this.#parking === undefined) {
      this.#say({ say: 'end', graceMs });
      this.#parking = Promise.withResolvers<number>();
    }
    return orAborted(this.#parking.promise, signal);
  }

  /** The decision takes longer (a snapshot is being pulled): the slot waits on, up to its REKINDLE_WAIT_MS after `hello`. */
  wait(): void {
    this.#say({ say: 'wait' });
  }

  /** A restore begins. From here the end of the connection, or REKINDLE_RESTORE_MS, makes the slot kill everything in it and start cold. */
  claim(): void {
    this.#say({ say: 'claim' });
  }

  /** The restore is done: `pid` is the application as the slot's PID namespace numbers it. */
  restored(pid: number): void {
    this.#say({ say: 'restored', pid });
  }

  /** Start the original command; kills first whatever a failed restore left. The connection closes. */
  cold(): void {
    this.#say({ say: 'cold' });
  }

  /** Wait for ever, with no application, for a `claim` or `cold`. */
  park(): void {
    this.#say({ say: 'park' });
  }

  /** Calls back with the application's status if the slot says one. */
  onExit(callback: (status: number) => void): void {
    void this.ended.then((status) => {
      if (status !== undefined) callback(status);
    });
  }

  /** The descriptor's number in this process, for a child to inherit. Throws `container_failed` when the connection is closed. */
  get descriptor(): number {
    const handle: unknown = Reflect.get(this.socket, '_handle');
    const fd: unknown = typeof handle === 'object' && handle !== null ? Reflect.get(handle, 'fd') : undefined;
    if (typeof fd !== 'number' || fd < 0) throw this.#gone();
    return fd;
  }

  /** Lets go of the agent's end. A duplicate in a helper keeps the connection itself. Safe to repeat. */
  close(): void {
    this.socket.destroy();
  }

  #say(line: AgentLine): void {
    const text = formatAgentLine(line);
    // What is said to a slot that is gone is lost, as if it had gone a moment later: `closed` tells.
    if (this.socket.writable) this.socket.write(text);
  }

  #take(lines: readonly string[] | undefined): void {
    if (lines === undefined) this.close();
    for (const line of lines ?? []) {
      if (this.socket.destroyed) return;
      if (!this.#accept(parseSlotLine(line))) this.close();
    }
  }

  /** Every line is an answer or comes once, so that a slot cannot keep the agent busy with well-formed lines. */
  #accept(line: SlotLine | undefined): boolean {
    if (line?.say === 'can' && this.#can === 'asked') {
      this.#can = line.words;
      return true;
    }
    if (line?.say === 'proved' && this.#proof !== undefined) {
      this.#proof.resolve();
      this.#proof = undefined;
      return true;
    }
    if (line?.say === 'parked' && this.#parking !== undefined) {
      this.#parking.resolve(line.status);
      this.#parking = undefined;
      return true;
    }
    if (line?.say !== 'exit' || this.#exited) return false;
    this.#exited = true;
    this.#ended.resolve(line.status);
    return true;
  }

  #gone(): RekindleError {
    return new RekindleError('container_failed', `the slot of ${this.hello.uid} (${this.hello.container}) closed its connection`, {
      retryable: true,
    });
  }
}
