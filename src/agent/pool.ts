import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { orAborted } from '../lib/abort.ts';
import { RekindleError, toRekindleError } from '../lib/errors.ts';
import type { Controller } from '../lib/loop.ts';
import type { Job, JobData } from '../queue/jobs.ts';
import type { SlotTruth, View, WorkloadTruth } from '../queue/truth.ts';
import type { SlotConnection } from '../slots/slot-connection.ts';
import type { Container } from '../workloads/host.ts';
import { applicationOf, isSlot, resume } from './container-process.ts';
import { SUSPENDED_PREFIX } from './inventory.ts';
import { Parker, type ParkerDeps } from './parker.ts';
import { type Arrival, PoolSlot } from './pool-slot.ts';
import type { SpecReader } from './spec-facts.ts';
import type { SpecIndex } from './spec-index.ts';
import { Starter, type StarterDeps } from './starter.ts';

export type PoolDeps = Omit<StarterDeps, 'onEnd' | 'learn'> &
  Omit<ParkerDeps, 'learn' | 'forget'> & {
    readonly specs: Pick<SpecReader, 'read'>;
    readonly index: SpecIndex;
    /** What the others say; without a service nobody says anything. */
    readonly view: () => Pick<View, 'workloads' | 'gateways'>;
  };

/** A seed that could not even be made, or a workload that is none. */
type WarmFailure = { readonly reason: string; readonly until: number };

const LOOK_EVERY_MS = 1_000;
/** A slot that an earlier agent left has so long to say hello. */
const SILENT_MS = 10_000;
/** From the end of a connection until the process whose it was is found gone. */
const REAPED_MS = 20;
const RETRY_WARM_AFTER_MS = 60_000;
/** What may be otherwise the next time: a slot that was not heard in time, say, on a machine that has too much to do. */
const RETRY_WARM_SOON_MS = 5_000;
/** An instance of an old description goes when no gateway has sent it anything for so long. */
const UNUSED_MS = 2_000;

/**
 * The containers of this node that belong to pools: hears their slots, does the node's jobs, and looks after them in between. Each job may come twice, and
 * looks first. What a workload's new description means: parked slots of the old one are removed at once; instances serve on until they
 * are idle and go then; suspended slots stay with their state until the workload is gone.
 */
export class Pool implements Controller {
  readonly name = 'pool-look';
  readonly #deps: PoolDeps;
  readonly #slots = new Map<string, PoolSlot>();
  readonly #starter: Starter;
  readonly #parker: Parker;
  readonly #warming = new Map<string, Promise<void>>();
  readonly #warmFailures = new Map<string, WarmFailure>();
  readonly #making = new Map<string, Promise<void>>();
  /** Process 1 of pods that never said hello, as the last look found them. */
  #unheard: ReadonlySet<number> = new Set();
  readonly #leaving = new AbortController();
  #changed: () => void = () => undefined;

  constructor(deps: PoolDeps) {
    this.#deps = deps;
    const onEnd: StarterDeps['onEnd'] = (slot, container, status) => {
      slot.exclusive(() => this.#parker.ended(slot, container, status)).catch((err: unknown) => this.#complain(slot, err));
    };
    const learn = (slot: PoolSlot, container: Container) => this.#learn(slot, container);
    this.#starter = new Starter({ ...deps, onEnd, learn });
    this.#parker = new Parker({ ...deps, learn, forget: (slot) => this.#forget(slot) });
  }

  /** `changed` is called whenever something that is told has changed, before anything is written or logged. */
  onChange(changed: () => void): void {
    this.#changed = changed;
  }

  /** What is told of the slots. */
  truth(): SlotTruth[] {
    const { inventory } = this.#deps;
    return [...this.#slots.values()].map((slot) => slot.truth((hash) => inventory.fitting(hash, slot.workload)));
  }

  /** Why no seed of this description can be made at present. */
  warmFailure(workload: WorkloadTruth): string | undefined {
    const failure = this.#warmFailures.get(keyOf(workload.name, workload.revision));
    return failure !== undefined && failure.until > performance.now() ? failure.reason : undefined;
  }

  /** Whether a seed of this description is on its way, and its slot. */
  warming(workload: WorkloadTruth): { readonly slot: string | undefined } | undefined {
    const ofIt = (slot: PoolSlot) => slot.workload.name === workload.name && slot.revision === workload.revision;
    const seed = [...this.#slots.values()].find((slot) => ofIt(slot) && slot.told.seed === true);
    if (seed !== undefined) return { slot: seed.uid };
    return this.#warming.has(keyOf(workload.name, workload.revision)) ? { slot: undefined } : undefined;
  }

  /** A job of the node's queue; resolves when what it asks for is so. What takes long and can tell tells `progress`, from 0 to 1. */
  async do(job: Job, signal: AbortSignal, progress?: (part: number) => void): Promise<void> {
    const prompt = AbortSignal.any([signal, this.#leaving.signal]);
    switch (job.name) {
      case 'park':
        return orAborted(this.#park(job.data), prompt);
      case 'warm':
        return orAborted(this.#warm(job.data), prompt);
      case 'pull':
        return this.#deps.bring(job.data.digest, Number.POSITIVE_INFINITY, prompt, progress);
      case 'restore':
        return this.#ifThere(job.data.slot, async (slot) => {
          const { ready } = await this.#starter.wake(slot, job.data, signal);
          await orAborted(ready, prompt);
        });
      case 'suspend':
        return this.#ifThere(job.data.slot, (slot) => this.#parker.suspend(slot, job.data, signal));
      case 'remove':
        return this.#ifThere(job.data.slot, (slot) => this.#parker.remove(slot, job.data));
    }
  }

  /** The agent is about to end: jobs that would keep it for long, and lose nothing, are given up. */
  leave(): void {
    this.#leaving.abort(new RekindleError('agent_unavailable', 'the agent is ending', { retryable: true }));
  }

  /** Takes over what an earlier agent left: `containers` run, `resting` ones are suspended and have ended. */
  async adopt(containers: readonly Container[], resting: readonly Container[]): Promise<void> {
    for (const container of containers) if (!this.#slots.has(container.uid)) this.#adopted(container);
    for (const container of resting) {
      const slot = this.#adopted(container);
      slot?.exclusive(() => this.#parker.revive(slot, container)).catch((err: unknown) => this.#complain(slot, err));
    }
    const held = new Set([...containers, ...resting].map(({ pool }) => pool?.suspended));
    for (const { digest, manifest } of await this.#deps.store.list()) {
      if (!manifest.workload.startsWith(SUSPENDED_PREFIX) || held.has(digest)) continue;
      await this.#deps.store.remove(digest);
      this.#deps.log.info({ snapshot: digest }, 'state of a slot that is gone removed');
    }
  }

  /** A slot of a pool's container said hello, and proved it. */
  async heard(container: Container, connection: SlotConnection): Promise<void> {
    const slot = this.#slots.get(container.uid) ?? this.#adopted(container);
    if (slot === undefined) return connection.close();
    const { state } = connection.hello;
    if (state === 'undecided') {
      if (slot.arrive({ container, connection })) return;
      // Its agent ended while it was being made, or made again.
      return slot.exclusive(async () => {
        slot.container = container;
        // A pod's container is made anew whenever it has ended.
        if (container.restarts === 0 || container.pod !== undefined) return this.#parkOrCold(slot, { container, connection });
        await this.#starter.startCold(slot, connection, { why: 'restarted', reason: 'the container was restarted' });
      });
    }
    const isFirst = slot.facts === undefined;
    if (isFirst) await this.#learn(slot, container);
    if (state === 'parked') {
      slot.attach(connection);
      if (slot.state === 'making') this.#parker.isParked(slot);
      return;
    }
    // An earlier agent may not have lived to say so.
    if (slot.state === 'live' && container.pod !== undefined && isFirst) this.#deps.say(container, { at: 'back' });
    this.#starter.follow(slot, container, connection);
    if (slot.state === 'restoring' && !slot.busy) await slot.exclusive(() => this.#starter.adoptRestored(slot, connection));
  }

  /** One look at everything: what ended unheard, what is outdated, which snapshots there are. */
  async reconcile(): Promise<{ readonly requeueAfterMs: number }> {
    if (await this.#deps.inventory.refresh()) this.#changed();
    await this.#adoptUnheard();
    this.compare();
    for (const slot of [...this.#slots.values()]) if (!slot.busy) await this.#look(slot);
    return { requeueAfterMs: LOOK_EVERY_MS };
  }

  /** Looks which slots are of a description that is no longer said. */
  compare(): void {
    const { workloads, gateways } = this.#deps.view();
    // Not heard yet: that says nothing.
    if (workloads === undefined) return;
    const instances = [...gateways.values()].flatMap(({ said }) => said.instances);
    const inUse = new Set(instances.filter(({ inFlight, idleMs }) => inFlight > 0 || idleMs < UNUSED_MS).map(({ uid }) => uid));
    for (const slot of this.#slots.values()) {
      const now = workloads.get(slot.workload.name);
      const outdated = now?.revision !== slot.revision;
      if (outdated !== slot.outdated) {
        slot.outdated = outdated;
        this.#changed();
      }
      // Pods of an old description are their owner's to delete.
      if (!outdated || slot.busy || slot.container?.pod !== undefined) continue;
      const holdsState = slot.suspended !== undefined && now !== undefined;
      const waits = slot.state === 'parked' || ((slot.state === 'failed' || slot.state === 'suspended') && !holdsState);
      const stateful = slot.workload.pool.stateful && now !== undefined;
      const runs = (slot.state === 'live' || slot.state === 'cold') && slot.told.seed !== true && !stateful;
      if (waits || (runs && slot.ageMs > UNUSED_MS && !inUse.has(slot.uid)))
        slot
          .exclusive(() => (slot.outdated ? this.#parker.drop(slot) : Promise.resolve()))
          .catch((err: unknown) => this.#complain(slot, err));
    }
  }

  /** Every slot's spec hash anew: the key is another. */
  rehash(): void {
    this.#deps.index.clear();
    for (const slot of this.#slots.values())
      if (slot.facts !== undefined && slot.container !== undefined)
        this.#learn(slot, slot.container).then(
          () => this.#changed(),
          (err: unknown) => this.#complain(slot, err),
        );
    this.#changed();
  }

  async #ifThere(uid: string, act: (slot: PoolSlot) => Promise<void>): Promise<void> {
    const slot = this.#slots.get(uid);
    if (slot !== undefined) await act(slot);
  }

  #park({ slot: uid, workload }: JobData['park']): Promise<void> {
    const known = this.#making.get(uid);
    if (known !== undefined) return known;
    const before = this.#slots.get(uid);
    // One that failed while it was being made is made again; any other is there.
    if (before !== undefined && !(before.state === 'failed' && before.container === undefined)) return Promise.resolve();
    const slot = this.#add(uid, this.#described(workload));
    return this.#make(slot, () => this.#parker.make(slot, this.#deps.stop));
  }

  #make(slot: PoolSlot, make: () => Promise<void>): Promise<void> {
    const making = make()
      .catch((error: unknown) => {
        slot.become('failed', { error: toRekindleError(error).message });
        throw error;
      })
      .finally(() => this.#making.delete(slot.uid));
    this.#making.set(slot.uid, making);
    return making;
  }

  #warm({ workload: name }: JobData['warm']): Promise<void> {
    const workload = this.#described(name);
    const key = keyOf(name, workload.revision);
    const known = this.#warming.get(key);
    if (known !== undefined) return known;
    const hash = this.#deps.index.get(name, workload.revision);
    if (hash !== undefined && (this.#deps.inventory.fitting(hash, workload.spec) !== undefined || this.#deps.seeds.runs(hash)))
      return Promise.resolve();
    const warming = this.#seed(workload)
      .catch((error: unknown) => {
        const { message: reason, retryable } = toRekindleError(error);
        this.#warmFailures.set(key, { reason, until: performance.now() + (retryable ? RETRY_WARM_SOON_MS : RETRY_WARM_AFTER_MS) });
        throw error;
      })
      .finally(() => {
        this.#warming.delete(key);
        this.#changed();
      });
    this.#warming.set(key, warming);
    this.#changed();
    return warming;
  }

  /** Makes a container that starts cold as the seed. If none is wanted by then, it becomes a parked slot. */
  async #seed(workload: WorkloadTruth): Promise<void> {
    const slot = this.#add(randomUUID(), workload);
    const from = performance.now();
    slot.become('making', { seed: true });
    const begun = await slot.exclusive(async () => {
      try {
        const arrival = await this.#parker.create(slot, this.#deps.stop);
        slot.container = arrival.container;
        await this.#learn(slot, arrival.container);
        const hash = slot.facts?.hash ?? '';
        if (this.#deps.inventory.fitting(hash, slot.workload) === undefined && !this.#deps.seeds.runs(hash))
          return await this.#starter.startSeed(slot, arrival.connection, from);
        await this.#parker.park(slot, arrival);
        return undefined;
      } catch (error) {
        this.#forget(slot);
        throw error;
      }
    });
    // That no snapshot could be made is told as the workload's phase.
    await begun?.made;
  }

  #described(name: string): WorkloadTruth {
    const workload = this.#deps.view().workloads?.get(name);
    if (workload !== undefined) return workload;
    throw new RekindleError('not_found', `this agent has not been told of the workload ${name}`, { retryable: true });
  }

  #add(uid: string, { name, revision, spec }: WorkloadTruth): PoolSlot {
    const slot = this.#newSlot({ uid, workload: { name, ...spec }, revision });
    this.#slots.set(uid, slot);
    this.#changed();
    return slot;
  }

  #newSlot(options: Pick<PoolSlot, 'uid' | 'workload' | 'revision'>): PoolSlot {
    const slot: PoolSlot = new PoolSlot({
      ...options,
      changed: () => this.#changed(),
      entered: () =>
        this.#deps.log.info({ slot: slot.uid, pool: slot.workload.name, state: slot.state, ...slot.told }, 'slot changed state'),
      broken: () => void this.#lookSoon(slot),
    });
    return slot;
  }

  /** A slot whose connection broke has been killed, or says hello again. Killed ones must not be asked to wake. */
  async #lookSoon(slot: PoolSlot): Promise<void> {
    try {
      await this.#deps.clock.sleep(REAPED_MS, this.#deps.stop);
      if (!slot.busy && this.#slots.get(slot.uid) === slot) await this.#look(slot);
    } catch (error) {
      this.#complain(slot, error);
    }
  }

  #adopted(container: Container): PoolSlot | undefined {
    const { uid, workload, pool } = container;
    if (pool === undefined) return undefined;
    const slot = this.#newSlot({ uid, workload, revision: pool.revision });
    slot.container = container;
    this.#slots.set(uid, slot);
    if (!isSlot(container.pid)) {
      if (existsSync(`/proc/${container.pid}`)) this.#starter.adoptCold(slot);
      return slot;
    }
    this.#adoptApplication(slot, container);
    return slot;
  }

  /** Until its slot says hello: what it looks like from outside. */
  #adoptApplication(slot: PoolSlot, { pid, pool }: Container): void {
    const application = childOf(pid);
    // Still parked, or being made.
    if (application === undefined) return slot.become('making');
    // It may have been stopped for a suspension that its agent did not live to see.
    resume(application);
    const { started } = pool ?? {};
    if (started?.how !== 'restore') return slot.become('restoring');
    const { ms, snapshot } = started;
    slot.become('live', { ready: true, start: { how: 'restore', ms }, ...(snapshot === undefined ? {} : { snapshot }) });
    this.#starter.goesOn(slot);
  }

  /** A slot that cannot be made as it was starts its application. */
  async #parkOrCold(slot: PoolSlot, arrival: Arrival): Promise<void> {
    try {
      await this.#parker.park(slot, arrival);
    } catch (error) {
      const { code, message: reason } = toRekindleError(error);
      await this.#starter.startCold(slot, arrival.connection, { why: 'failed', reason, code });
    }
  }

  async #learn(slot: PoolSlot, container: Container): Promise<void> {
    const facts = await this.#deps.specs.read(container);
    slot.facts = facts;
    if (facts.hash !== undefined) this.#deps.index.set(slot.workload.name, slot.revision, facts.hash);
  }

  #forget(slot: PoolSlot): void {
    if (this.#slots.get(slot.uid) !== slot) return;
    this.#slots.delete(slot.uid);
    this.#changed();
  }

  /**
   * Pods that could not wait for this agent: they have started cold, and say nothing. Those that are met twice: before a container runs its slot, its
   * process 1 is the runtime's.
   */
  async #adoptUnheard(): Promise<void> {
    const containers = await this.#deps.host.list();
    const unheard = containers.filter(({ uid, pid, pod, pool }) => pod && pool && !this.#slots.has(uid) && !isSlot(pid));
    for (const container of unheard) if (this.#unheard.has(container.pid)) this.#adopted(container);
    this.#unheard = new Set(unheard.map(({ pid }) => pid));
  }

  /** A slot that nobody is busy with, and that may have ended without a word. */
  async #look(slot: PoolSlot): Promise<void> {
    const { container, state } = slot;
    if (container === undefined || state === 'failed') return;
    // Its end failed: once more.
    if (state === 'ending') {
      slot.exclusive(() => this.#parker.drop(slot)).catch((err: unknown) => this.#complain(slot, err));
      return;
    }
    const there = (await this.#deps.host.find(slot.uid))?.pid === container.pid;
    if (slot.busy || slot.container !== container || slot.state !== state) return;
    if (!there) {
      slot.exclusive(() => this.#gone(slot, container)).catch((err: unknown) => this.#complain(slot, err));
      return;
    }
    // It was to be restored into by an agent that is gone, or it could not wait: it has started its own command.
    if (state !== 'cold' && !isSlot(container.pid)) return this.#starter.adoptCold(slot);
    if (state === 'making' && slot.ageMs > SILENT_MS)
      slot.exclusive(() => this.#parker.drop(slot)).catch((err: unknown) => this.#complain(slot, err));
  }

  async #gone(slot: PoolSlot, container: Container): Promise<void> {
    if (slot.container !== container) return;
    const { state } = slot;
    if (state === 'live' || state === 'cold' || state === 'restoring') return this.#parker.ended(slot, container, undefined);
    return slot.suspended === undefined ? this.#parker.drop(slot) : this.#parker.revive(slot, container);
  }

  #complain(slot: PoolSlot, err: unknown): void {
    if (!this.#deps.stop.aborted) this.#deps.log.warn({ err, slot: slot.uid, pool: slot.workload.name }, 'slot could not be looked after');
  }
}

const keyOf = (workload: string, revision: string): string => `${workload}@${revision}`;

function childOf(pid: number): number | undefined {
  try {
    return applicationOf(pid);
  } catch {
    return undefined;
  }
}
