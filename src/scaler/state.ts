import { demandOf, emptyWindow, type Window } from '../pool/demand.ts';
import {
  type Burst,
  DEFAULT_POLICY,
  type Demand,
  type PoolNode,
  type PoolPolicy,
  type PoolSlot,
  type PoolState,
  type PoolWorkload,
  type SnapshotPhase,
} from '../pool/state.ts';
import type { NodeTruth, Seen, SlotTruth, View, WorkloadTruth } from '../queue/truth.ts';
import { parseWorkloadName } from '../workloads/kubernetes.ts';
import { phasesOf } from './phases.ts';

/** What the scaler remembers beside the shared view. Lost, it begins anew: averages are short for a while, no instance ends too early. */
export type Memory = {
  readonly windows: ReadonlyMap<string, Window>;
  readonly bursts: ReadonlyMap<string, Burst>;
  /** When the slots' instances were last used, by slot; see {@link PoolSlot.lastUsedMs}. */
  readonly lastUsed: ReadonlyMap<string, number>;
  /** Lives of slots (see {@link lifeOf}) that drain. */
  readonly draining: ReadonlySet<string>;
  /** `WORKLOAD CLASS` of which no seed is made for a while, since the last ones failed. */
  readonly held: ReadonlySet<string>;
  /** Nodes that had no room for a pod's declared requests a moment ago. */
  readonly full?: ReadonlySet<string>;
};

/** Of an instance of which neither a snapshot nor a limit says more. */
export const DEFAULT_MEMORY_BYTES = 256 * 1024 * 1024;
const MIB = 1024 * 1024;

/** Names one life of a slot: after it was parked again, it is another. */
export function lifeOf({ uid, parks }: Pick<SlotTruth, 'uid' | 'parks'>): string {
  return `${uid} ${parks}`;
}

/** The state that `plan` looks at, by this scaler's monotonic clock. Pure. */
export function poolStateOf(view: View, workloads: readonly WorkloadTruth[], memory: Memory, nowMs: number): PoolState {
  const nodes = [...view.nodes.values()];
  const use = useOf(view);
  const slots = nodes.flatMap((node) => node.said.slots.filter(canServe).map((slot) => poolSlot(node, slot, use, memory, nowMs)));
  const demand = demandNow(view, nowMs);
  const listed = new Set(workloads.map(({ name }) => name));
  const classes = new Set(nodes.map(({ said }) => said.machineClass));
  const told: Told = { phases: phasesOf(nodes, workloads), memory: memoryBySnapshot(nodes), classes, nodes };
  // Slots of a cluster are Kubernetes' to remove.
  const gone = new Set(slots.map(({ workload }) => workload).filter((name) => !listed.has(name) && parseWorkloadName(name) === undefined));
  return {
    nodes: nodes.map(({ said }) => (memory.full?.has(said.name) ? { ...poolNode(said), maxInstances: 0 } : poolNode(said))),
    slots,
    workloads: [
      ...workloads.map((workload) => poolWorkload(workload, told, demand.get(workload.name) ?? NOTHING, memory, nowMs)),
      ...[...gone].map(goneWorkload),
    ],
  };
}

/** Slots of an old description are woken no more: their agent removes them. */
function canServe({ outdated, state }: SlotTruth): boolean {
  return outdated !== true || (state !== 'parked' && state !== 'suspended');
}

export type NowDemand = Pick<Demand, 'inFlight' | 'waiting' | 'oldestWaitingMs'>;

const NOTHING: NowDemand = { inFlight: 0, waiting: 0, oldestWaitingMs: 0 };

/** What all gateways together have to do, by workload. */
export function demandNow(view: View, nowMs: number): Map<string, NowDemand> {
  const all = new Map<string, NowDemand>();
  for (const { said, heardAtMs } of view.gateways.values()) {
    for (const { workload, inFlight, waiting, oldestWaitingMs } of said.demand) {
      const before = all.get(workload) ?? NOTHING;
      const oldest = waiting > 0 ? oldestWaitingMs + Math.max(0, nowMs - heardAtMs) : 0;
      all.set(workload, {
        inFlight: before.inFlight + inFlight,
        waiting: before.waiting + waiting,
        oldestWaitingMs: Math.max(before.oldestWaitingMs, oldest),
      });
    }
  }
  return all;
}

type Use = { readonly inFlight: number; readonly lastUsedMs: number };

/** What gateways did with each life of a slot. */
function useOf(view: View): Map<string, Use> {
  const all = new Map<string, Use>();
  for (const { said, heardAtMs } of view.gateways.values()) {
    for (const instance of said.instances) {
      const before = all.get(lifeOf(instance));
      const lastUsedMs = heardAtMs - instance.idleMs;
      all.set(lifeOf(instance), {
        inFlight: (before?.inFlight ?? 0) + instance.inFlight,
        lastUsedMs: Math.max(before?.lastUsedMs ?? lastUsedMs, lastUsedMs),
      });
    }
  }
  return all;
}

function poolSlot(node: Seen<NodeTruth>, slot: SlotTruth, use: ReadonlyMap<string, Use>, memory: Memory, nowMs: number): PoolSlot {
  const { uid, workload, state, ready, parks, suspended, connections = 0 } = slot;
  const sinceMs = Math.min(nowMs, node.heardAtMs - slot.ageMs);
  const life = use.get(lifeOf(slot));
  const hasApplication = state === 'live' || state === 'cold' || state === 'ending';
  // A new leader knows nothing of earlier lives: parked again means used until then.
  const atLeast = hasApplication || parks > 0 || state === 'suspended' ? sinceMs : 0;
  const remembered = memory.lastUsed.get(uid);
  // Clients of a Service reach it past the gateways.
  const connectedMs = connections > 0 ? node.heardAtMs : 0;
  const used = Math.max(atLeast, remembered ?? 0, life?.lastUsedMs ?? 0, connectedMs);
  const lastUsedMs = Math.min(nowMs, hasApplication ? used : (remembered ?? atLeast));
  return {
    uid,
    node: node.said.name,
    workload,
    state,
    sinceMs,
    ready,
    inFlight: life?.inFlight ?? 0,
    lastUsedMs,
    draining: memory.draining.has(lifeOf(slot)),
    ...(suspended === undefined ? {} : { suspended }),
  };
}

function poolNode({ name, leaving, machineClass, cores, maxInstances, memoryBytes, snapshots, pulling, trials }: NodeTruth): PoolNode {
  const usable = snapshots.filter(({ quarantined }) => quarantined === undefined).map(({ digest }) => digest);
  return {
    name,
    alive: !leaving,
    machineClass,
    cores,
    maxInstances,
    memoryBytes,
    snapshots: new Set(usable),
    pulling: new Set(pulling),
    trials,
  };
}

type Told = {
  readonly phases: ReadonlyMap<string, ReadonlyMap<string, SnapshotPhase>>;
  readonly memory: ReadonlyMap<string, number>;
  readonly classes: ReadonlySet<string>;
  readonly nodes: readonly Seen<NodeTruth>[];
};

function poolWorkload({ name, spec, mode }: WorkloadTruth, told: Told, now: NowDemand, memory: Memory, nowMs: number): PoolWorkload {
  const policy = mode === undefined ? policyOf(spec.pool) : fixedPolicyOf(spec.pool, slotsOf(name, told.nodes));
  const spread = mode === 'restore' ? { spread: nodesOf(name, told.nodes) } : {};
  const snapshots = new Map(told.phases.get(name));
  for (const machineClass of told.classes) {
    // The last seed failed: until the next is made, what is waited for starts cold.
    if (!snapshots.has(machineClass) && memory.held.has(`${name} ${machineClass}`)) snapshots.set(machineClass, { at: 'refused' });
  }
  const known = [...snapshots.values()].flatMap((phase) => (phase.at === 'ready' ? [told.memory.get(phase.digest) ?? 0] : []));
  const { memoryMiB } = spec.container;
  const memoryBytes = Math.max(0, ...known) || (memoryMiB === undefined ? DEFAULT_MEMORY_BYTES : memoryMiB * MIB);
  const demand = demandOf(memory.windows.get(name) ?? emptyWindow(policy.stableWindowMs), now, policy, nowMs);
  const burst = memory.bursts.get(name);
  return { name, policy, memoryBytes, snapshots, demand, ...(burst === undefined ? {} : { burst }), ...spread };
}

export function policyOf({
  min,
  max,
  parked,
  targetConcurrency,
  burstFactor,
  stateful,
  ...pool
}: WorkloadTruth['spec']['pool']): PoolPolicy {
  return {
    min,
    max,
    parked,
    targetConcurrency,
    idleMs: pool.idleSeconds * 1_000,
    stableWindowMs: pool.stableWindowSeconds * 1_000,
    burstWindowMs: pool.burstWindowSeconds * 1_000,
    burstFactor,
    stateful,
    fixed: false,
  };
}

/** Of a cluster: how many there may be is how many pods there are. */
function fixedPolicyOf(pool: WorkloadTruth['spec']['pool'], slots: number): PoolPolicy {
  const policy = policyOf(pool);
  return { ...policy, min: Math.min(policy.min, slots), max: slots, parked: 0, fixed: true };
}

function slotsOf(workload: string, nodes: readonly Seen<NodeTruth>[]): number {
  return nodes.reduce((sum, { said }) => sum + said.slots.filter((slot) => slot.workload === workload).length, 0);
}

function nodesOf(workload: string, nodes: readonly Seen<NodeTruth>[]): Set<string> {
  return new Set(nodes.flatMap(({ said }) => (said.pods?.some((pod) => pod.workload === workload) ? [said.name] : [])));
}

/** Of a workload that is no longer in the file: what is there of it goes. */
function goneWorkload(name: string): PoolWorkload {
  const policy: PoolPolicy = { ...DEFAULT_POLICY, min: 0, max: 0, parked: 0, idleMs: 0 };
  const demand = { ...NOTHING, ratePerSecond: 0, stableAverage: 0, burstAverage: 0 };
  return { name, policy, memoryBytes: DEFAULT_MEMORY_BYTES, snapshots: new Map(), demand };
}

function memoryBySnapshot(nodes: readonly Seen<NodeTruth>[]): Map<string, number> {
  const all = new Map<string, number>();
  for (const { said } of nodes) {
    for (const { digest, memoryBytes } of said.snapshots) {
      if (memoryBytes > 0) all.set(digest, Math.max(all.get(digest) ?? 0, memoryBytes));
    }
  }
  return all;
}
