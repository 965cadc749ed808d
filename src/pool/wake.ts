import type { Action } from './actions.ts';
import { Makers } from './makers.ts';
import { fullness, type Place, pickSeedNode, pickSeedSlot, pickSlot, placesSoon, START, snapshotFor, startOn } from './place.ts';
import { Reclaim, waitedMs } from './reclaim.ts';
import { failsAlways, makeSlot, mayMake } from './spare.ts';
import { inTurns } from './turns.ts';
import { addInstance, addSeed, hereOf, type NodeView, type View, type WorkloadView, waitingSlots } from './view.ts';

type Restore = Extract<Action, { do: 'restore' }>;

/** Wakes slots for waiting requests, in turns; what cannot be woken now keeps the room that it will need, or gets some. */
export function wakeForWaiting(view: View, nowMs: number, actions: Action[]): void {
  const waking = { view, makers: new Makers({ view }), reclaim: new Reclaim({ view, nowMs }), actions, left: mostKept(view), nowMs };
  const claims = [...view.workloads.values()].map((of) => ({
    of,
    // A restore overtakes the cold starts that run.
    wants: of.forWaiting - of.serving + (canRestore(of) ? of.startingCold : 0),
    // Who just failed has had its turn.
    has: of.serving + of.failed.length,
    ageMs: waitedMs(of, nowMs),
    name: of.workload.name,
  }));
  // What is free only becomes less in a plan: who found nothing need not look again.
  const stuck = new Set<WorkloadView>();
  inTurns(claims, (of) => {
    const action = stuck.has(of) ? undefined : wakeOne(view, of);
    if (action === undefined) {
      stuck.add(of);
      return keepRoom(of, waking);
    }
    actions.push(action);
    return true;
  });
}

/** Places kept in one plan, per core: many more than can be woken before the next one, and so few that a great burst is planned in time. */
const KEPT_PER_CORE = 4;

function mostKept(view: View): number {
  return view.nodes.reduce((sum, { node }) => sum + KEPT_PER_CORE * Math.max(1, node.cores), 0);
}

type Waking = {
  readonly view: View;
  readonly makers: Makers;
  readonly reclaim: Reclaim;
  readonly actions: Action[];
  left: number;
  readonly nowMs: number;
};

/** Wakes slots for the instances there should be although nobody waits, and makes seeds for what has no snapshot yet, in turns. */
export function wakeAhead(view: View, actions: Action[]): void {
  const all = [...view.workloads.values()];
  const claim = (of: WorkloadView, wants: number) => ({ of, wants, has: of.serving + of.failed.length, ageMs: 0, name: of.workload.name });
  inTurns(
    all.map((of) => claim(of, of.desired - of.serving)),
    (of) => {
      const place = isFull(of) ? undefined : pickSlot(view, of, { ahead: true });
      if (place === undefined) return false;
      actions.push(wake(of, place, of.serving < of.workload.policy.min ? 'minimum' : 'demand'));
      return true;
    },
  );
  inTurns(
    all.map((of) => claim(of, of.desired > 0 || of.workload.policy.parked > 0 || of.workload.policy.fixed ? view.nodes.length : 0)),
    (of) => {
      const action = isFull(of) ? undefined : seedAhead(view, of);
      if (action === undefined) return false;
      actions.push(action);
      return true;
    },
  );
}

function seedAhead(view: View, of: WorkloadView): Action | undefined {
  if (of.workload.policy.fixed) {
    const place = pickSeedSlot(view, of, { ahead: true });
    return place && wakeSeed(view, of, place, 'seed');
  }
  const node = pickSeedNode(view, of, { ahead: true });
  return node && seed(view, of, node);
}

function wakeOne(view: View, of: WorkloadView): Action | undefined {
  if (isFull(of)) return undefined;
  const place = pickSlot(view, of, { ahead: false });
  if (place !== undefined && (place.start === START.here || place.start === START.elsewhere)) return wake(of, place, 'waiting');
  if (of.serving >= of.forWaiting || of.suspended > 0) return undefined;
  if (of.workload.policy.fixed) {
    const seedPlace = pickSeedSlot(view, of, { ahead: false });
    if (seedPlace !== undefined) return wakeSeed(view, of, seedPlace, 'waiting');
    return place && wake(of, place, 'waiting');
  }
  const node = pickSeedNode(view, of, { ahead: false });
  // The first that starts cold is the seed; while it becomes a snapshot, more start cold rather than wait for it.
  if (node !== undefined) return seed(view, of, node);
  return place && wake(of, place, 'waiting');
}

/** Keeps a place for one more instance where it will be woken as soon as a core, a slot or the room is there. False if there is none. */
function keepRoom(of: WorkloadView, waking: Waking): boolean {
  const { view, makers, reclaim, actions } = waking;
  const { policy, memoryBytes } = of.workload;
  if (waking.left <= 0 || of.serving + of.claimed >= policy.max) return false;
  const resumes = of.suspended > of.claimed;
  let node = bestWithSlot(view, of, resumes);
  if (node === undefined && !resumes && !policy.fixed) {
    if (failsAlways(of, waking.nowMs)) return false;
    const found = makers.for(of);
    // There is room, but its nodes are making as many slots as they can: the next plan goes on.
    if (found === 'later') return false;
    if (found !== undefined) actions.push(makeSlot(of, found));
    node = found;
  }
  if (node === undefined) {
    const found = reclaim.for(of, policy.fixed || resumes ? nodesWithSlot(of, resumes) : view.nodes);
    if (found === undefined) return false;
    node = found.node;
    actions.push(...found.actions);
    const here = hereOf(of, node);
    if (!policy.fixed && waitingSlots(here) <= here.claimed && mayMake(node)) actions.push(makeSlot(of, node));
  }
  hereOf(of, node).claimed += 1;
  node.claimed += 1;
  node.claimedBytes += memoryBytes;
  of.claimed += 1;
  waking.left -= 1;
  return true;
}

/** Where a slot waits that is not counted on yet and an instance will fit: the best start, then the emptiest node. */
function bestWithSlot(view: View, of: WorkloadView, resumes: boolean): NodeView | undefined {
  let best: { node: NodeView; start: number } | undefined;
  for (const [node, here] of of.at) {
    const slots = resumes ? here.suspended.length : waitingSlots(here);
    if (slots <= here.claimed || placesSoon(node, of.workload.memoryBytes) === 0) continue;
    const start = startOn(view, of, node);
    if (best === undefined || start < best.start || (start === best.start && fullness(node) < fullness(best.node))) best = { node, start };
  }
  return best?.node;
}

/** Where a slot waits that is not counted on yet. */
function nodesWithSlot(of: WorkloadView, resumes: boolean): NodeView[] {
  return [...of.at].flatMap(([node, here]) => ((resumes ? here.suspended.length : waitingSlots(here) - here.claimed) > 0 ? [node] : []));
}

function wake(of: WorkloadView, { node, slot, start, snapshot }: Place, why: 'waiting' | 'demand' | 'minimum'): Restore {
  const { parked, suspended } = hereOf(of, node);
  const list = slot.state === 'suspended' ? suspended : parked;
  list.splice(list.indexOf(slot), 1);
  if (slot.state === 'suspended') of.suspended -= 1;
  addInstance(of, node);
  if (start === START.coldOnly || start === START.none) {
    node.starting += 1;
    of.startingCold += 1;
  } else {
    node.restoring += 1;
  }
  return { do: 'restore', slot: slot.uid, node: slot.node, workload: slot.workload, snapshot, why };
}

function seed(view: View, of: WorkloadView, node: NodeView): Action {
  const { name, machineClass } = node.node;
  addSeed(of, node);
  const snapshot = snapshotFor(view, of, node.index);
  if (snapshot !== undefined) snapshot.seeded = true;
  return { do: 'warm', node: name, workload: of.workload.name, machineClass };
}

/** A slot of a fixed pool starts cold and becomes the seed. */
function wakeSeed(view: View, of: WorkloadView, place: Place, why: 'waiting' | 'seed'): Action {
  const snapshot = snapshotFor(view, of, place.node.index);
  if (snapshot !== undefined) snapshot.seeded = true;
  return { ...wake(of, place, 'waiting'), why, seed: true };
}

function canRestore(of: WorkloadView): boolean {
  return of.suspended > 0 || of.snapshots.some(({ at }) => at === 'ready');
}

/** Counts what leaves too: it serves no more, but it is there. */
function isFull(of: WorkloadView): boolean {
  return of.instances >= of.workload.policy.max;
}
