import {
  DEFAULT_POLICY,
  type Demand,
  type PoolNode,
  type PoolPolicy,
  type PoolSlot,
  type PoolState,
  type PoolWorkload,
  type SlotState,
} from '../../../src/pool/state.ts';

export const NOW = 1_000_000;
export const DIGEST = 'sha256:snapshot';
const QUIET: Demand = { inFlight: 0, waiting: 0, oldestWaitingMs: 0, ratePerSecond: 0, stableAverage: 0, burstAverage: 0 };

export function aNode(node: Partial<PoolNode> = {}): PoolNode {
  return {
    name: 'a',
    alive: true,
    machineClass: 'x86',
    cores: 2,
    maxInstances: 10,
    memoryBytes: 1_000,
    snapshots: new Set([DIGEST]),
    pulling: new Set(),
    trials: 0,
    ...node,
  };
}

/** Ready if its state serves. */
export function aSlot(uid: string, state: SlotState, slot: Partial<PoolSlot> = {}): PoolSlot {
  const ready = state === 'live' || state === 'cold';
  const long = NOW - 3_600_000;
  return { uid, node: 'a', workload: 'web', state, sinceMs: long, ready, inFlight: 0, lastUsedMs: long, draining: false, ...slot };
}

/** With a snapshot, nothing parked and no demand, unless said otherwise. */
export function aWorkload(
  workload: Omit<Partial<PoolWorkload>, 'policy' | 'demand'> & { policy?: Partial<PoolPolicy>; demand?: Partial<Demand> } = {},
): PoolWorkload {
  return {
    name: 'web',
    memoryBytes: 10,
    snapshots: new Map([['x86', { at: 'ready', digest: DIGEST }]]),
    ...workload,
    policy: { ...DEFAULT_POLICY, parked: 0, ...workload.policy },
    demand: { ...QUIET, ...workload.demand },
  };
}

export function aState({ nodes = [aNode()], slots = [], workloads = [aWorkload()] }: Partial<PoolState> = {}): PoolState {
  return { nodes, slots, workloads };
}
