import type { SlotConnection } from '../slots/slot-connection.ts';
import type { Container } from '../workloads/host.ts';

/** Containers of trials: their slot is not the agent's to decide about but goes to whoever made them. */
export class Trials {
  readonly #waiting = new Map<string, PromiseWithResolvers<SlotConnection>>();
  readonly #running = new Set<string>();

  /** How many trials wait for their slot or use it. */
  get count(): number {
    return this.#running.size;
  }

  /** The slot of a trial's container said hello and proved it. */
  arrived(uid: string, connection: SlotConnection): void {
    this.#of(uid).resolve(connection);
  }

  /** Resolves with the proven connection of a trial's container. */
  readonly slotOf = async (container: Container, signal: AbortSignal): Promise<SlotConnection> => {
    const { uid } = container;
    const waiting = this.#of(uid);
    this.#running.add(uid);
    const gone = () => this.#running.delete(uid);
    waiting.promise.then((connection) => void connection.closed.then(gone), gone);
    const abort = () => waiting.reject(signal.reason);
    signal.addEventListener('abort', abort, { once: true });
    try {
      return await waiting.promise;
    } finally {
      signal.removeEventListener('abort', abort);
      this.#waiting.delete(uid);
    }
  };

  #of(uid: string): PromiseWithResolvers<SlotConnection> {
    const known = this.#waiting.get(uid) ?? Promise.withResolvers<SlotConnection>();
    this.#waiting.set(uid, known);
    return known;
  }
}
