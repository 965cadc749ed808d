import type { Action } from './actions.ts';
import { placesInAll, startOn } from './place.ts';
import type { PoolSlot } from './state.ts';
import { inTurns } from './turns.ts';
import { hereOf, type NodeView, type View, type WorkloadView, waitingSlots } from './view.ts';

/**
 * A failed slot is replaced at once where the workload may have one more; it is kept this long itself, so that people see it, and an
 * application that always fails costs no more than its slots once in this time.
 */
export const FAILED_KEPT_MS = 3_000;
/** Those that wait have slots made beyond that; but not when so many, for each instance there may be, failed in {@link FAILED_KEPT_MS}: the next would too. */
const MANY_FAILED = 2;
/** Containers being made on a node at once, per core. */
const MAKING_PER_CORE = 2;

/** Makes the slots that lack, in turns: a slot for each instance there should be, and those to keep parked beyond. */
export function makeSlots(view: View, nowMs: number, actions: Action[]): void {
  const made = [...view.workloads.values()].filter(({ workload }) => !workload.policy.fixed);
  const claims = made.map((of) => {
    const { usable, all, wanted } = slotsOf(of, nowMs);
    return { of: { of, usable, all, wanted }, wants: wanted - usable, has: all, ageMs: 0, name: of.workload.name };
  });
  let makers = view.nodes.filter(mayMake);
  inTurns(claims, (one) => {
    // Where nodes are full, slots wait there for room; but never more than there should be.
    const node = pickNode(view, makers, one.of, { full: one.all < one.wanted });
    if (node === undefined) return false;
    actions.push(makeSlot(one.of, node));
    if (!mayMake(node)) makers = makers.filter(mayMake);
    one.all += 1;
    return true;
  });
}

/** One more slot on the node. Names count on from the slots there, so that the same state gives the same names. */
export function makeSlot(of: WorkloadView, node: NodeView): Action {
  const here = hereOf(of, node);
  here.making += 1;
  here.slots += 1;
  node.making += 1;
  node.slots += 1;
  let ordinal = here.making;
  const name = () => `${of.workload.name}@${node.node.name}#${ordinal}`;
  while (of.making.has(name())) ordinal += 1;
  of.making.add(name());
  return { do: 'park', slot: name(), node: node.node.name, workload: of.workload.name };
}

/** Whether slots of the workload fail as fast as they are made. */
export function failsAlways(of: WorkloadView, nowMs: number): boolean {
  return justFailed(of, nowMs) >= MANY_FAILED * of.workload.policy.max;
}

function justFailed(of: WorkloadView, nowMs: number): number {
  return of.failed.filter((slot) => nowMs - slot.sinceMs < FAILED_KEPT_MS).length;
}

export function mayMake(node: NodeView): boolean {
  return node.making < MAKING_PER_CORE * Math.max(1, node.node.cores);
}

/** Removes failed slots once they have been seen, and parked ones beyond those to keep that were not needed for the idle time. */
export function removeSlots(of: WorkloadView, nowMs: number, actions: Action[]): void {
  const { name, policy } = of.workload;
  if (policy.fixed) return;
  for (const slot of of.failed) {
    if (nowMs - slot.sinceMs >= FAILED_KEPT_MS)
      actions.push({ do: 'remove', slot: slot.uid, node: slot.node, workload: name, why: 'failed' });
  }
  const { usable, wanted } = slotsOf(of, nowMs);
  if (usable <= wanted) return;
  const surplus: { slot: PoolSlot; places: number; slots: number }[] = [];
  for (const [node, { parked, slots, claimed }] of of.at) {
    const places = placesInAll(node, of.workload.memoryBytes);
    const free = parked.filter((slot) => nowMs - slot.sinceMs >= policy.idleMs).slice(0, Math.max(0, parked.length - claimed));
    surplus.push(...free.map((slot) => ({ slot, places, slots })));
  }
  // From full nodes first, then where most are, so that what stays is spread.
  surplus.sort((a, b) => a.places - b.places || b.slots - a.slots || a.slot.sinceMs - b.slot.sinceMs || (a.slot.uid < b.slot.uid ? -1 : 1));
  for (const { slot } of surplus.slice(0, usable - wanted))
    actions.push({ do: 'remove', slot: slot.uid, node: slot.node, workload: name, why: 'surplus' });
}

/**
 * The slots a workload has and should have. `usable` leaves out what waits on nodes without room: those wake nobody, however many they are.
 */
function slotsOf(of: WorkloadView, nowMs: number): { usable: number; all: number; wanted: number } {
  const { policy, memoryBytes } = of.workload;
  let usable = of.serving + of.leaving + justFailed(of, nowMs);
  let all = usable;
  for (const [node, here] of of.at) {
    const waiting = waitingSlots(here);
    all += waiting;
    usable += Math.min(waiting, placesInAll(node, memoryBytes));
  }
  // Instances that are not yet idle long enough count as wanted: else their slots would go, and come again with the next wave.
  return { usable, all, wanted: Math.min(policy.max, Math.max(of.desired, of.serving) + policy.parked) };
}

type Candidate = { readonly node: NodeView; readonly spare: number; readonly slots: number; readonly start: number };

function compare(a: Candidate, b: Candidate): number {
  return b.spare - a.spare || a.slots - b.slots || a.start - b.start || a.node.slots - b.node.slots;
}

/** The node with fewest slots of the workload, so that the end of one costs little; then where its snapshot is; then the emptiest. */
function pickNode(view: View, nodes: readonly NodeView[], of: WorkloadView, { full }: { full: boolean }): NodeView | undefined {
  let best: Candidate | undefined;
  for (const node of nodes) {
    const here = of.at.get(node);
    const spare = placesInAll(node, of.workload.memoryBytes) > (here ? waitingSlots(here) : 0) ? 1 : 0;
    if (spare === 0 && !full) continue;
    const slots = here?.slots ?? 0;
    if (best !== undefined && (spare < best.spare || (spare === best.spare && slots > best.slots))) continue;
    const one = { node, spare, slots, start: spare === 0 ? 0 : startOn(view, of, node) };
    if (best === undefined || compare(one, best) < 0) best = one;
  }
  return best?.node;
}
