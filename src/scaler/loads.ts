import type { Clock } from '../lib/clock.ts';
import type { Controller } from '../lib/loop.ts';
import type { PodTruth, SharedView, SlotTruth, View } from '../queue/truth.ts';
import { demandNow } from './state.ts';

/** What a workload has to do. `connections` is undefined while nobody can tell. */
export type Load = { readonly invocations: number; readonly connections: number | undefined };

/** What autoscalers may ask for, of a workload. */
export const METRICS = ['rekindle_invocations', 'rekindle_connections', 'rekindle_load'] as const;
export type Metric = (typeof METRICS)[number];

/** Requests in flight and waiting; connections of others to its pods; both. Undefined while nobody can tell. */
export function metricOf(metric: Metric, { invocations, connections }: Load): number | undefined {
  if (metric === 'rekindle_invocations') return invocations;
  if (metric === 'rekindle_connections' || connections === undefined) return connections;
  return invocations + connections;
}

/** What of a pod matters here. */
export type CountedPod = { readonly workload: string; readonly ready: boolean };

export type LoadsDeps = {
  readonly view: Pick<SharedView, 'view' | 'connected'>;
  /** By uid, as the API server has them; undefined before it answered. */
  readonly pods: () => ReadonlyMap<string, CountedPod> | undefined;
  /** Monotonic. */
  readonly clock: Clock;
};

type Told = { readonly workload: string; readonly connections: number; readonly atMs: number };

/** Everybody tells every second: so long after Redis came, all who are there have been heard. */
const SETTLE_MS = 2_500;
/** So long a pod counts as it did when its node was last heard: an agent that is being replaced must not look as if its clients had gone. */
const KEEP_MS = 300_000;
const LOOK_EVERY_MS = 500;

/** What all workloads have to do: requests at the gateways, and connections to pods. Every replica of the scaler knows it, leader or not. */
export class Loads implements Controller {
  readonly name = 'loads';
  readonly #deps: LoadsDeps;
  readonly #told = new Map<string, Told>();
  #connectedAtMs: number | undefined;

  constructor(deps: LoadsDeps) {
    this.#deps = deps;
  }

  /** Why nothing can be said now, in words: a wrong zero would end pods that are needed. */
  get whyUnknown(): string | undefined {
    if (!this.#deps.view.connected) return 'Redis does not answer';
    if (this.#deps.pods() === undefined) return 'the API server has not told the pods yet';
    const isSettled = this.#connectedAtMs !== undefined && this.#deps.clock.now() - this.#connectedAtMs >= SETTLE_MS;
    return isSettled ? undefined : 'gateways and agents are still being heard';
  }

  /** Takes note of what is told. To be called on changes of the view too. */
  async reconcile(): Promise<{ readonly requeueAfterMs: number }> {
    const { view, pods, clock } = this.#deps;
    const nowMs = clock.now();
    // Only the first time: what was heard is kept while Redis is away, and until everybody has told it anew.
    if (view.connected) this.#connectedAtMs ??= nowMs;
    const there = pods();
    for (const [uid, { atMs }] of this.#told) if (nowMs - atMs > KEEP_MS || there?.has(uid) === false) this.#told.delete(uid);
    for (const { uid, workload, state, connections, atMs } of toldPods(view.view)) {
      if (!SERVING.has(state)) this.#told.delete(uid);
      else if (connections !== undefined && there?.has(uid) !== false) this.#told.set(uid, { workload, connections, atMs });
    }
    return { requeueAfterMs: LOOK_EVERY_MS };
  }

  /** By workload: those that there are now. */
  all(): ReadonlyMap<string, Load> {
    const { view, pods, clock } = this.#deps;
    const demand = demandNow(view.view, clock.now());
    const connections = new Map<string, number>();
    for (const { workload, connections: more } of this.#told.values()) connections.set(workload, (connections.get(workload) ?? 0) + more);
    const parked = new Set(toldPods(view.view).flatMap(({ uid, state }) => (SERVING.has(state) ? [] : [uid])));
    const untold = new Set<string>();
    const names = new Set(view.view.workloads?.keys());
    for (const [uid, { workload, ready }] of pods() ?? []) {
      names.add(workload);
      if (ready && !this.#told.has(uid) && !parked.has(uid)) untold.add(workload);
    }
    const load = (name: string): Load => {
      const { inFlight = 0, waiting = 0 } = demand.get(name) ?? {};
      // Where some are told, those say something; where none is, zero would be a guess.
      return { invocations: inFlight + waiting, connections: connections.get(name) ?? (untold.has(name) ? undefined : 0) };
    };
    return new Map([...names].map((name) => [name, load(name)]));
  }
}

/** A pod that no agent has decided about may serve all the same: it started cold while none was there. */
const SERVING: ReadonlySet<PodTruth['state'] | SlotTruth['state']> = new Set(['live', 'cold', 'seed', 'waiting']);

type ToldPod = Pick<PodTruth | SlotTruth, 'uid' | 'workload' | 'state' | 'connections'> & { readonly atMs: number };

function toldPods({ nodes }: View): ToldPod[] {
  return [...nodes.values()].flatMap(({ said: { slots, pods = [] }, heardAtMs }) =>
    [...slots, ...pods].map(({ uid, workload, state, connections }) => ({
      uid,
      workload,
      state,
      atMs: heardAtMs,
      ...(connections === undefined ? {} : { connections }),
    })),
  );
}
