import type { SnapshotPhase } from '../pool/state.ts';
import type { NodeTruth, Seen, WorkloadTruth } from '../queue/truth.ts';

type Known = { readonly phase: SnapshotPhase; readonly rank: number; readonly createdAtMs: number };

/** By workload and class of nodes, the best that any node says of the current revision: a snapshot (the newest), one being made, that none is tried. */
export function phasesOf(nodes: readonly Seen<NodeTruth>[], workloads: readonly WorkloadTruth[]): Map<string, Map<string, SnapshotPhase>> {
  const best = new Map(workloads.map(({ name }) => [name, new Map<string, Known>()]));
  const revisions = new Map(workloads.map(({ name, revision }) => [name, revision]));
  for (const { said } of nodes) {
    const created = new Map(said.snapshots.map(({ digest, createdAtMs }) => [digest, createdAtMs]));
    for (const told of said.phases) {
      const classes = best.get(told.workload);
      if (classes === undefined || told.revision !== revisions.get(told.workload)) continue;
      const found = knownOf(said.name, told, created);
      const before = classes.get(said.machineClass);
      if (found !== undefined && (before === undefined || isBetter(found, before))) classes.set(said.machineClass, found);
    }
  }
  return new Map([...best].map(([name, classes]) => [name, new Map([...classes].map(([key, { phase }]) => [key, phase]))]));
}

function knownOf(node: string, { at, digest, slot }: NodeTruth['phases'][number], created: ReadonlyMap<string, number>): Known | undefined {
  if (at === 'refused') return { phase: { at }, rank: 1, createdAtMs: 0 };
  if (at === 'warming') return { phase: { at, node, ...(slot === undefined ? {} : { slot }) }, rank: 2, createdAtMs: 0 };
  if (at !== 'ready' || digest === undefined) return undefined;
  return { phase: { at, digest }, rank: 3, createdAtMs: created.get(digest) ?? 0 };
}

function isBetter(a: Known, b: Known): boolean {
  if (a.rank !== b.rank) return a.rank > b.rank;
  if (a.createdAtMs !== b.createdAtMs) return a.createdAtMs > b.createdAtMs;
  return a.phase.at === 'ready' && b.phase.at === 'ready' && a.phase.digest < b.phase.digest;
}
