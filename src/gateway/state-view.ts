import type { NodeTruth, PhaseTruth, PodTruth, Seen, SlotTruth, View } from '../queue/truth.ts';
import { keyOf } from './instances.ts';
import type { ProblemNote } from './problems.ts';
import type { ApiConnection, ApiNode, ApiPod, ApiPool, ApiSlot, ApiSnapshot } from './schemas.ts';

/** What this gateway has to do with a workload, which it knows better than what it last told. */
export type OwnDemand = { readonly inFlight: number; readonly waiting: number };

export type StateInput = {
  readonly view: View;
  readonly connected: boolean;
  /** Of this process' monotonic clock. */
  readonly nowMs: number;
  /** This gateway's id: what it told itself is not counted beside `own`. */
  readonly gateway: string;
  readonly own: (workload: string) => OwnDemand;
  /** Requests of this gateway that a slot works on, by `keyOf`. */
  readonly ownInFlight: (key: string) => number;
};

/** What the shared view says, as the API tells it. Pools, nodes and snapshots are in order of name, snapshots newest first. */
export type ApiView = ApiConnection & { readonly pools: ApiPool[]; readonly nodes: ApiNode[]; readonly snapshots: ApiSnapshot[] };

export function apiView(input: StateInput): ApiView {
  const { view, connected } = input;
  const nodes = [...view.nodes.values()].sort((a, b) => (a.said.name < b.said.name ? -1 : 1));
  const scaler = view.scaler?.said.id;
  return {
    pools: poolsOf(input, nodes),
    nodes: nodes.map(({ said }) => nodeOf(said)),
    snapshots: snapshotsOf(nodes),
    connected,
    ...(scaler === undefined ? {} : { scaler }),
  };
}

function poolsOf(input: StateInput, nodes: readonly Seen<NodeTruth>[]): ApiPool[] {
  const { view } = input;
  const draining = new Set(view.scaler?.said.draining);
  const inFlight = new Map<string, number>();
  const elsewhere = new Map<string, { inFlight: number; waiting: number }>();
  for (const { said } of view.gateways.values()) {
    if (said.id === input.gateway) continue;
    for (const one of said.instances) inFlight.set(keyOf(one), (inFlight.get(keyOf(one)) ?? 0) + one.inFlight);
    for (const { workload, ...told } of said.demand) {
      const sum = elsewhere.get(workload) ?? { inFlight: 0, waiting: 0 };
      elsewhere.set(workload, { inFlight: sum.inFlight + told.inFlight, waiting: sum.waiting + told.waiting });
    }
  }
  const slots = new Map<string, ApiSlot[]>();
  const pods = new Map<string, ApiPod[]>();
  const phases = new Map<string, PhaseTruth[]>();
  for (const { said, heardAtMs } of nodes) {
    for (const slot of said.slots) {
      const count = input.ownInFlight(keyOf(slot)) + (inFlight.get(keyOf(slot)) ?? 0);
      const shown = slotOf(slot, said.name, slot.ageMs + Math.max(0, input.nowMs - heardAtMs), count, draining.has(slot.uid));
      const list = slots.get(slot.workload);
      if (list === undefined) slots.set(slot.workload, [shown]);
      else list.push(shown);
    }
    for (const pod of said.pods ?? []) {
      const shown = podOf(pod, said.name, pod.ageMs + Math.max(0, input.nowMs - heardAtMs));
      pods.set(pod.workload, [...(pods.get(pod.workload) ?? []), shown]);
    }
    for (const phase of said.phases) phases.set(phase.workload, [...(phases.get(phase.workload) ?? []), phase]);
  }
  // Slots of a workload that was taken away are shown until they are gone.
  const names = [...new Set([...(view.workloads?.keys() ?? []), ...slots.keys(), ...pods.keys()])].sort();
  return names.map((workload) => {
    const { mode, spec: { pool } = {} } = view.workloads?.get(workload) ?? {};
    const ofKubernetes = pods.get(workload);
    const own = input.own(workload);
    const others = elsewhere.get(workload);
    return {
      workload,
      desired: view.scaler?.said.desired[workload] ?? 0,
      burst: view.scaler?.said.bursts.includes(workload) ?? false,
      min: pool?.min ?? 0,
      max: pool?.max ?? 0,
      parked: pool?.parked ?? 0,
      inFlight: own.inFlight + (others?.inFlight ?? 0),
      waiting: own.waiting + (others?.waiting ?? 0),
      ...bestPhase(phases.get(workload) ?? []),
      slots: slots.get(workload) ?? [],
      ...(mode === undefined ? {} : { mode }),
      ...(ofKubernetes === undefined ? {} : { pods: ofKubernetes }),
    };
  });
}

function slotOf(slot: SlotTruth, node: string, ageMs: number, inFlight: number, draining: boolean): ApiSlot {
  const { uid, name, state, ready, seed, start, error } = slot;
  return {
    uid,
    name,
    node,
    state,
    ageMs: Math.round(ageMs),
    ready,
    seed,
    draining,
    inFlight,
    ...(start === undefined ? {} : { start }),
    ...(error === undefined ? {} : { error }),
  };
}

function podOf({ uid, name, state, ready, start, connections }: PodTruth, node: string, ageMs: number): ApiPod {
  return {
    ...{ uid, name, node, state, ageMs: Math.round(ageMs), ready },
    ...(start === undefined ? {} : { start }),
    ...(connections === undefined ? {} : { connections }),
  };
}

const RANK = { ready: 3, warming: 2, refused: 1, none: 0 } as const;

function bestPhase(phases: readonly PhaseTruth[]): Pick<ApiPool, 'phase' | 'digest' | 'reason'> {
  let best: PhaseTruth | undefined;
  for (const one of phases) if (best === undefined || RANK[one.at] > RANK[best.at]) best = one;
  if (best === undefined) return { phase: 'none' };
  return {
    phase: best.at,
    ...(best.digest === undefined ? {} : { digest: best.digest }),
    ...(best.at === 'refused' && best.reason !== undefined ? { reason: best.reason } : {}),
  };
}

function nodeOf(said: NodeTruth): ApiNode {
  const { name, machineClass, cores, slots, memoryBytes, snapshots, pulling, leaving, pods } = said;
  const isInstance = ({ state }: SlotTruth | PodTruth) => ['restoring', 'live', 'cold', 'ending', 'seed'].includes(state);
  const instances = [...slots, ...(pods ?? [])].filter(isInstance).length;
  return {
    name,
    machineClass,
    cores,
    slots: slots.length,
    instances,
    memoryBytes,
    snapshots: snapshots.length,
    pulling: pulling.length,
    leaving,
    ...(pods === undefined ? {} : { pods: pods.length }),
  };
}

/** One per digest; of what nodes say differently, what is worse: not verified somewhere, quarantined somewhere. */
function snapshotsOf(nodes: readonly Seen<NodeTruth>[]): ApiSnapshot[] {
  const byDigest = new Map<string, ApiSnapshot>();
  for (const { said } of nodes) {
    for (const one of said.snapshots) {
      const known = byDigest.get(one.digest);
      if (known === undefined) byDigest.set(one.digest, { ...one, nodes: [said.name] });
      else byDigest.set(one.digest, { ...worse(known, one), nodes: [...known.nodes, said.name] });
    }
  }
  return [...byDigest.values()].sort((a, b) => b.createdAtMs - a.createdAtMs || (a.digest < b.digest ? -1 : 1));
}

function worse(known: ApiSnapshot, { verifiedAtMs, quarantined }: NodeTruth['snapshots'][number]): ApiSnapshot {
  const { verifiedAtMs: before, ...rest } = known;
  return {
    ...rest,
    ...(before === undefined || verifiedAtMs === undefined ? {} : { verifiedAtMs: Math.min(before, verifiedAtMs) }),
    ...(known.quarantined === undefined && quarantined !== undefined ? { quarantined } : {}),
  };
}

/** One event of `/events`. */
export type ApiEvent =
  | { readonly event: 'pool'; readonly data: ApiPool }
  | { readonly event: 'gone'; readonly data: string }
  | { readonly event: 'nodes'; readonly data: ApiNode[] }
  | { readonly event: 'snapshots'; readonly data: ApiSnapshot[] }
  | { readonly event: 'connected'; readonly data: ApiConnection };

/** What of a state has been told, as texts to compare: ages grow all the time and are no change. */
export type Told = {
  readonly pools: ReadonlyMap<string, string>;
  readonly nodes: string;
  readonly snapshots: string;
  readonly connected: string;
};

/** What has changed since `told`, and what has been told then. */
export function changes(told: Told | undefined, now: ApiView): { readonly told: Told; readonly events: ApiEvent[] } {
  const { pools, nodes, snapshots, ...connection } = now;
  const next = {
    pools: new Map(pools.map((pool) => [pool.workload, withoutAges(pool)])),
    nodes: JSON.stringify(nodes),
    snapshots: JSON.stringify(snapshots),
    connected: JSON.stringify(connection),
  };
  const events: ApiEvent[] = [];
  if (next.connected !== told?.connected) events.push({ event: 'connected', data: connection });
  for (const pool of pools)
    if (next.pools.get(pool.workload) !== told?.pools.get(pool.workload)) events.push({ event: 'pool', data: pool });
  for (const name of told?.pools.keys() ?? []) if (!next.pools.has(name)) events.push({ event: 'gone', data: name });
  if (next.nodes !== told?.nodes) events.push({ event: 'nodes', data: nodes });
  if (next.snapshots !== told?.snapshots) events.push({ event: 'snapshots', data: snapshots });
  return { told: next, events };
}

function withoutAges(pool: ApiPool): string {
  const ageless = <T>(ones: readonly T[] | undefined) => ones?.map((one) => ({ ...one, ageMs: 0 }));
  return JSON.stringify({ ...pool, slots: ageless(pool.slots), pods: ageless(pool.pods) });
}

/** Everything that is wrong according to the view, as sentences. The same wrong thing has the same sentence as long as it lasts. */
export function problemsIn(view: View): ProblemNote[] {
  const notes: ProblemNote[] = [];
  for (const { said } of view.nodes.values()) {
    const node = said.name;
    for (const { workload, name, error, start } of said.slots) {
      if (error !== undefined) notes.push({ workload, node, text: `slot ${name} failed: ${error}` });
      if (start?.how === 'cold' && start.reason !== undefined)
        notes.push({ workload, node, text: `${name} started cold: ${start.reason}` });
    }
    for (const { workload, name, state, start } of said.pods ?? []) {
      if (state === 'cold' && start?.reason !== undefined) notes.push({ workload, node, text: `${name} started cold: ${start.reason}` });
    }
    for (const { workload, at, reason } of said.phases) {
      if (at === 'refused')
        notes.push({ workload, node, text: `no snapshot can be made of ${workload}: ${reason ?? 'no reason was told'}` });
    }
    for (const { workload, digest, quarantined } of said.snapshots) {
      if (quarantined !== undefined)
        notes.push({ workload, node, text: `snapshot ${digest.slice(0, 12)} is not restored any more: ${quarantined}` });
    }
  }
  return notes;
}
