import type { Action } from './actions.ts';
import type { PoolSlot } from './state.ts';
import { addLeaving, type NodeView, type View, type WorkloadView } from './view.ts';

/** Knative's container-concurrency-target-percentage: so much of what instances can take may be used before it is too little. */
const UTILISATION = 0.7;

/**
 * Ends instances beyond those there should be: idle ones only, unused for the idle time, the longest unused first, and none during a burst.
 * What is above `max` (the policy changed) does not wait for that. Those that drain go once they are idle.
 */
export function endIdle(view: View, of: WorkloadView, nowMs: number, actions: Action[]): void {
  const { policy } = of.workload;
  for (const slot of of.draining) if (slot.inFlight === 0) actions.push(goodbye(of, slot));
  let above = of.serving - policy.max;
  let beyond = of.burst === undefined ? of.serving - of.desired : above;
  if (beyond <= 0) return;
  const idle = of.running.filter((slot) => slot.inFlight === 0);
  idle.sort((a, b) => a.lastUsedMs - b.lastUsedMs || (a.uid < b.uid ? -1 : 1));
  for (const slot of idle) {
    const node = view.byName.get(slot.node);
    if (beyond <= 0 || (above <= 0 && nowMs - slot.lastUsedMs < policy.idleMs)) break;
    if (node !== undefined) actions.push(leave(of, node, slot));
    above -= 1;
    beyond -= 1;
  }
  if (beyond > 0) drainBusy(view, of, nowMs, above, actions);
}

/**
 * A gateway that sends to the least loaded keeps every instance a little busy, so none of too many would ever be idle. One at a time drains,
 * the least loaded and then the youngest, if the others can take its load with room to spare: else requests would soon wait again, and
 * instances come and go. Those above `max` drain in any case.
 */
function drainBusy(view: View, of: WorkloadView, nowMs: number, above: number, actions: Action[]): void {
  const { policy, demand } = of.workload;
  const busy = of.running.filter((slot) => slot.inFlight > 0);
  const load = Math.max(demand.stableAverage, demand.burstAverage, demand.inFlight);
  const comfortable = Math.max(of.desired, Math.ceil(load / (UTILISATION * policy.targetConcurrency)));
  const spare = of.burst === undefined && demand.waiting === 0 && of.draining.length === 0 && busy.length > comfortable ? 1 : 0;
  const old = spare > above ? busy.filter((slot) => nowMs - slot.sinceMs >= policy.stableWindowMs) : busy;
  old.sort((a, b) => a.inFlight - b.inFlight || b.sinceMs - a.sinceMs || (a.uid < b.uid ? -1 : 1));
  for (const slot of old.slice(0, Math.max(above, spare))) {
    const node = view.byName.get(slot.node);
    if (node !== undefined) actions.push(leave(of, node, slot));
  }
}

/** Ends an instance, or lets it drain first if it has requests in flight. */
export function leave(of: WorkloadView, node: NodeView, slot: PoolSlot): Action {
  of.running.splice(of.running.indexOf(slot), 1);
  addLeaving(of, node);
  if (slot.inFlight > 0) return { do: 'drain', slot: slot.uid, node: slot.node, workload: slot.workload };
  return goodbye(of, slot);
}

function goodbye(of: WorkloadView, slot: PoolSlot): Action {
  const where = { slot: slot.uid, node: slot.node, workload: slot.workload };
  if (of.workload.policy.stateful) return { do: 'suspend', ...where };
  return slot.state === 'cold' && !of.workload.policy.fixed ? { do: 'remove', ...where, why: 'idle' } : { do: 'end', ...where };
}
