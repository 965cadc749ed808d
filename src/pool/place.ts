import type { Digest, PoolSlot } from './state.ts';
import type { NodeView, SnapshotView, View, WorkloadView } from './view.ts';

/**
 * How an instance would start on a node, best first: its snapshot is there; the policy lets it start cold only; the snapshot is on another
 * node; there is none yet.
 */
export const START = { here: 0, coldOnly: 1, elsewhere: 2, none: 3 } as const;
export type Start = (typeof START)[keyof typeof START];

export type Place = { readonly node: NodeView; readonly slot: PoolSlot; readonly start: Start; readonly snapshot: Digest | undefined };

/** How an instance of the workload would start on the node. Kept, since looking into a node's snapshots was half the time of a plan. */
export function startOn(view: View, of: WorkloadView, node: NodeView): Start {
  const known = of.starts[node.index];
  if (known !== undefined) return known;
  const snapshot = snapshotFor(view, of, node.index);
  let start: Start = snapshot?.at === 'refused' ? START.coldOnly : START.none;
  if (snapshot?.digest !== undefined) start = node.node.snapshots.has(snapshot.digest) ? START.here : START.elsewhere;
  of.starts[node.index] = start;
  return start;
}

/** The workload's snapshot of the class of the node with this index. */
export function snapshotFor(view: View, of: WorkloadView, index: number): SnapshotView | undefined {
  return of.snapshots[view.classOf[index] ?? -1];
}

/** Whether one more instance fits now, beside what is kept for requests that waited before. Room that is being left may serve those. */
export function hasRoom(node: NodeView, memoryBytes: number): boolean {
  const kept = Math.max(0, node.claimed - node.leaving);
  const keptBytes = Math.max(0, node.claimedBytes - node.leavingBytes);
  return node.instances + kept < node.node.maxInstances && node.bytes + keptBytes + memoryBytes <= node.node.memoryBytes;
}

/** How many more instances would fit once those have gone that are about to, beside what is kept. */
export function placesSoon(node: NodeView, memoryBytes: number): number {
  return placesBeside(node, memoryBytes, node.claimed, node.claimedBytes);
}

/** The same, kept or not: how many could ever be woken there. */
export function placesInAll(node: NodeView, memoryBytes: number): number {
  return placesBeside(node, memoryBytes, 0, 0);
}

function placesBeside(node: NodeView, memoryBytes: number, claimed: number, claimedBytes: number): number {
  const places = node.node.maxInstances - node.instances + node.leaving - claimed;
  const bytes = node.node.memoryBytes - node.bytes + node.leavingBytes - claimedBytes;
  return Math.max(0, memoryBytes > 0 ? Math.min(places, Math.floor(bytes / memoryBytes)) : places);
}

/** A waiting request may use every core. What is made ready ahead leaves one, so that the next request to wait finds it free. */
export function coreIsFree(node: NodeView, start: Start, ahead: boolean): boolean {
  const cores = ahead && node.node.cores > 1 ? node.node.cores - 1 : node.node.cores;
  return (start === START.coldOnly || start === START.none ? node.starting : node.restoring) < cores;
}

/**
 * The slot to wake next: on a node with room, where it starts best, with the fewest restores running, then the one with most room, so that
 * instances spread. Undefined if there is none, or if a better start than the free ones is only waiting for a core: that takes milliseconds,
 * a pull or a cold start seconds. Ahead of requests only what starts at its best is woken; the rest is pulled or warmed first.
 */
export function pickSlot(view: View, of: WorkloadView, { ahead }: { ahead: boolean }): Place | undefined {
  let best: { node: NodeView; start: Start } | undefined;
  let waitsForCore: Start | undefined;
  // What a slot holds as its state is nowhere else: it is woken before any other, even if its node must first have room.
  const resumes = of.suspended > 0;
  for (const [node, { parked, suspended }] of of.at) {
    if ((resumes ? suspended : parked).length === 0 || !hasRoom(node, of.workload.memoryBytes)) continue;
    const start = resumes ? START.here : startOn(view, of, node);
    if (ahead && start > START.coldOnly) continue;
    if (!coreIsFree(node, start, ahead))
      waitsForCore = Math.min(waitsForCore ?? start, start) as Start; // the lesser of two of them
    else if (best === undefined || start < best.start || (start === best.start && isBetter(node, best.node))) best = { node, start };
  }
  if (best === undefined || (waitsForCore !== undefined && waitsForCore < best.start)) return undefined;
  const { parked = [], suspended = [] } = of.at.get(best.node) ?? {};
  // Those with state first, and of these the one that was used last.
  const slot = suspended.reduce<PoolSlot | undefined>(newer, undefined) ?? parked.reduce<PoolSlot | undefined>(older, undefined);
  if (slot === undefined) return undefined;
  const snapshot = slot.state === 'suspended' ? slot.suspended : snapshotFor(view, of, best.node.index)?.digest;
  return { node: best.node, slot, start: best.start, snapshot };
}

/** Where a seed could be made now: a node of a class without snapshot or seed. Undefined if there is none. */
export function pickSeedNode(view: View, of: WorkloadView, { ahead }: { ahead: boolean }): NodeView | undefined {
  let best: NodeView | undefined;
  if (!of.snapshots.some(lacksSeed)) return undefined;
  for (const node of view.nodes) {
    const snapshot = snapshotFor(view, of, node.index);
    if (snapshot === undefined || !lacksSeed(snapshot)) continue;
    if (!coreIsFree(node, START.none, ahead) || !hasRoom(node, of.workload.memoryBytes)) continue;
    if (best === undefined || node.starting < best.starting || (node.starting === best.starting && isBetter(node, best))) best = node;
  }
  return best;
}

/**
 * As {@link pickSeedNode} for a fixed pool: the parked slot that should become the seed. Ahead of requests only where no slot of the workload ever had an
 * application: else each that makes no snapshot would be followed by another.
 */
export function pickSeedSlot(view: View, of: WorkloadView, { ahead }: { ahead: boolean }): Place | undefined {
  let best: NodeView | undefined;
  if (!of.snapshots.some(lacksSeed) || (ahead && of.lastUsedMs > 0)) return undefined;
  for (const [node, { parked }] of of.at) {
    const snapshot = snapshotFor(view, of, node.index);
    if (parked.length === 0 || snapshot === undefined || !lacksSeed(snapshot)) continue;
    if (!coreIsFree(node, START.none, ahead) || !hasRoom(node, of.workload.memoryBytes)) continue;
    if (best === undefined || node.starting < best.starting || (node.starting === best.starting && isBetter(node, best))) best = node;
  }
  if (best === undefined) return undefined;
  const slot = of.at.get(best)?.parked.reduce<PoolSlot | undefined>(older, undefined);
  return slot && { node: best, slot, start: START.none, snapshot: undefined };
}

function lacksSeed({ at, seeded }: SnapshotView): boolean {
  return at === 'none' && !seeded;
}

function isBetter(a: NodeView, b: NodeView): boolean {
  if (a.restoring !== b.restoring) return a.restoring < b.restoring;
  const fullA = fullness(a);
  const fullB = fullness(b);
  if (fullA !== fullB) return fullA < fullB;
  return a.node.name < b.node.name;
}

/** The share of a node that is taken, by count or memory, whichever is more. */
export function fullness({ instances, claimed, bytes, claimedBytes, node }: NodeView): number {
  return Math.max((instances + claimed) / Math.max(1, node.maxInstances), (bytes + claimedBytes) / Math.max(1, node.memoryBytes));
}

function older(a: PoolSlot | undefined, b: PoolSlot): PoolSlot {
  if (a === undefined || b.sinceMs !== a.sinceMs) return a === undefined || b.sinceMs < a.sinceMs ? b : a;
  return b.uid < a.uid ? b : a;
}

function newer(a: PoolSlot | undefined, b: PoolSlot): PoolSlot {
  if (a === undefined || b.sinceMs !== a.sinceMs) return a === undefined || b.sinceMs > a.sinceMs ? b : a;
  return b.uid < a.uid ? b : a;
}
