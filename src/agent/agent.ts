import type { Mount } from '../checkpoint/mountinfo.ts';
import { type ErrorCode, toRekindleError } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';
import { Tasks } from '../lib/tasks.ts';
import type { View } from '../queue/truth.ts';
import type { SlotConnection } from '../slots/slot-connection.ts';
import type { Snapshot } from '../snapshots/shelf.ts';
import type { Container } from '../workloads/host.ts';
import { coldReason, retentionOf } from '../workloads/normalise.ts';
import type { WorkloadSpec } from '../workloads/workload.ts';
import { startAgain } from './container-process.ts';
import { type Decision, decide, SEED_RUNS } from './decide.ts';
import { type AgentListener, type Cold, type InstanceState, WAS_SEED } from './events.ts';
import type { Inventory } from './inventory.ts';
import { Pool, type PoolDeps } from './pool.ts';
import { isFinishedByUs, Restorer, type RestorerDeps } from './restorer.ts';
import type { SeedDeps } from './seed.ts';
import { Seeds } from './seeds.ts';
import { SlotProof } from './slot-proof.ts';
import type { SlotSpec, SpecReader } from './spec-facts.ts';
import type { SpecIndex } from './spec-index.ts';
import { Trials } from './trials.ts';

export type AgentDeps = Omit<SeedDeps, 'restorer' | 'slotOf'> &
  RestorerDeps & {
    readonly log: Log;
    readonly specs: Pick<SpecReader, 'read'>;
    readonly listener: AgentListener;
    readonly index: SpecIndex;
    readonly inventory: Inventory;
    /** What the others say; without a service nobody says anything. */
    readonly view: () => View;
    /**
     * Whether the next seed of this kind may be made here: false while another node makes one. What it resolves with is disposed once the seed's checkpoint
     * has ended.
     */
    readonly claimSeed: (hash: string) => Promise<AsyncDisposable | undefined>;
    /** Shuts the gate of a pod that waits again, see `PodFacts.held`: whether nobody is sent to it any more. */
    readonly holdBack?: ((container: Container, signal: AbortSignal) => Promise<boolean>) | undefined;
  } & Pick<PoolDeps, 'bring'>;

const FIRST_LOOK_FOR_GONE_AT = 256;
/** Why one that was expected to be restored is not made into a snapshot, though none fits it. */
const NOT_HELD = 'no snapshot fits it, though one was expected to, and it may serve already: the next of its kind is made into one';
const NO_FIT = 'a snapshot does not fit this machine: another is made';
/** A start is worth so much waiting for a snapshot of another node. */
const BRING_WITHIN_MS = 5_000;
const MAY_COME_BACK_MS = 1_000;
const NEWS_MS = 5_000;
const ASK_EVERY_MS = 50;
/** From here on a status is that of a signal, as shells and container runtimes count them. */
const KILLED_BY_SIGNAL = 128;

type Seed = { readonly do: 'seed'; readonly hash: string; readonly mounts: SlotSpec['mounts']; readonly held: Disposable };
type Decided = Exclude<Decision<Snapshot>, { do: 'seed' }> | Seed;

/**
 * The role that every machine has: hears the slots of its containers, makes snapshots of those that start cold first, and restores into the
 * others. Whatever goes wrong here, the slot is told `cold` and the reason is an event.
 */
export class Agent implements AsyncDisposable {
  readonly #deps: AgentDeps;
  readonly #restorer: Restorer;
  readonly #stop = new AbortController();
  readonly #running = new Tasks();
  readonly #proof: SlotProof;
  readonly #seeds: Seeds;
  readonly trials = new Trials();
  /** Slots and instances of the service. */
  readonly pool: Pool;
  /** Starts of containers that were decided about. Whatever says hello there again has run something else meanwhile: it is no slot to restore into. */
  readonly #decided = new Map<string, number>();
  /** Spec hashes of the containers that were decided about. */
  readonly #kinds = new Map<string, { readonly workload: string; readonly hash: string }>();
  /** The connections of live instances. */
  readonly #followed = new Map<string, SlotConnection>();
  /** A container that started cold does not say when it goes: at this size those that have gone are looked for. */
  #lookForGoneAt = FIRST_LOOK_FOR_GONE_AT;
  /** Why a container was started over. */
  readonly #startedOver = new Map<string, Cold>();

  constructor(deps: AgentDeps) {
    this.#deps = deps;
    this.#restorer = new Restorer(deps);
    this.#proof = new SlotProof(deps);
    this.#seeds = new Seeds({
      ...deps,
      restorer: this.#restorer,
      slotOf: this.trials.slotOf,
      live: (workload) => this.#liveSpecs(workload),
    });
    this.pool = new Pool({
      ...deps,
      restorer: this.#restorer,
      seeds: this.#seeds,
      say: (container, state) => this.#say(container, state),
      stop: this.#stop.signal,
    });
  }

  /** Why there are no snapshots of a kind. */
  get seeds(): Pick<Seeds, 'refusal'> {
    return this.#seeds;
  }

  /** A snapshot has come here from another node. Never throws. */
  async received({ manifest }: Snapshot): Promise<void> {
    const described = this.#deps.view().workloads?.get(manifest.workload);
    if (described !== undefined) await this.#seeds.prune({ name: described.name, ...described.spec }, manifest.specHash);
  }

  /**
   * The snapshot from which a container that is still to be made will be restored, as far as that can be told from its description; undefined where there is
   * none, or where more than the application itself decides when it is ready.
   */
  expects({ workload, revision }: { readonly workload: WorkloadSpec; readonly revision: string }): string | undefined {
    const { index, inventory, store, view } = this.#deps;
    const hash = index.get(workload.name, revision);
    if (hash === undefined || coldReason(workload) !== undefined || this.#seeds.refusal(hash) !== undefined) return undefined;
    // The policy's own check (a command: a pod's probe is described as what it is) may ask for more than the pod's probe does.
    if (isFinishedByUs(workload) || typeof workload.container.readiness === 'string') return undefined;
    const here = inventory.fitting(hash, workload);
    // Its trial is not to serve.
    if (workload.checkpoint.verify === 'first-restore') return here !== undefined && store.isProven(here) ? here : undefined;
    return here ?? inventory.elsewhere(hash, workload, view().nodes);
  }

  /** For `SlotServer`: takes every connection from its hello on. */
  readonly onConnection = (connection: SlotConnection): void => {
    const heardAt = performance.now();
    const work = this.#hear(connection, heardAt).catch((error: unknown) => {
      // Closing is a decision too: an undecided slot starts cold, a live one comes back.
      connection.close();
      if (!this.#stop.signal.aborted) this.#deps.log.warn({ err: error, slot: connection.hello.uid }, 'slot could not be served');
    });
    void this.#running.add(work);
  };

  /** Stops deciding and waits for what runs: restores finish (their helpers would anyway), snapshots in the making are dropped. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#running.settled();
  }

  async #hear(connection: SlotConnection, heardAt: number): Promise<void> {
    const { uid, state } = connection.hello;
    // The news of its pod may take longer than a slot waits for a sign of its agent.
    if (state === 'undecided') {
      connection.wait();
      this.#deps.tools.helpers.expect();
    }
    // While it answers, its container is looked for, and what will be decided by is read: a restore waits for all of that.
    const asked = this.#proof.ask(connection, this.#stop.signal);
    const container = (await this.#deps.host.find(uid)) ?? (state === 'undecided' ? await this.#newsOf(connection) : undefined);
    if (container === undefined) {
      if (state === 'undecided') this.#deps.log.warn({ slot: uid }, 'nobody knows the container of a slot: it starts cold');
      return connection.close();
    }
    const isNew = state === 'undecided' && container.addresses.length > 0 && container.pool === undefined && container.restarts === 0;
    const [isSlot, spec] = await Promise.all([
      this.#proof.isSlotOf(container, asked),
      // What fails here fails again where it has a reason.
      isNew ? this.#deps.specs.read(container).catch(() => undefined) : undefined,
    ]);
    if (!isSlot) return connection.close();
    // Only containers of a trial have no address.
    if (container.addresses.length === 0) return this.trials.arrived(uid, connection);
    if (container.pool !== undefined) return this.pool.heard(container, connection);
    if (state !== 'undecided') {
      this.#follow(container, connection);
      if (state === 'live') this.#say(container, { at: 'back' });
      return;
    }
    const over = this.#startedOver.get(uid);
    this.#startedOver.delete(uid);
    if (over !== undefined && container.restarts > 0) return this.#cold(container, connection, over);
    if (this.#decided.get(uid) === container.restarts) {
      return this.#cold(container, connection, { why: 'restarted', reason: 'this start was decided about before' });
    }
    this.#decided.set(uid, container.restarts);
    if (this.#decided.size >= this.#lookForGoneAt) this.#forgetGone();
    const decided = await this.#decide(container, spec).catch((error: unknown) => {
      if (this.#stop.signal.aborted) throw error;
      const { code, message } = toRekindleError(error);
      this.#cold(container, connection, { why: 'failed', reason: `it could not be decided how it starts: ${message}`, code });
    });
    if (decided === undefined) return;
    if (decided.do === 'cold') return this.#cold(container, connection, { why: decided.why, reason: decided.reason });
    if (decided.do === 'restore') return this.#restore(container, connection, decided.snapshot, heardAt);
    if (decided.do === 'pull') return this.#pull(container, connection, decided.digest, heardAt);
    const { hash, mounts } = decided;
    using _held = decided.held;
    const claim = await this.#deps.claimSeed(hash);
    if (claim === undefined) return this.#cold(container, connection, { why: 'no_snapshot', reason: SEED_RUNS });
    await using _claim = claim;
    await this.#seed(container, connection, hash, mounts);
    // Others must know of the snapshot before they may make another.
    await this.pool.reconcile();
  }

  /** On a busy node a slot says hello before the API server has told of its pod, or the runtime that its container runs: rather late than cold. */
  async #newsOf(connection: SlotConnection): Promise<Container | undefined> {
    const { clock, host } = this.#deps;
    const { uid } = connection.hello;
    for (const until = clock.now() + NEWS_MS; clock.now() < until && !connection.socket.destroyed; ) {
      await clock.sleep(ASK_EVERY_MS, this.#stop.signal);
      const container = await host.find(uid);
      if (container !== undefined) return container;
    }
    return undefined;
  }

  /** Of a seed: until `held` is disposed no other is decided for. */
  async #decide(container: Container, spec: SlotSpec | undefined): Promise<Decided> {
    const { store, machine, index, inventory, view } = this.#deps;
    const { uid, workload, pod, restarts } = container;
    const { mounts, hash, unreadable } = spec ?? (await this.#deps.specs.read(container));
    if (unreadable !== undefined) return { do: 'cold', why: 'refused', reason: unreadable };
    this.#kinds.set(uid, { workload: workload.name, hash });
    // By which is told whether there is a snapshot for what its owner makes now.
    if (pod !== undefined && restarts === 0) index.set(workload.name, pod.revision, hash);
    const snapshot = await store.find(hash, machine, retentionOf(workload).maxAgeMs);
    const refusal = snapshot === undefined ? (this.#seeds.refusal(hash) ?? (await this.#seeds.quarantined(hash))) : undefined;
    const elsewhere = snapshot === undefined ? inventory.elsewhere(hash, workload, view().nodes) : undefined;
    const decision = decide({ workload, restarts, snapshot, elsewhere, refusal, seedRuns: this.#seeds.runs(hash) });
    if (decision.do !== 'seed') return decision;
    // At once: another of its kind may be waiting for the same decision.
    const held = this.#seeds.hold(hash);
    // What it is asked before it is dumped would be in the memory of every clone.
    if (pod?.held !== false || (await this.#deps.holdBack?.(container, this.#stop.signal))) return { do: 'seed', hash, mounts, held };
    held[Symbol.dispose]();
    return { do: 'cold', why: 'no_snapshot', reason: NOT_HELD };
  }

  /** Restores when the snapshot has come, if that is soon enough. */
  async #pull(container: Container, connection: SlotConnection, digest: string, heardAt: number): Promise<void> {
    connection.wait();
    let snapshot: Snapshot;
    try {
      await this.#deps.bring(digest, BRING_WITHIN_MS, this.#stop.signal);
      snapshot = await this.#deps.store.get(digest);
    } catch (error) {
      const { code, message } = toRekindleError(error);
      return this.#cold(container, connection, { why: 'failed', reason: `its snapshot could not be brought here: ${message}`, code });
    }
    return this.#restore(container, connection, snapshot, heardAt);
  }

  async #restore(container: Container, connection: SlotConnection, found: Snapshot, heardAt: number): Promise<void> {
    const since = () => performance.now() - heardAt;
    const { signal } = this.#stop;
    let decidedMs: number | undefined;
    let restoredMs: number | undefined;
    let saying: NodeJS.Immediate | undefined;
    try {
      using _pin = this.#deps.store.pin(found.digest);
      const snapshot = await this.#deps.store.checkCheap(found.digest, signal);
      const begin = () => {
        decidedMs = since();
        // Once it is under way: what is done with the news takes time too.
        saying = setImmediate(() => this.#say(container, { at: 'restoring', snapshot: found.digest }));
      };
      const restored = await this.#restorer.restore(container, connection, snapshot, signal, begin);
      restoredMs = since();
      this.#follow(container, connection);
      await this.#restorer.enliven(container, connection, signal);
      const timing = { decidedMs: decidedMs ?? 0, filesMs: restored.filesMs, criuMs: restored.criuMs, restoredMs, readyMs: since() };
      this.#say(container, { at: 'live', snapshot: found.digest, timing });
      await this.#seeds.restored(found.digest, container.workload);
    } catch (error) {
      clearImmediate(saying);
      const { code, message } = toRekindleError(error);
      const cold: Cold = { why: 'failed', reason: `the restore failed: ${message}`, code };
      if (restoredMs === undefined) this.#cold(container, connection, cold);
      // The agent ends: what runs goes on, and nobody failed.
      if (signal.aborted) return;
      if (decidedMs !== undefined) await this.#seeds.failed(found.digest, container, cold);
      if (restoredMs !== undefined) await this.#startOver(container, cold);
    }
  }

  /** The application runs but is of no use, so its container is started again, and that is cold. */
  async #startOver(container: Container, cold: Cold): Promise<void> {
    this.#startedOver.set(container.uid, cold);
    await startAgain(this.#deps.host, container, this.#stop.signal);
  }

  async #seed(container: Container, connection: SlotConnection, hash: string, mounts: readonly Mount[]): Promise<void> {
    connection.cold();
    const misfit = await this.#deps.store.misfit(hash, this.#deps.machine);
    if (misfit !== undefined) this.#deps.log.info({ slot: container.uid, workload: container.workload.name, reason: misfit }, NO_FIT);
    const outcome = await this.#seeds.make(
      { container, hash, mounts },
      (step) => this.#say(container, { at: 'seed', step }),
      this.#stop.signal,
    );
    // A dump that takes too long is ended, too.
    const mayKill = outcome !== undefined && 'code' in outcome && (outcome.code === 'dump_failed' || outcome.code === 'timeout');
    const over = mayKill && (await this.#startOverIfKilled(container, outcome.reason, outcome.code));
    // One that was started over says so itself.
    if (over) return;
    const reason = misfit === undefined ? WAS_SEED : `${WAS_SEED} here: ${misfit}`;
    // Whoever looks at a pod hears only of it what its node's agent knows.
    const failed = container.pod !== undefined && outcome !== undefined && 'code' in outcome ? outcome : undefined;
    if (failed === undefined) this.#say(container, { at: 'cold', why: 'seed', reason });
    else
      this.#say(container, {
        at: 'cold',
        why: 'seed',
        reason: `${reason}, but no snapshot could be made: ${failed.reason}`,
        code: failed.code,
      });
  }

  /** A criu that is killed in the middle of a dump can take the application with it; one that ended by itself is left alone. */
  async #startOverIfKilled(container: Container, reason: string, code: ErrorCode): Promise<boolean> {
    if ((await this.#deps.host.find(container.uid)) !== undefined) return false;
    const status = await this.#deps.host.wait(container, this.#stop.signal);
    if (status < KILLED_BY_SIGNAL) return false;
    await this.#startOver(container, { why: 'restarted', reason: `the checkpoint failed and ended the application: ${reason}`, code });
    return true;
  }

  /** A live instance: hears its end, also that of one that was killed with its slot. */
  #follow(container: Container, connection: SlotConnection): void {
    const { uid } = container;
    this.#followed.set(uid, connection);
    void connection.ended.then(async (status) => {
      // A slot whose connection broke comes back; one that was killed closes its connection a moment before it has ended.
      if (status === undefined) await this.#deps.clock.sleep(MAY_COME_BACK_MS, this.#stop.signal).catch(() => undefined);
      if (this.#stop.signal.aborted || this.#followed.get(uid) !== connection) return;
      if (status === undefined && (await this.#deps.host.find(uid)) !== undefined) return;
      this.#followed.delete(uid);
      this.#forget(uid);
      this.#say(container, { at: 'ended', status });
    });
  }

  /** No slot waits for this: a host can take a moment over each that is gone. */
  #forgetGone(): void {
    const { host, log } = this.#deps;
    this.#lookForGoneAt = Number.POSITIVE_INFINITY;
    const look = async (uid: string) => {
      if ((await host.find(uid)) === undefined) this.#forget(uid);
    };
    void Promise.all([...this.#decided.keys()].map(look))
      .catch((err: unknown) => log.warn({ err }, 'containers that are gone could not be looked for'))
      .finally(() => {
        this.#lookForGoneAt = Math.max(FIRST_LOOK_FOR_GONE_AT, 2 * this.#decided.size);
      });
  }

  #forget(uid: string): void {
    this.#decided.delete(uid);
    this.#kinds.delete(uid);
  }

  /** What this workload's containers here are of, and, in a service, what it is described as now. */
  async #liveSpecs(workload: string): Promise<ReadonlySet<string>> {
    const { host, index, view } = this.#deps;
    const own = [...this.#kinds].filter(([, kind]) => kind.workload === workload);
    const hashes = own.map(async ([uid, { hash }]) => ((await host.find(uid)) === undefined ? [] : [hash]));
    const live = new Set((await Promise.all(hashes)).flat());
    const described = view().workloads?.get(workload);
    const hash = described === undefined ? undefined : index.get(workload, described.revision);
    if (hash !== undefined) live.add(hash);
    return live;
  }

  #cold(container: Container, connection: SlotConnection, cold: Cold): void {
    connection.cold();
    this.#say(container, { at: 'cold', ...cold });
  }

  #say(container: Container, state: InstanceState): void {
    this.#deps.listener({ type: 'instance', uid: container.uid, name: container.name, workload: container.workload.name, state });
    // Slots of pools have more states, and their own lines.
    if (state.at !== 'seed' && container.pool === undefined)
      this.#deps.log.info({ slot: container.uid, workload: container.workload.name, ...state }, 'instance changed state');
  }
}
