import type { DemandTruth, GatewayTruth } from '../queue/truth.ts';
import type { Instance, Instances } from './instances.ts';
import { type Ticket, Waiting } from './waiting.ts';

export type AdmissionDeps = {
  readonly instances: Instances;
  readonly nowMs: () => number;
  /** What there is to do has changed: the shared view is to be told now. */
  readonly tell: () => void;
  /** An instance that is gone has no request of ours left. */
  readonly onUnused: (instance: Instance) => void;
};

/** Changes that nobody waits for are told together. */
const TELL_MS = 100;
/** A failed connection says that the instance is dying or just beginning; the agent finds out which. */
const AVOID_MS = 250;

/** Who gets which instance when; counts what is in flight, and tells the demand. */
export class Admission implements Disposable {
  readonly #deps: AdmissionDeps;
  readonly #waiting: Waiting;
  readonly #inFlight = new Map<string, number>();
  readonly #arrivals = new Map<string, number>();
  readonly #timers = new Set<NodeJS.Timeout>();
  #telling: NodeJS.Timeout | undefined;

  constructor(deps: AdmissionDeps) {
    this.#deps = deps;
    this.#waiting = new Waiting(deps);
  }

  waiting(workload: string): number {
    return this.#waiting.count(workload);
  }

  inFlight(workload: string): number {
    return this.#inFlight.get(workload) ?? 0;
  }

  /**
   * Grants the ticket an instance at once, or lets it wait; with `maxWaiting` or more in line already it is neither, and false is returned. Whoever
   * is granted one calls `release` once.
   */
  enter(ticket: Ticket, maxWaiting: number): boolean {
    this.#arrivals.set(ticket.workload, (this.#arrivals.get(ticket.workload) ?? 0) + 1);
    // Those in line come first; there are none while an instance is free.
    if (this.#waiting.count(ticket.workload) === 0 && this.#grant(ticket)) return true;
    if (this.#waiting.count(ticket.workload) >= maxWaiting) {
      // A full line is demand too.
      this.#tellSoon();
      return false;
    }
    this.#waiting.enter(ticket, 'end');
    this.#deps.tell();
    return true;
  }

  /** The instance could not be sent the request, or it may be sent again: another one, in the order of arrival. */
  again(ticket: Ticket, failed: Instance): void {
    failed.avoidUntilMs = this.#deps.nowMs() + AVOID_MS;
    // It may be the only one.
    this.#later(AVOID_MS + 1, () => this.serve(failed.workload));
    this.#waiting.enter(ticket, 'arrival');
    this.#deps.tell();
    this.release(failed);
  }

  /** The request gave up while it waited. */
  leave(ticket: Ticket): void {
    if (this.#waiting.leave(ticket)) this.#tellSoon();
  }

  release(instance: Instance): void {
    instance.own -= 1;
    instance.lastUsedMs = this.#deps.nowMs();
    this.#add(instance.workload, -1);
    if (instance.gone && instance.own === 0) this.#deps.onUnused(instance);
    if (this.#waiting.count(instance.workload) > 0) this.serve(instance.workload);
  }

  /** Gives free instances to those that wait. */
  serve(workload: string): void {
    for (;;) {
      const ticket = this.#waiting.first(workload);
      if (ticket === undefined) return;
      const instance = this.#deps.instances.pick(workload);
      if (instance === undefined) return;
      this.#waiting.leave(ticket);
      this.#give(ticket, instance);
    }
  }

  /** The view has changed. */
  serveAll(): void {
    for (const workload of [...this.#waiting.workloads()]) this.serve(workload);
  }

  /** Nobody waits for a workload that has been taken away. */
  removeMissing(workloads: ReadonlyMap<string, unknown>): void {
    for (const workload of [...this.#waiting.workloads()]) {
      if (!workloads.has(workload)) for (const ticket of this.#waiting.all(workload)) ticket.removed();
    }
  }

  demand(): Pick<GatewayTruth, 'demand' | 'instances'> {
    const now = this.#deps.nowMs();
    const demand: DemandTruth[] = [];
    for (const [workload, arrivals] of this.#arrivals) {
      demand.push({
        workload,
        arrivals,
        inFlight: this.inFlight(workload),
        waiting: this.#waiting.count(workload),
        oldestWaitingMs: this.#waiting.oldestMs(workload),
      });
    }
    const instances = [...this.#deps.instances.all()].filter(({ used }) => used);
    return {
      demand,
      instances: instances.map(({ uid, parks, own, lastUsedMs }) => ({
        uid,
        parks,
        inFlight: own,
        idleMs: own > 0 ? 0 : Math.max(0, now - lastUsedMs),
      })),
    };
  }

  [Symbol.dispose](): void {
    for (const timer of this.#timers) clearTimeout(timer);
    clearTimeout(this.#telling);
  }

  #grant(ticket: Ticket): boolean {
    const instance = this.#deps.instances.pick(ticket.workload);
    if (instance === undefined) return false;
    this.#give(ticket, instance);
    return true;
  }

  #give(ticket: Ticket, instance: Instance): void {
    instance.own += 1;
    instance.used = true;
    this.#add(instance.workload, 1);
    ticket.granted(instance);
  }

  #add(workload: string, change: number): void {
    this.#inFlight.set(workload, (this.#inFlight.get(workload) ?? 0) + change);
    this.#tellSoon();
  }

  #tellSoon(): void {
    this.#telling ??= setTimeout(() => {
      this.#telling = undefined;
      this.#deps.tell();
    }, TELL_MS);
  }

  #later(ms: number, work: () => void): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      work();
    }, ms);
    this.#timers.add(timer);
  }
}
