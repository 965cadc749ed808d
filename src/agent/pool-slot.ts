import { existsSync } from 'node:fs';
import { abortedAfter, orAborted } from '../lib/abort.ts';
import { RekindleError } from '../lib/errors.ts';
import type { SlotTruth } from '../queue/truth.ts';
import type { SlotConnection } from '../slots/slot-connection.ts';
import type { Container } from '../workloads/host.ts';
import type { WorkloadSpec } from '../workloads/workload.ts';
import type { SlotSpec } from './spec-facts.ts';

/** A slot that has just said hello and proved it, undecided. */
export type Arrival = { readonly container: Container; readonly connection: SlotConnection };

type Told = { ready?: boolean; seed?: boolean; snapshot?: string | undefined; start?: SlotTruth['start']; error?: string };

/** A slot whose connection broke comes back within so long: its longest pause is a second. */
const COMES_BACK_MS = 2_500;

/**
 * One slot of a pool as its agent knows it, through all its lives. Every change is told at once. What changes a slot runs by {@link exclusive}, one after the
 * other; each looks first what the slot is by then.
 */
export class PoolSlot {
  readonly uid: string;
  readonly workload: WorkloadSpec;
  readonly revision: string;
  /** Undefined while it is being made, and when it could not be. */
  container: Container | undefined;
  facts: SlotSpec | undefined;
  /** Its workload's description has changed, or is gone: nothing is parked in it any more. */
  outdated = false;
  /** When its application ended by itself, by the monotonic clock. */
  readonly ends: number[] = [];
  /** No suspension is tried before, by the monotonic clock: the last one failed. */
  noSuspendBefore = 0;
  readonly #changed: () => void;
  readonly #broken: () => void;
  readonly #entered: () => void;
  #state: SlotTruth['state'] = 'making';
  #since = performance.now();
  #told: Told = {};
  #connection: SlotConnection | undefined;
  #life = new AbortController();
  #turn: Promise<unknown> = Promise.resolve();
  #turns = 0;
  #expected: PromiseWithResolvers<Arrival> | undefined;
  #attached = Promise.withResolvers<void>();

  /**
   * `changed` is called on every change of what {@link truth} says, before anything else happens; `entered` after it where the state is another; `broken` when
   * the slot's connection has.
   */
  constructor(options: {
    uid: string;
    workload: WorkloadSpec;
    revision: string;
    changed: () => void;
    entered: () => void;
    broken: () => void;
  }) {
    this.uid = options.uid;
    this.workload = options.workload;
    this.revision = options.revision;
    this.#changed = options.changed;
    this.#broken = options.broken;
    this.#entered = options.entered;
  }

  get state(): SlotTruth['state'] {
    return this.#state;
  }
  get told(): Readonly<Told> {
    return this.#told;
  }
  get name(): string {
    return this.container?.name ?? `${this.workload.name}-${this.uid.slice(0, 6)}`;
  }
  get parks(): number {
    return this.container?.pool?.parks ?? 0;
  }
  /** The snapshot that holds its own state. */
  get suspended(): string | undefined {
    return this.container?.pool?.suspended;
  }
  get ageMs(): number {
    return performance.now() - this.#since;
  }
  /** Something changes it, or waits to. */
  get busy(): boolean {
    return this.#turns > 0;
  }
  get connection(): SlotConnection | undefined {
    return this.#connection;
  }
  /** Aborts when what runs in the slot is over. */
  get life(): AbortSignal {
    return this.#life.signal;
  }

  /** Tells a new state; what is not said is so no more. */
  become(state: SlotTruth['state'], told: Told = {}): void {
    const isOther = state !== this.#state;
    if (isOther) this.#since = performance.now();
    this.#state = state;
    this.#told = told;
    this.#changed();
    if (isOther) this.#entered();
  }

  /** Tells more about the same state. */
  tell(told: Told): void {
    this.become(this.#state, { ...this.#told, ...told });
  }

  /** Nothing that watched the present life does so any more. */
  endLife(): void {
    this.#life.abort();
    this.#life = new AbortController();
  }

  attach(connection: SlotConnection): void {
    this.#connection = connection;
    this.#attached.resolve();
    void connection.closed.then(() => {
      if (this.#connection === connection) this.#broken();
    });
  }

  detach(connection?: SlotConnection): void {
    if (connection !== undefined && connection !== this.#connection) return;
    this.#connection = undefined;
    this.#attached = Promise.withResolvers<void>();
  }

  /** The slot's open connection, also one that broke and comes back soon. Throws `container_failed`. */
  async connected(signal: AbortSignal): Promise<SlotConnection> {
    const until = AbortSignal.any([signal, AbortSignal.timeout(COMES_BACK_MS)]);
    while (this.#connection === undefined || this.#connection.socket.destroyed) {
      if (this.#connection !== undefined) this.detach();
      // A process that has ended comes back never; of one that only was reaped later this is true already.
      if (this.container !== undefined && !existsSync(`/proc/${this.container.pid}/exe`))
        throw new RekindleError('container_failed', `the slot ${this.name} has ended`, { retryable: true });
      await orAborted(this.#attached.promise, until).catch(() => {
        signal.throwIfAborted();
        throw new RekindleError('container_failed', `the slot ${this.name} does not answer`, { retryable: true });
      });
    }
    return this.#connection;
  }

  /** Resolves with the next undecided hello. Ask before what makes the slot say it. Throws `container_failed` after `withinMs`. */
  expectArrival(): (withinMs: number, signal: AbortSignal) => Promise<Arrival> {
    const expected = Promise.withResolvers<Arrival>();
    this.#expected = expected;
    return async (withinMs, signal) => {
      try {
        return await orAborted(expected.promise, AbortSignal.any([signal, abortedAfter(withinMs)]));
      } catch {
        signal.throwIfAborted();
        throw new RekindleError('container_failed', `the slot ${this.name} said nothing within ${withinMs} ms`, { retryable: true });
      } finally {
        if (this.#expected === expected) this.#expected = undefined;
      }
    };
  }

  /** False when nobody expects it. */
  arrive(arrival: Arrival): boolean {
    const expected = this.#expected;
    this.#expected = undefined;
    expected?.resolve(arrival);
    return expected !== undefined;
  }

  /** Runs `work` when everything before it has ended. */
  async exclusive<T>(work: () => Promise<T>): Promise<T> {
    this.#turns += 1;
    const mine = this.#turn.then(work).finally(() => {
      this.#turns -= 1;
    });
    this.#turn = mine.catch(() => undefined);
    return mine;
  }

  /** `fitting`: the snapshot here that fits it. */
  truth(fitting: (hash: string) => string | undefined): SlotTruth {
    const { ready = false, seed = false, start, error } = this.#told;
    const waits = this.#state === 'parked' && this.facts !== undefined;
    const snapshot = waits ? fitting(this.facts?.hash ?? '') : this.#told.snapshot;
    const [address] = this.container?.addresses ?? [];
    return {
      uid: this.uid,
      name: this.name,
      workload: this.workload.name,
      state: this.#state,
      ageMs: this.ageMs,
      ready,
      seed,
      parks: this.parks,
      ...(address === undefined ? {} : { address }),
      ...(snapshot === undefined ? {} : { snapshot }),
      ...(this.#state === 'suspended' && this.suspended !== undefined ? { suspended: this.suspended } : {}),
      ...(start === undefined ? {} : { start }),
      ...(error === undefined ? {} : { error }),
      ...(this.outdated ? { outdated: true } : {}),
    };
  }
}
