import type { Action } from './actions.ts';
import type { PoolNode, PoolSlot, PoolState, PoolWorkload, SnapshotPhase } from './state.ts';

/**
 * The state once these actions have begun: what a plan must see of actions that are queued and not yet shown by their agents. Actions
 * that the state has overtaken (the slot is gone, or is no longer what it was) change nothing. The input is not changed.
 */
export function assume(state: PoolState, actions: readonly Action[], nowMs: number): PoolState {
  if (actions.length === 0) return state;
  const slots = new Map(state.slots.map((slot) => [slot.uid, slot]));
  const nodes = new Map(state.nodes.map((node) => [node.name, node]));
  const workloads = new Map(state.workloads.map((workload) => [workload.name, workload]));
  for (const action of actions) {
    if (action.do === 'pull') {
      const node = nodes.get(action.node);
      if (node !== undefined) nodes.set(action.node, withPull(node, action.digest));
    } else if (action.do === 'warm') {
      const workload = workloads.get(action.workload);
      const phase = workload?.snapshots.get(action.machineClass);
      if (workload === undefined || phase?.at === 'refused') continue;
      const warming: SnapshotPhase = { at: 'warming', node: action.node };
      workloads.set(action.workload, { ...workload, snapshots: new Map([...workload.snapshots, [action.machineClass, warming]]) });
    } else if (action.do === 'park') {
      if (!slots.has(action.slot)) slots.set(action.slot, madeSlot(action, nowMs));
    } else {
      const slot = slots.get(action.slot);
      const next = slot && begun(slot, action, nowMs);
      if (action.do === 'restore' && action.seed === true && slot?.state === 'parked') seedBegun(workloads, nodes.get(action.node), action);
      if (next === undefined) slots.delete(action.slot);
      else slots.set(action.slot, next);
    }
  }
  return { nodes: [...nodes.values()], slots: [...slots.values()], workloads: [...workloads.values()] };
}

function seedBegun(
  workloads: Map<string, PoolWorkload>,
  node: PoolNode | undefined,
  { workload: name, slot }: Extract<Action, { do: 'restore' }>,
): void {
  const workload = workloads.get(name);
  if (workload === undefined || node === undefined || workload.snapshots.get(node.machineClass)?.at === 'refused') return;
  const warming: SnapshotPhase = { at: 'warming', node: node.name, slot };
  workloads.set(name, { ...workload, snapshots: new Map([...workload.snapshots, [node.machineClass, warming]]) });
}

function withPull(node: PoolNode, digest: string): PoolNode {
  return node.snapshots.has(digest) ? node : { ...node, pulling: new Set([...node.pulling, digest]) };
}

function madeSlot({ slot, node, workload }: Extract<Action, { do: 'park' }>, nowMs: number): PoolSlot {
  const unused = { ready: false, inFlight: 0, lastUsedMs: 0, draining: false };
  return { uid: slot, node, workload, state: 'making', sinceMs: nowMs, ...unused };
}

/** The slot once the action has begun; undefined when it will be gone. */
function begun(slot: PoolSlot, action: Exclude<Action, { do: 'pull' | 'warm' | 'park' }>, nowMs: number): PoolSlot | undefined {
  const runs = slot.state === 'live' || slot.state === 'cold';
  switch (action.do) {
    case 'restore': {
      if (slot.state !== 'parked' && slot.state !== 'suspended') return slot;
      const starts = action.snapshot === undefined ? 'cold' : 'restoring';
      return { ...slot, state: starts, sinceMs: nowMs, ready: false, lastUsedMs: nowMs };
    }
    case 'drain':
      return runs ? { ...slot, draining: true } : slot;
    case 'end':
    case 'suspend':
      return runs ? { ...slot, state: 'ending', sinceMs: nowMs, ready: false } : slot;
    case 'remove':
      if (runs && action.why === 'idle') return { ...slot, state: 'ending', sinceMs: nowMs, ready: false };
      return slot.state === 'parked' || slot.state === 'failed' ? undefined : slot;
  }
}
