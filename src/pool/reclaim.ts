import type { Action } from './actions.ts';
import { placesSoon } from './place.ts';
import { leave } from './shrink.ts';
import type { PoolSlot } from './state.ts';
import { type NodeView, type View, type WorkloadView, waitingSlots } from './view.ts';

/** Where there is not room for all, each workload with waiting requests gets one instance for at least this long in turn. */
export const TURN_MS = 1_000;
/** Per plan: no more could be restored before the next one anyway. */
const MOST_AT_ONCE = 16;

/**
 * `later`: how many more are needed whose turn is not over. What goes before is kept for the one that asks: a large instance would else
 * never find two small ones at the end of their turns at the same time.
 */
type Victims = { readonly victims: readonly Running[]; readonly later: number };

type Running = { readonly of: WorkloadView; readonly slot: PoolSlot };

/** Takes room from workloads that have more, for one that has waiting requests and no room on any node. One per plan. */
export class Reclaim {
  readonly #view: View;
  readonly #nowMs: number;
  #left = MOST_AT_ONCE;
  #running: ReadonlyMap<NodeView, readonly Running[]> | undefined;

  constructor(options: { view: View; nowMs: number }) {
    this.#view = options.view;
    this.#nowMs = options.nowMs;
  }

  /** The node among these that will have room for one more, and what must be done for it; undefined if nobody has more than a fair share. */
  for(asks: WorkloadView, nodes: readonly NodeView[]): { node: NodeView; actions: Action[] } | undefined {
    if (this.#left === 0) return undefined;
    this.#left -= 1;
    let best: (Victims & { node: NodeView; slots: number }) | undefined;
    for (const node of nodes) {
      const found = this.#victims(asks, node);
      if (found === undefined) continue;
      const here = asks.at.get(node);
      const one = { ...found, node, slots: here ? waitingSlots(here) - here.claimed : 0 };
      const order = best && (one.later - best.later || one.victims.length - best.victims.length || best.slots - one.slots);
      if (order === undefined || order < 0) best = one;
    }
    if (best === undefined) return undefined;
    const { node, victims } = best;
    return { node, actions: victims.map(({ of, slot }) => leave(of, node, slot)) };
  }

  /** As few as make room for one more instance there, those that nobody will miss first; undefined if all together would not. */
  #victims(asks: WorkloadView, node: NodeView): Victims | undefined {
    this.#running ??= runningByNode(this.#view);
    const bytes = asks.workload.memoryBytes;
    const taken = new Map<WorkloadView, number>();
    const may = (this.#running.get(node) ?? []).filter((one) => this.#mayTake(asks, one, 0) !== 'no' && one.of.running.includes(one.slot));
    may.sort((a, b) => Number(this.#mayTake(asks, a, 0) === 'soon') - Number(this.#mayTake(asks, b, 0) === 'soon') || byLoss(a, b));
    const victims: Running[] = [];
    let later = 0;
    const soon = { ...node };
    for (const one of may) {
      if (placesSoon(soon, bytes) > 0) break;
      const before = taken.get(one.of) ?? 0;
      const when = this.#mayTake(asks, one, before);
      if (when === 'no') continue;
      taken.set(one.of, before + 1);
      if (when === 'now') victims.push(one);
      else later += 1;
      soon.leaving += 1;
      soon.leavingBytes += one.of.workload.memoryBytes;
    }
    return placesSoon(soon, bytes) > 0 ? { victims, later } : undefined;
  }

  #mayTake(asks: WorkloadView, { of, slot }: Running, taken: number): 'now' | 'soon' | 'no' {
    if (of === asks) return 'no';
    const [has, theirs] = [asks.serving + asks.claimed, of.serving - taken];
    const idle = slot.inFlight === 0;
    if (idle && theirs > of.desired) return 'now';
    // Two more: so the one that gives never has less afterwards than the one that takes, and nothing swings back.
    if (theirs >= has + 2) return 'now';
    if (has > 0) return 'no';
    if (idle && of.workload.demand.waiting === 0) return 'now';
    // Not room for one instance each: they take turns.
    if (waitedMs(asks, this.#nowMs) < TURN_MS) return 'no';
    return this.#nowMs - slot.sinceMs >= TURN_MS ? 'now' : 'soon';
  }
}

/**
 * How long the workload has had to wait: since its oldest waiting request came, or since it was last served if that is later. By the
 * request alone a long queue, whose oldest is always old, would go before a short one for ever.
 */
export function waitedMs({ workload, lastUsedMs }: WorkloadView, nowMs: number): number {
  return Math.max(0, Math.min(workload.demand.oldestWaitingMs, nowMs - lastUsedMs));
}

function byLoss(a: Running, b: Running): number {
  return (
    Number(a.slot.inFlight > 0) - Number(b.slot.inFlight > 0) ||
    b.of.serving - b.of.desired - (a.of.serving - a.of.desired) ||
    b.of.serving - a.of.serving ||
    a.slot.lastUsedMs - b.slot.lastUsedMs ||
    (a.slot.uid < b.slot.uid ? -1 : 1)
  );
}

function runningByNode(view: View): ReadonlyMap<NodeView, readonly Running[]> {
  const found = new Map<NodeView, Running[]>(view.nodes.map((node) => [node, []]));
  for (const of of view.workloads.values()) {
    for (const slot of of.running) {
      const node = view.byName.get(slot.node);
      if (node !== undefined) found.get(node)?.push({ of, slot });
    }
  }
  return found;
}
