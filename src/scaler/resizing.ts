import type { Cluster, Followed } from '../cluster/cluster.ts';
import { EVENTS, LIMIT_RANGES, type LimitRange } from '../cluster/kinds.ts';
import { OLDEST_RESIZE_MINOR, type Resize, resize, resizeOf, resizeStateOf } from '../cluster/resize.ts';
import type { Clock } from '../lib/clock.ts';
import type { Log } from '../lib/log.ts';
import type { Controller } from '../lib/loop.ts';
import type { SharedView, SlotTruth } from '../queue/truth.ts';
import type { ClusterPods, OptedPod, Pod } from './cluster-pods.ts';
import { lifeOf } from './state.ts';

export type ResizingDeps = {
  readonly cluster: Pick<Cluster, 'minorVersion' | 'patch' | 'create' | 'follow'>;
  readonly pods: Pick<ClusterPods, 'byUid' | 'connected'>;
  readonly view: Pick<SharedView, 'view' | 'connected'>;
  readonly leader: { readonly leads: boolean };
  readonly log: Log;
  /** Monotonic. */
  readonly clock: Clock;
};

/** A change that was asked for: until the pod shows it, it is not asked for again. */
type Asked = { readonly requests: string; readonly untilMs: number };

const LOOK_EVERY_MS = 1_000;
/** Changes at the same time. */
const AT_ONCE = 8;
/** The API server has accepted a change: so long it may take until that is heard. */
const HEARD_WITHIN_MS = 3_000;
const FORBIDDEN_MS = 30_000;
/** Another pod may be parking to make room: so long a deferred change is waited for. */
const DEFERRED_MS = 2_000;
/** So long a node that had no room counts as full. */
const FULL_MS = 10_000;

/**
 * Keeps the requests of on-demand pods: their own while they have an application, next to none while they are parked. Follows what agents tell of their
 * slots, so a change goes in parallel with the restore. Where a node has no room, or somebody forbids it, the pod goes on with what it had while parked, and
 * the node counts as full for a while. Only the leader does so.
 */
export class Resizing implements Controller {
  readonly name = 'resizing';
  readonly #deps: ResizingDeps;
  readonly #ranges: Followed<LimitRange>;
  readonly #asked = new Map<string, Asked>();
  readonly #deferred = new Map<string, number>();
  /** Lives of slots that go on with what they had while parked. */
  readonly #without = new Map<string, string>();
  readonly #full = new Map<string, number>();
  readonly #complained = new Set<string>();
  #canResize: boolean | undefined;

  /** Follows the LimitRanges until the signal aborts. */
  constructor(deps: ResizingDeps, signal: AbortSignal) {
    this.#deps = deps;
    this.#ranges = deps.cluster.follow(LIMIT_RANGES, {}, () => undefined, signal);
  }

  /** Nodes that had no room for what a pod asked for a moment ago. */
  get full(): ReadonlySet<string> {
    const now = this.#deps.clock.now();
    return new Set([...this.#full].flatMap(([node, untilMs]) => (now < untilMs ? [node] : [])));
  }

  async reconcile(signal: AbortSignal): Promise<{ readonly requeueAfterMs: number }> {
    const { leader, view, pods, cluster } = this.#deps;
    const onDemand = [...pods.byUid.values()].filter(({ mode }) => mode === 'on-demand');
    if (!leader.leads || !view.connected || !pods.connected || !this.#ranges.connected || onDemand.length === 0)
      return { requeueAfterMs: LOOK_EVERY_MS };
    this.#canResize ??= (await cluster.minorVersion(signal)) >= OLDEST_RESIZE_MINOR;
    if (!this.#canResize) return { requeueAfterMs: Number.POSITIVE_INFINITY };
    this.#forget(pods.byUid);
    const slots = new Map([...view.view.nodes.values()].flatMap(({ said }) => said.slots.map((slot) => [slot.uid, slot] as const)));
    const due = onDemand.flatMap((one) => {
      const slot = slots.get(one.uid);
      return slot === undefined ? [] : [{ one, slot, isUrgent: wantedOf(slot) === 'declared' }];
    });
    // Somebody waits for those that wake.
    due.sort((a, b) => Number(b.isUrgent) - Number(a.isUrgent));
    while (due.length > 0) await Promise.all(due.splice(0, AT_ONCE).map(({ one, slot }) => this.#look(one, slot, signal)));
    return { requeueAfterMs: LOOK_EVERY_MS };
  }

  async #look({ uid, pod }: OptedPod, slot: SlotTruth, signal: AbortSignal): Promise<void> {
    const wanted = wantedOf(slot);
    if (wanted === undefined || pod.metadata?.deletionTimestamp !== undefined) return;
    if (wanted === 'declared') this.#heed(pod, slot);
    const goesWithout = wanted === 'declared' && this.#without.get(uid) === lifeOf(slot);
    const namespace = pod.metadata?.namespace;
    const ranges = this.#ranges.items().filter(({ metadata }) => metadata?.namespace === namespace);
    const decided = resizeOf(pod, goesWithout ? 'parked' : wanted, ranges);
    if (decided.do === 'never') return this.#complain(pod, decided.why, signal);
    if (decided.do === 'change' && this.#isDue(uid, decided)) await this.#change(pod, slot, decided, goesWithout, signal);
  }

  async #change(
    pod: Pod,
    slot: SlotTruth,
    change: Extract<Resize, { do: 'change' }>,
    goesWithout: boolean,
    signal: AbortSignal,
  ): Promise<void> {
    const { cluster, log, clock } = this.#deps;
    const about = { workload: slot.workload, slot: slot.uid, pod: pod.metadata?.name, requests: change.requests };
    const requests = JSON.stringify(change.requests);
    this.#asked.set(slot.uid, { requests, untilMs: clock.now() + HEARD_WITHIN_MS });
    try {
      const forbidden = await resize(cluster, pod, change, signal);
      if (forbidden === undefined) return log.info(about, 'requests changed');
      log.warn({ ...about, problem: forbidden }, 'requests may not be changed');
      this.#asked.set(slot.uid, { requests, untilMs: clock.now() + FORBIDDEN_MS });
      if (wantedOf(slot) === 'declared' && !goesWithout) this.#goWithout(pod, slot);
    } catch (err) {
      this.#asked.delete(slot.uid);
      log.warn({ ...about, err }, 'requests could not be changed, tried again');
    }
  }

  /** What the kubelet says of the declared requests that a woken pod was given. */
  #heed(pod: Pod, slot: SlotTruth): void {
    const { clock, log } = this.#deps;
    const state = resizeStateOf(pod);
    if (state !== 'deferred') this.#deferred.delete(slot.uid);
    if (state !== 'deferred' && state !== 'infeasible') return;
    if (this.#without.get(slot.uid) === lifeOf(slot)) return;
    const sinceMs = this.#deferred.get(slot.uid) ?? clock.now();
    this.#deferred.set(slot.uid, sinceMs);
    if (state === 'deferred' && clock.now() - sinceMs < DEFERRED_MS) return;
    log.warn({ workload: slot.workload, slot: slot.uid, node: pod.spec?.nodeName, state }, 'node has no room for what the pod asks for');
    this.#goWithout(pod, slot);
  }

  #goWithout(pod: Pod, slot: SlotTruth): void {
    this.#without.set(slot.uid, lifeOf(slot));
    this.#deferred.delete(slot.uid);
    const node = pod.spec?.nodeName;
    if (node !== undefined) this.#full.set(node, this.#deps.clock.now() + FULL_MS);
  }

  #isDue(uid: string, { requests }: Extract<Resize, { do: 'change' }>): boolean {
    const asked = this.#asked.get(uid);
    return asked === undefined || asked.requests !== JSON.stringify(requests) || this.#deps.clock.now() >= asked.untilMs;
  }

  /** Once per pod. */
  async #complain({ metadata }: Pod, why: string, signal: AbortSignal): Promise<void> {
    const { uid = '', name = '', namespace = '' } = metadata ?? {};
    if (this.#complained.has(uid)) return;
    this.#complained.add(uid);
    const now = new Date();
    const event = {
      metadata: { generateName: `${name.slice(0, 200)}.`, namespace },
      involvedObject: { apiVersion: 'v1', kind: 'Pod', name, namespace, uid },
      reason: 'NotMadeSmaller',
      message: `parked, it keeps its requests: ${why}`,
      type: 'Warning',
      source: { component: 'rekindle' },
      firstTimestamp: now,
      lastTimestamp: now,
      count: 1,
    };
    // It only explains.
    await this.#deps.cluster.create(EVENTS, event, signal).catch((err: unknown) => {
      signal.throwIfAborted();
      this.#deps.log.warn({ err, pod: name }, 'event could not be written');
    });
  }

  #forget(there: ReadonlyMap<string, OptedPod>): void {
    for (const known of [this.#asked, this.#deferred, this.#without])
      for (const uid of known.keys()) if (!there.has(uid)) known.delete(uid);
    for (const uid of this.#complained) if (!there.has(uid)) this.#complained.delete(uid);
    for (const [node, untilMs] of this.#full) if (this.#deps.clock.now() >= untilMs) this.#full.delete(node);
  }
}

/** Undefined where there is no telling yet. */
function wantedOf({ state }: SlotTruth): 'declared' | 'parked' | undefined {
  switch (state) {
    case 'parked':
    case 'suspended':
      return 'parked';
    case 'restoring':
    case 'live':
    case 'cold':
    case 'ending':
      return 'declared';
    case 'making':
    case 'failed':
      return undefined;
  }
}
