import { DEFAULT_POLICY, type PoolNode, type PoolSlot, type PoolState, type PoolWorkload, type SlotState } from '../../src/pool/state.ts';

export type Fleet = {
  readonly workloads: number;
  readonly slots: number;
  readonly nodes: number;
  /** The share of workloads that have waiting requests, ten times what is live. */
  readonly bursting: number;
  /** Instances that fit, as a multiple of those that run. */
  readonly room: number;
  /** Whether snapshots are on the nodes where the slots are. */
  readonly snapshots: 'everywhere' | 'half' | 'none';
};

const MIB = 2 ** 20;
const CLASSES = 2;
/** Of ten slots of a workload. */
const STATES: readonly SlotState[] = ['live', 'parked', 'live', 'live', 'parked', 'cold', 'live', 'parked', 'live', 'parked'];

/** A fleet at work, the same one for the same options: no chance in it, so that runs can be compared. */
export function aFleet(fleet: Fleet, nowMs: number): PoolState {
  const slots = Array.from({ length: fleet.slots }, (_, i) => aSlot(fleet, i, nowMs));
  const running = slots.filter(({ state }) => state !== 'parked').length;
  const maxInstances = Math.ceil((running * fleet.room) / fleet.nodes);
  const nodes = Array.from({ length: fleet.nodes }, (_, i) => aNode(fleet, i, maxInstances));
  return { nodes, slots, workloads: Array.from({ length: fleet.workloads }, (_, i) => aWorkload(fleet, i)) };
}

function aSlot(fleet: Fleet, i: number, nowMs: number): PoolSlot {
  const nth = Math.floor(i / fleet.workloads);
  const workload = i % fleet.workloads;
  const state = STATES[nth % STATES.length] ?? 'parked';
  const busy = state !== 'parked' && nth % 3 > 0;
  return {
    uid: `slot-${i}`,
    node: `node-${(workload * 7 + nth * 13) % fleet.nodes}`,
    workload: `workload-${workload}`,
    state,
    sinceMs: nowMs - 600_000 - i,
    ready: state !== 'parked',
    inFlight: busy ? 1 : 0,
    lastUsedMs: nowMs - (nth % 4) * 15_000,
    draining: false,
  };
}

function aNode(fleet: Fleet, i: number, maxInstances: number): PoolNode {
  const everywhere = fleet.snapshots === 'everywhere';
  const all = Array.from({ length: fleet.workloads }, (_, w) => w).filter((w) => everywhere || (w + i) % (2 * CLASSES) < CLASSES);
  return {
    name: `node-${i}`,
    alive: true,
    machineClass: `class-${i % CLASSES}`,
    cores: 8,
    maxInstances,
    memoryBytes: maxInstances * 128 * MIB,
    snapshots: new Set(fleet.snapshots === 'none' ? [] : all.map((w) => digest(w, i % CLASSES))),
    pulling: new Set(),
    trials: 0,
  };
}

function aWorkload(fleet: Fleet, i: number): PoolWorkload {
  const bursts = i < fleet.workloads * fleet.bursting;
  const classes = Array.from({ length: CLASSES }, (_, c) => [`class-${c}`, { at: 'ready', digest: digest(i, c) }] as const);
  const busy = 8;
  return {
    name: `workload-${i}`,
    policy: { ...DEFAULT_POLICY, min: 1, max: 200, parked: 8 },
    memoryBytes: (64 + (i % 4) * 32) * MIB,
    snapshots: new Map(fleet.snapshots === 'none' ? [] : classes),
    demand: {
      inFlight: busy,
      waiting: bursts ? 100 : 0,
      oldestWaitingMs: bursts ? 50 + i : 0,
      ratePerSecond: 20,
      stableAverage: 10,
      burstAverage: bursts ? 40 : 10,
    },
  };
}

function digest(workload: number, machineClass: number): string {
  return `sha256:${workload.toString(16).padStart(60, '0')}-${machineClass}`;
}
