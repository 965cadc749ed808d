import type { MachineFacts } from '../checkpoint/machine.ts';
import type { Clock } from '../lib/clock.ts';
import { RekindleError, toRekindleError } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';
import { waitReady } from '../probes/probe.ts';
import type { JobData } from '../queue/jobs.ts';
import type { SlotConnection } from '../slots/slot-connection.ts';
import type { SnapshotStore } from '../snapshots/store.ts';
import type { Container, ContainerMaker, PoolMembership } from '../workloads/host.ts';
import { coldReason } from '../workloads/normalise.ts';
import { isStopped, resume, startAgain } from './container-process.ts';
import { type Cold, type InstanceState, WAS_SEED } from './events.ts';
import type { Inventory } from './inventory.ts';
import type { PoolSlot } from './pool-slot.ts';
import { eagerProbe, type Restorer } from './restorer.ts';
import type { SeedOutcome, Seeds } from './seeds.ts';
import { type TargetDeps, targetOf } from './targets.ts';

export type StarterDeps = TargetDeps & {
  readonly host: ContainerMaker;
  readonly store: Pick<SnapshotStore, 'pin' | 'checkCheap' | 'remove'>;
  readonly machine: MachineFacts;
  readonly restorer: Restorer;
  readonly seeds: Seeds;
  readonly inventory: Inventory;
  readonly clock: Clock;
  readonly log: Log;
  readonly say: (container: Container, state: InstanceState) => void;
  /** Brings a snapshot here if that will be sooner than a cold start of `coldMs`; `progress` hears what part of it has come. Throws why it is not here. */
  readonly bring: (digest: string, coldMs: number, signal: AbortSignal, progress?: (part: number) => void) => Promise<void>;
  /** Reads anew from a waiting slot what fits it. */
  readonly learn: (slot: PoolSlot, container: Container) => Promise<void>;
  /** A pool's instance has ended by itself. */
  readonly onEnd: (slot: PoolSlot, container: Container, status: number | undefined) => void;
  /** Aborts when the agent ends. */
  readonly stop: AbortSignal;
};

/** What a cold start takes of a workload that was never seen to start. */
const COLD_START_MS = 2_000;
/** From the start of a container until its slot says hello. */
export const HELLO_MS = 3_000;

/** A start whose application runs, or will; `ready` when it is of use, `made` when nothing more is done with it. */
export type Begun = { readonly ready: Promise<void>; readonly made?: Promise<SeedOutcome | undefined> };
const NOTHING: Begun = { ready: Promise.resolve() };

/** Starts applications in the slots of pools: by a restore where that is possible, else cold, and then as the seed where one is wanted. */
export class Starter {
  readonly #deps: StarterDeps;
  /** How long the last cold start of each workload took until it was ready. */
  readonly #coldMs = new Map<string, number>();
  readonly #followed = new WeakSet<SlotConnection>();

  constructor(deps: StarterDeps) {
    this.#deps = deps;
  }

  /**
   * Wakes a parked or suspended slot; resolves when its application runs, restored and ready, or cold and then `ready` later. One that is neither, or in a
   * later life, is left alone. Throws why the slot could not be woken.
   */
  wake(slot: PoolSlot, job: JobData['restore'], signal: AbortSignal): Promise<Begun> {
    const from = performance.now();
    return slot.exclusive(async () => {
      const waits = slot.state === 'parked' || slot.state === 'suspended';
      if (!waits || slot.parks !== job.parks || slot.outdated) return NOTHING;
      const connection = await slot.connected(signal);
      const digest = slot.suspended ?? (await this.#choose(slot, job.snapshot));
      if (digest === undefined) return this.#cold(slot, connection, from, this.#whyNone(slot));
      return this.#restore(slot, connection, digest, from, signal);
    });
  }

  /** The snapshot asked for; one that is here and fits too, if that is not, or if one has come since the job was written. None where nobody knows what fits. */
  async #choose(slot: PoolSlot, asked: string | undefined): Promise<string | undefined> {
    const { inventory, learn } = this.#deps;
    const container = containerOf(slot);
    // Configuration that lies in files of this machine, or in a ConfigMap, may be another than when it was parked.
    if (container.pod !== undefined || slot.workload.container.volumes.some((volume) => 'from' in volume && volume.readOnly))
      await learn(slot, container);
    if (slot.facts?.unreadable !== undefined) return undefined;
    if (asked !== undefined && inventory.has(asked)) return asked;
    return inventory.fitting(slot.facts?.hash ?? '', slot.workload) ?? asked;
  }

  /** Starts a slot that has just said hello cold, as the seed if one is wanted. `made` settles when a checkpoint of it has ended. */
  async startSeed(slot: PoolSlot, connection: SlotConnection, from: number): Promise<Begun> {
    return this.#cold(slot, connection, from, this.#whyNone(slot));
  }

  /** A slot that cannot be restored into: it starts cold. */
  async startCold(slot: PoolSlot, connection: SlotConnection, why: Cold): Promise<void> {
    const { ready } = this.#cold(slot, connection, performance.now(), why, { clean: false });
    ready.catch(() => undefined);
  }

  /** Watches an instance that started cold under an earlier agent. */
  adoptCold(slot: PoolSlot): void {
    // For a suspension that its agent did not live to see. Without that, what a slot was suspended with has not been resumed.
    if (slot.container !== undefined && isStopped(slot.container.pid)) {
      resume(slot.container.pid);
      this.goesOn(slot);
    }
    const { started } = slot.container?.pool ?? {};
    const start = { how: 'cold' as const, ...(started?.reason === undefined ? {} : { reason: started.reason }) };
    slot.become('cold', { ready: started !== undefined, start: started === undefined ? start : { ...start, ms: started.ms } });
    this.#watchEnd(slot);
    if (started !== undefined) return;
    if (slot.container?.pod !== undefined) this.#deps.say(slot.container, { at: 'cold', reason: 'no agent saw how it started' });
    this.#awaitReady(slot, performance.now()).catch(() => undefined);
  }

  /** A restore that outlived its agent: readiness was not seen yet. */
  async adoptRestored(slot: PoolSlot, connection: SlotConnection): Promise<void> {
    const { container } = slot;
    if (container === undefined) return;
    try {
      await this.#deps.restorer.enliven(container, connection, this.#deps.stop);
      slot.become('live', { ready: true, start: { how: 'restore' } });
      this.#deps.say(container, { at: 'back' });
      await this.#note(slot, { how: 'restore', ms: 0 });
      if (slot.suspended !== undefined) await this.#forgetState(slot, slot.suspended);
    } catch (error) {
      if (this.#deps.stop.aborted) return;
      const { code, message: reason } = toRekindleError(error);
      await this.#coldInstead(slot, container, { why: 'failed', reason, code }, performance.now());
    }
  }

  /** What a slot was suspended with goes on in its application: to resume it once more would be to go back in time. */
  goesOn(slot: PoolSlot): void {
    const { suspended } = slot;
    if (suspended === undefined) return;
    slot
      .exclusive(() => this.#forgetState(slot, suspended))
      .catch((err: unknown) => {
        if (!this.#deps.stop.aborted) this.#deps.log.warn({ err, slot: slot.uid }, 'state that goes on not forgotten');
      });
  }

  /** Hears the end of a restored instance. */
  follow(slot: PoolSlot, container: Container, connection: SlotConnection): void {
    slot.attach(connection);
    // One that was parked again in place is followed already.
    if (this.#followed.has(connection)) return;
    this.#followed.add(connection);
    void connection.ended.then((status) => {
      // One that broke comes back; one that was killed is found gone by the next look.
      if (status !== undefined && slot.connection === connection) this.#deps.onEnd(slot, container, status);
    });
  }

  async #restore(slot: PoolSlot, connection: SlotConnection, digest: string, from: number, signal: AbortSignal): Promise<Begun> {
    const { store, seeds, restorer, stop, say } = this.#deps;
    const container = containerOf(slot);
    const own = digest === slot.suspended;
    slot.become('restoring', { snapshot: digest });
    let runs = false;
    let tried = false;
    try {
      if (!own) await this.#deps.bring(digest, this.#coldMs.get(slot.workload.name) ?? COLD_START_MS, signal);
      using _pin = store.pin(digest);
      const snapshot = await store.checkCheap(digest, signal);
      if (!own && snapshot.manifest.specHash !== slot.facts?.hash) throw misfit(slot, digest);
      const decidedMs = performance.now() - from;
      const restored = await restorer.restore(container, connection, snapshot, stop, () => {
        tried = true;
      });
      const restoredMs = performance.now() - from;
      runs = true;
      this.follow(slot, container, connection);
      await restorer.enliven(container, connection, stop);
      const ms = performance.now() - from;
      slot.become('live', { ready: true, snapshot: digest, start: { how: 'restore', ms } });
      const { filesMs, criuMs } = restored;
      say(container, { at: 'live', snapshot: digest, timing: { decidedMs, filesMs, criuMs, restoredMs, readyMs: ms } });
      await this.#note(slot, { how: 'restore', ms, snapshot: digest });
      if (!own) await seeds.restored(digest, slot.workload);
    } catch (error) {
      // The agent ends: what runs goes on, and nobody failed.
      if (stop.aborted) throw error;
      // Nobody waits any more, and nothing was done to the slot.
      if (signal.aborted && !tried) {
        slot.become(own ? 'suspended' : 'parked');
        throw error;
      }
      // Told as live already: what could not be written down is missed by the next agent only.
      if (slot.state === 'live') return NOTHING;
      const { code, message } = toRekindleError(error);
      const cold: Cold = { why: 'failed', reason: tried ? `the restore failed: ${message}` : message, code };
      if (tried && !own) {
        await seeds.failed(digest, container, cold);
        // At the next look, if not now.
        await this.#deps.inventory.refresh().catch(() => false);
      }
      return runs ? this.#coldInstead(slot, container, cold, from) : this.#cold(slot, connection, from, cold);
    }
    if (own) await this.#forgetState(slot, digest);
    return NOTHING;
  }

  /** The application runs but is of no use: its container is started again, and that is cold. */
  async #coldInstead(slot: PoolSlot, container: Container, cold: Cold, from: number): Promise<Begun> {
    const { host, stop } = this.#deps;
    slot.detach();
    slot.endLife();
    try {
      const arrival = slot.expectArrival();
      slot.container = await startAgain(host, container, stop);
      const { connection } = await arrival(HELLO_MS, stop);
      return this.#cold(slot, connection, from, cold, { clean: false });
    } catch (error) {
      if (!stop.aborted) slot.become('failed', { error: `${cold.reason}; then ${toRekindleError(error).message}` });
      throw error;
    }
  }

  /** `clean`: nothing has run in it before, or nothing is left of that. */
  #cold(slot: PoolSlot, connection: SlotConnection, from: number, cold: Cold, { clean } = { clean: true }): Begun {
    const container = containerOf(slot);
    slot.detach();
    connection.cold();
    const seed = clean && this.#isSeedWanted(slot, container);
    const told = { ready: false, seed, start: { how: 'cold' as const, reason: seed ? WAS_SEED : cold.reason } };
    slot.become('cold', told);
    if (!seed) this.#deps.say(container, { at: 'cold', ...cold });
    this.#watchEnd(slot);
    if (seed) return this.#seed(slot, container, from);
    const ready = this.#awaitReady(slot, from);
    ready.catch(() => undefined);
    return { ready };
  }

  #isSeedWanted(slot: PoolSlot, container: Container): boolean {
    const { seeds, inventory } = this.#deps;
    const { facts } = slot;
    const hash = facts?.hash;
    if (hash === undefined || slot.outdated || coldReason(container.workload) !== undefined) return false;
    const why = seeds.refusal(hash) ?? inventory.quarantined(hash);
    return why === undefined && inventory.fitting(hash, slot.workload) === undefined && !seeds.runs(hash);
  }

  #whyNone(slot: PoolSlot): Cold {
    const { seeds, inventory } = this.#deps;
    const hash = slot.facts?.hash ?? '';
    const policy = coldReason(containerOf(slot).workload);
    if (policy !== undefined) return { why: 'policy', reason: policy };
    const { unreadable } = slot.facts ?? {};
    if (unreadable !== undefined) return { why: 'refused', reason: unreadable };
    const refused = seeds.refusal(hash) ?? inventory.quarantined(hash);
    if (refused !== undefined) return { why: 'refused', reason: refused };
    return { why: 'no_snapshot', reason: 'there is no snapshot of it yet' };
  }

  /** Ready once it has been dumped: what it is asked before would be in the memory of every clone. */
  #seed(slot: PoolSlot, container: Container, from: number): Begun {
    const { seeds, inventory, say, stop } = this.#deps;
    const ready = Promise.withResolvers<void>();
    ready.promise.catch(() => undefined);
    const { life } = slot;
    const isReady = () => {
      if (life.aborted || slot.told.ready === true) return;
      this.#isReady(slot, from);
      ready.resolve();
    };
    const { hash = '', mounts = [] } = slot.facts ?? {};
    const make = async (): Promise<SeedOutcome | undefined> => {
      const outcome = await seeds.make(
        { container, hash, mounts, eager: true },
        (step) => {
          if (step === 'writing it down') isReady();
          say(container, { at: 'seed', step });
        },
        AbortSignal.any([stop, life]),
      );
      await inventory.refresh();
      // Ended or removed: there is nothing to tell.
      if (life.aborted || slot.state !== 'cold') return outcome;
      slot.tell({ seed: false });
      say(container, { at: 'cold', why: 'seed', reason: WAS_SEED });
      if (slot.told.ready !== true) await this.#awaitReady(slot, from);
      return outcome;
    };
    const made = make();
    made.then(() => ready.resolve(), ready.reject);
    made.catch(() => undefined);
    return { ready: ready.promise, made };
  }

  async #awaitReady(slot: PoolSlot, from: number): Promise<void> {
    const container = containerOf(slot);
    const { life } = slot;
    const { clock, stop } = this.#deps;
    const probe = eagerProbe(container);
    try {
      if (probe !== undefined) await waitReady(probe, targetOf(this.#deps, container), { clock }, AbortSignal.any([stop, life]));
      this.#isReady(slot, from);
    } catch (error) {
      if (!stop.aborted && !life.aborted) slot.become('failed', { error: toRekindleError(error).message });
      throw error;
    }
  }

  #isReady(slot: PoolSlot, from: number): void {
    const ms = performance.now() - from;
    const reason = slot.told.start?.reason ?? 'unknown';
    slot.tell({ ready: true, start: { how: 'cold', ms, reason } });
    this.#coldMs.set(slot.workload.name, ms);
    const { life } = slot;
    const note = async () => (life.aborted ? undefined : this.#note(slot, { how: 'cold', ms, reason }));
    slot.exclusive(note).catch((err: unknown) => {
      if (!this.#deps.stop.aborted) this.#deps.log.warn({ err, slot: slot.uid }, 'start not written down');
    });
  }

  #watchEnd(slot: PoolSlot): void {
    const container = containerOf(slot);
    this.#deps.host.wait(container, AbortSignal.any([this.#deps.stop, slot.life])).then(
      (status) => this.#deps.onEnd(slot, container, status),
      () => undefined,
    );
  }

  /** For the next agent. Only while the slot is ours alone: else it could be written over what its next life is. */
  async #note(slot: PoolSlot, started: NonNullable<PoolMembership['started']>): Promise<void> {
    const { pool } = containerOf(slot);
    if (pool !== undefined) slot.container = await this.#deps.host.setPool(slot.uid, { ...pool, started });
  }

  /** It has been resumed: the state goes on in the instance, and would only be wrong from now on. */
  async #forgetState(slot: PoolSlot, digest: string): Promise<void> {
    const { pool } = containerOf(slot);
    if (pool === undefined) return;
    const { suspended: _, ...rest } = pool;
    slot.container = await this.#deps.host.setPool(slot.uid, rest);
    await this.#deps.store.remove(digest).catch((err: unknown) => this.#deps.log.warn({ err, snapshot: digest }, 'state not removed'));
  }
}

function containerOf(slot: PoolSlot): Container {
  if (slot.container === undefined) throw new RekindleError('internal', `the slot ${slot.name} has no container`);
  return slot.container;
}

function misfit(slot: PoolSlot, digest: string): RekindleError {
  const what = `the snapshot ${digest.slice(0, 12)} was made of another image, configuration or description than ${slot.name} has`;
  return new RekindleError('snapshot_incompatible', what);
}
