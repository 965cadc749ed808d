import type { Burst, Digest, PoolNode, PoolSlot, PoolState, PoolWorkload, SnapshotPhase } from './state.ts';

/** A node that is alive, with what runs there, and what this plan adds. */
export type NodeView = {
  readonly node: PoolNode;
  /** Its place among those alive. */
  readonly index: number;
  /** Instances that hold room: those being restored, live, cold and ending ones, seeds to come. */
  instances: number;
  bytes: number;
  /** Of these, the ones that are about to go. */
  leaving: number;
  leavingBytes: number;
  /** Room kept for waiting requests whose slot cannot be woken in this pass. */
  claimed: number;
  claimedBytes: number;
  restoring: number;
  starting: number;
  making: number;
  pulling: number;
  slots: number;
};

/** The slots of one workload on one node. */
export type Here = {
  readonly parked: PoolSlot[];
  readonly suspended: PoolSlot[];
  making: number;
  /** Of all three, those that this plan counts on for waiting requests. */
  claimed: number;
  slots: number;
};

export type WorkloadView = {
  readonly workload: PoolWorkload;
  /** Instances that serve or will soon. */
  serving: number;
  /** Of these, the ones that start cold and are not ready: a restore would overtake them. */
  startingCold: number;
  ready: number;
  /** Instances that count for `max`: those that leave too. */
  instances: number;
  leaving: number;
  /** When it was last served, as far as its slots tell. */
  lastUsedMs: number;
  readonly failed: PoolSlot[];
  /** Ready instances that may be ended: no seeds that are still being checkpointed, and none that drain already. */
  readonly running: PoolSlot[];
  readonly draining: PoolSlot[];
  readonly at: Map<NodeView, Here>;
  /** Its snapshots, by the class's place in `classes`. */
  readonly snapshots: readonly SnapshotView[];
  /** What `startOn` said, by node index. */
  readonly starts: (0 | 1 | 2 | 3 | undefined)[];
  /** Uids of slots in the making. */
  readonly making: Set<string>;
  /** Slots with state that are not woken yet. */
  suspended: number;
  /** Places kept for its waiting requests. */
  claimed: number;
  desired: number;
  forWaiting: number;
  burst: Burst | undefined;
};

/** A workload's snapshot in one class of nodes. One that no node alive has is none, and so is a seed on a dead node.
 * `seeded`: this plan makes a seed. */
export type SnapshotView = { readonly digest: Digest | undefined; readonly at: 'ready' | 'refused' | 'warming' | 'none'; seeded: boolean };

export type View = {
  /** By name: whoever comes first wins a tie. */
  readonly nodes: readonly NodeView[];
  readonly byName: ReadonlyMap<string, NodeView>;
  /** Compatibility classes of the nodes, and each node's by its index. */
  readonly classes: readonly string[];
  readonly classOf: readonly number[];
  readonly workloads: ReadonlyMap<string, WorkloadView>;
};

/** Counts the state once. What is on nodes that are not alive does not count. */
export function viewOf(state: PoolState): View {
  const alive = state.nodes.filter((node) => node.alive).sort((a, b) => (a.name < b.name ? -1 : 1));
  const nodes = alive.map(nodeView);
  const byName = new Map(nodes.map((one) => [one.node.name, one]));
  const classes = [...new Set(alive.map(({ machineClass }) => machineClass))];
  const classOf = alive.map(({ machineClass }) => classes.indexOf(machineClass));
  const snapshotsOf = ({ snapshots }: PoolWorkload) => classes.map((name) => snapshotView(snapshots.get(name), byName, alive));
  const workloads = new Map(state.workloads.map((workload) => [workload.name, workloadView(workload, snapshotsOf(workload))]));
  const seeds = new Set(
    state.workloads.flatMap(({ snapshots }) => [...snapshots.values()].map((one) => (one.at === 'warming' ? one.slot : ''))),
  );
  for (const slot of state.slots) {
    const node = byName.get(slot.node);
    if (node !== undefined) count(slot, node, workloads.get(slot.workload), seeds.has(slot.uid));
  }
  for (const view of workloads.values()) {
    for (const phase of view.workload.snapshots.values()) {
      const node = phase.at === 'warming' && phase.slot === undefined ? byName.get(phase.node) : undefined;
      if (node !== undefined) addSeed(view, node);
    }
  }
  return { nodes, byName, classes, classOf, workloads };
}

/** The slots of the workload there, an entry for them if there is none. */
export function hereOf(view: WorkloadView, node: NodeView): Here {
  const known = view.at.get(node);
  if (known !== undefined) return known;
  const here: Here = { parked: [], suspended: [], making: 0, claimed: 0, slots: 0 };
  view.at.set(node, here);
  return here;
}

/** Slots that wait to be woken, or will. */
export function waitingSlots(here: Here): number {
  return here.parked.length + here.suspended.length + here.making;
}

/** Counts an instance that is about to start on the node. */
export function addInstance(view: WorkloadView, node: NodeView): void {
  view.serving += 1;
  view.instances += 1;
  node.instances += 1;
  node.bytes += view.workload.memoryBytes;
}

/** Counts a seed whose container is not there yet. */
export function addSeed(view: WorkloadView, node: NodeView): void {
  addInstance(view, node);
  view.startingCold += 1;
  node.starting += 1;
}

/** Counts an instance that is there as one that is about to go. */
export function addLeaving(view: WorkloadView, node: NodeView): void {
  view.serving -= 1;
  view.leaving += 1;
  node.leaving += 1;
  node.leavingBytes += view.workload.memoryBytes;
}

function snapshotView(phase: SnapshotPhase | undefined, byName: ReadonlyMap<string, NodeView>, alive: readonly PoolNode[]): SnapshotView {
  const none: SnapshotView = { at: 'none', digest: undefined, seeded: false };
  if (phase === undefined) return { ...none };
  if (phase.at === 'ready') {
    const { digest } = phase;
    return alive.some((node) => node.snapshots.has(digest)) ? { at: 'ready', digest, seeded: false } : { ...none };
  }
  if (phase.at === 'warming' && !byName.has(phase.node)) return { ...none };
  return { at: phase.at, digest: undefined, seeded: false };
}

function nodeView(node: PoolNode, index: number): NodeView {
  const none = { instances: 0, bytes: 0, leaving: 0, leavingBytes: 0, claimed: 0, claimedBytes: 0, starting: 0, making: 0, slots: 0 };
  return { node, index, ...none, restoring: node.trials, pulling: node.pulling.size };
}

function workloadView(workload: PoolWorkload, snapshots: readonly SnapshotView[]): WorkloadView {
  const none = { serving: 0, startingCold: 0, ready: 0, instances: 0, leaving: 0, desired: 0, forWaiting: 0, burst: undefined };
  return {
    workload,
    snapshots,
    ...none,
    suspended: 0,
    claimed: 0,
    lastUsedMs: 0,
    failed: [],
    running: [],
    draining: [],
    making: new Set(),
    starts: [],
    at: new Map(),
  };
}

function count(slot: PoolSlot, node: NodeView, view: WorkloadView | undefined, isSeed: boolean): void {
  node.slots += 1;
  const here = view && hereOf(view, node);
  if (here) here.slots += 1;
  if (view) view.lastUsedMs = Math.max(view.lastUsedMs, slot.lastUsedMs);
  switch (slot.state) {
    case 'making':
      node.making += 1;
      view?.making.add(slot.uid);
      if (here) here.making += 1;
      return;
    case 'parked':
      here?.parked.push(slot);
      return;
    case 'suspended':
      here?.suspended.push(slot);
      if (view) view.suspended += 1;
      return;
    case 'failed':
      view?.failed.push(slot);
      return;
    case 'restoring':
    case 'live':
    case 'cold':
    case 'ending':
      if (view !== undefined) return countInstance(slot, node, view, isSeed);
      // Of a workload we do not know (yet): it takes its place and core all the same.
      node.instances += 1;
      countStarting(slot, node);
  }
}

function countInstance(slot: PoolSlot, node: NodeView, view: WorkloadView, isSeed: boolean): void {
  addInstance(view, node);
  countStarting(slot, node);
  if (slot.state === 'ending') {
    addLeaving(view, node);
  } else if (slot.state === 'restoring' || !slot.ready) {
    if (slot.state === 'cold') view.startingCold += 1;
  } else if (slot.draining) {
    addLeaving(view, node);
    view.draining.push(slot);
  } else {
    view.ready += 1;
    if (!isSeed) view.running.push(slot);
  }
}

/** Live but not ready: what is done after a restore still runs, and takes its core. */
function countStarting({ state, ready }: PoolSlot, node: NodeView): void {
  if (state === 'restoring' || (state === 'live' && !ready)) node.restoring += 1;
  if (state === 'cold' && !ready) node.starting += 1;
}
