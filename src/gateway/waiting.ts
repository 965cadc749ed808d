import type { Instance } from './instances.ts';

/** One request that wants an instance. It is granted one or refused, never both; not any more once it has left. */
export interface Ticket {
  readonly workload: string;
  readonly arrivedAtMs: number;
  granted(instance: Instance): void;
  /** Its workload is no more. */
  removed(): void;
}

export type WaitingDeps = { readonly nowMs: () => number };

/** The requests of each workload that wait, first come first served. Leaving from the middle costs no more than from the end. */
export class Waiting {
  readonly #deps: WaitingDeps;
  readonly #queues = new Map<string, Set<Ticket>>();

  constructor(deps: WaitingDeps) {
    this.#deps = deps;
  }

  count(workload: string): number {
    return this.#queues.get(workload)?.size ?? 0;
  }

  /** How long the first in line has waited; 0 if none waits. */
  oldestMs(workload: string): number {
    const first = this.first(workload);
    return first === undefined ? 0 : Math.max(0, this.#deps.nowMs() - first.arrivedAtMs);
  }

  workloads(): Iterable<string> {
    return this.#queues.keys();
  }

  all(workload: string): readonly Ticket[] {
    return [...(this.#queues.get(workload) ?? [])];
  }

  first(workload: string): Ticket | undefined {
    return this.#queues.get(workload)?.values().next().value;
  }

  /** At the end of the line, or by when it arrived: a request that had its turn already keeps its place. */
  enter(ticket: Ticket, place: 'end' | 'arrival'): void {
    const queue = this.#queues.get(ticket.workload);
    if (queue === undefined) this.#queues.set(ticket.workload, new Set([ticket]));
    else if (place === 'end') queue.add(ticket);
    else {
      const inOrder = [...queue, ticket].sort((a, b) => a.arrivedAtMs - b.arrivedAtMs);
      this.#queues.set(ticket.workload, new Set(inOrder));
    }
  }

  /** Returns whether it was waiting. */
  leave(ticket: Ticket): boolean {
    const queue = this.#queues.get(ticket.workload);
    const waited = queue?.delete(ticket) ?? false;
    if (queue?.size === 0) this.#queues.delete(ticket.workload);
    return waited;
  }
}
