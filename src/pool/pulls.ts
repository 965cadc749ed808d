import type { Action } from './actions.ts';
import { fullness, START, snapshotFor, startOn } from './place.ts';
import type { NodeView, View, WorkloadView } from './view.ts';

/** Snapshots on their way to one node at once: more would only make each later. */
const PULLS_PER_NODE = 2;
/** Nodes without a pod of the workload that get its snapshot ahead. */
const BESIDES = 8;

/**
 * Snapshots for the nodes where the next burst will want them: those with parked slots, or slots in the making, of the workload. From the
 * node that sends fewest by now. Workloads with waiting requests come first. Nobody knows where the next ordinary pods of a cluster will be: their
 * snapshots go where some are, and to the emptiest nodes besides.
 */
export function pullAhead(view: View, actions: Action[]): void {
  const sends = new Map<NodeView, number>();
  const all = [...view.workloads.values()];
  const inOrder = [...all.filter((of) => of.forWaiting > 0), ...all.filter((of) => of.forWaiting === 0)];
  for (const of of inOrder) {
    for (const to of of.workload.spread === undefined ? withSlots(of) : withFewBesides(view, of, of.workload.spread)) {
      if (to.pulling >= PULLS_PER_NODE) continue;
      const digest = snapshotFor(view, of, to.index)?.digest;
      if (digest === undefined || to.node.snapshots.has(digest) || to.node.pulling.has(digest)) continue;
      const from = leastSending(view, digest, sends);
      if (from === undefined) continue;
      sends.set(from, (sends.get(from) ?? 0) + 1);
      to.pulling += 1;
      actions.push({ do: 'pull', node: to.node.name, workload: of.workload.name, digest, from: from.node.name });
    }
  }
}

function withSlots(of: WorkloadView): NodeView[] {
  return [...of.at].flatMap(([node, { parked, making }]) => (parked.length > 0 || making > 0 ? [node] : []));
}

/** Nodes that have it already are among the few: it does not creep over the whole cluster. */
function withFewBesides(view: View, of: WorkloadView, spread: ReadonlySet<string>): NodeView[] {
  const starts = new Map(view.nodes.map((node) => [node, startOn(view, of, node)]));
  const besides = view.nodes
    .filter((node) => !spread.has(node.node.name) && (starts.get(node) === START.here || starts.get(node) === START.elsewhere))
    .toSorted((a, b) => (starts.get(a) ?? 0) - (starts.get(b) ?? 0) || fullness(a) - fullness(b));
  return [...view.nodes.filter(({ node }) => spread.has(node.name)), ...besides.slice(0, BESIDES)];
}

function leastSending(view: View, digest: string, sends: ReadonlyMap<NodeView, number>): NodeView | undefined {
  const holders = view.nodes.filter(({ node }) => node.snapshots.has(digest));
  return holders.reduce<NodeView | undefined>((a, b) => (a === undefined || (sends.get(b) ?? 0) < (sends.get(a) ?? 0) ? b : a), undefined);
}
