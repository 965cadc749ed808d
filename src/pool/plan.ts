import type { Action } from './actions.ts';
import { desiredOf } from './desired.ts';
import { pullAhead } from './pulls.ts';
import { endIdle } from './shrink.ts';
import { makeSlots, removeSlots } from './spare.ts';
import type { Burst, PoolState } from './state.ts';
import { viewOf, type WorkloadView } from './view.ts';
import { wakeAhead, wakeForWaiting } from './wake.ts';

export type Plan = {
  /** The most urgent first. */
  readonly actions: readonly Action[];
  /** The bursts that go on, by workload: the next state carries them. Lost (a new leader), a burst begins anew or has ended. */
  readonly bursts: ReadonlyMap<string, Burst>;
  /** Instances there should be, by workload. */
  readonly desired: ReadonlyMap<string, number>;
};

/**
 * What to do now so that every pool becomes what its policy and demand ask for. Pure: the same state and time give the same plan, and
 * nothing is changed. Never throws.
 *
 * A state must show what was asked for and has not been seen yet (`assume` the actions that are queued): then a second plan asks for
 * nothing twice, and nothing that the first would take back. The slots of a fixed pool are neither made nor removed.
 *
 * In this order, each seeing what those before it took: idle instances end; waiting requests wake slots, or keep (or are given) the room that
 * they will need; then what should be there although nobody waits; seeds; slots that lack; snapshots where slots are. Whatever is short
 * is handed out in turns (`inTurns`), whoever has least first.
 */
export function plan(state: PoolState, nowMs: number): Plan {
  const view = viewOf(state);
  const actions: Action[] = [];
  const bursts = new Map<string, Burst>();
  const desired = new Map<string, number>();
  for (const [name, of] of view.workloads) {
    const wanted = desiredOf(of.workload, of.ready, nowMs);
    const { forWaiting, burst } = wanted;
    const instances = burst === undefined && unused(of, nowMs) ? Math.min(of.workload.policy.min, wanted.instances) : wanted.instances;
    Object.assign(of, { desired: instances, forWaiting, burst });
    if (of.workload.spread === undefined) desired.set(name, instances);
    if (burst !== undefined) bursts.set(name, burst);
  }

  for (const of of view.workloads.values()) endIdle(view, of, nowMs, actions);
  wakeForWaiting(view, nowMs, actions);
  wakeAhead(view, actions);
  makeSlots(view, nowMs, actions);
  for (const of of view.workloads.values()) removeSlots(of, nowMs, actions);
  pullAhead(view, actions);
  return { actions: actions.sort((a, b) => urgency(a) - urgency(b)), bursts, desired };
}

/** Nobody wants it, and nobody has for the idle time: what the windows still remember keeps nothing. */
function unused({ workload, running, draining }: WorkloadView, nowMs: number): boolean {
  const { demand, policy } = workload;
  if (demand.waiting > 0 || demand.inFlight > 0) return false;
  return [...running, ...draining].every((slot) => slot.inFlight === 0 && nowMs - slot.lastUsedMs >= policy.idleMs);
}

const URGENCY = { restore: 2, drain: 3, end: 4, suspend: 4, park: 5, warm: 6, pull: 7, remove: 8 } as const;

function urgency(action: Action): number {
  return action.do === 'restore' && action.why === 'waiting' ? 1 : URGENCY[action.do];
}
