import { RekindleError } from '../lib/errors.ts';
import type { SlotConnection } from '../slots/slot-connection.ts';
import type { Container } from '../workloads/host.ts';

/** From the start of a trial's container until its slot says hello; one that has said nothing by then has started cold, or has ended. */
const HELLO_MS = 10_000;

/** Containers of trials: their slot is not the agent's to decide about but goes to whoever made them. */
export class Trials {
  readonly #waiting = new Map<string, PromiseWithResolvers<SlotConnection>>();
  readonly #running = new Set<string>();
  readonly #helloMs: number;

  constructor({ helloMs = HELLO_MS } = {}) {
    this.#helloMs = helloMs;
  }

  /** How many trials wait for their slot or use it. */
  get count(): number {
    return this.#running.size;
  }

  /** The slot of a trial's container said hello and proved it. */
  arrived(uid: string, connection: SlotConnection): void {
    this.#of(uid).resolve(connection);
    // Also of one that nobody waits for any more.
    void connection.closed.then(() => this.#waiting.delete(uid));
  }

  /** Resolves with the proven connection of a trial's container. Throws `container_failed` when its slot says nothing. */
  readonly slotOf = async (container: Container, signal: AbortSignal): Promise<SlotConnection> => {
    const { uid } = container;
    const waiting = this.#of(uid);
    this.#running.add(uid);
    const gone = () => this.#running.delete(uid);
    waiting.promise.then((connection) => void connection.closed.then(gone), gone);
    const late = AbortSignal.timeout(this.#helloMs);
    const until = AbortSignal.any([signal, late]);
    const what = `the slot of ${container.name} said nothing within ${this.#helloMs} ms`;
    const abort = () => waiting.reject(signal.aborted ? signal.reason : new RekindleError('container_failed', what, { retryable: true }));
    until.addEventListener('abort', abort, { once: true });
    try {
      return await waiting.promise;
    } finally {
      until.removeEventListener('abort', abort);
      this.#waiting.delete(uid);
    }
  };

  #of(uid: string): PromiseWithResolvers<SlotConnection> {
    const known = this.#waiting.get(uid) ?? Promise.withResolvers<SlotConnection>();
    this.#waiting.set(uid, known);
    return known;
  }
}
