/** What retention looks at: the snapshots of ONE workload. */
export type Kept = { readonly digest: string; readonly specHash: string; readonly createdAtMs: number; readonly totalBytes: number };

export type RetentionPolicy = {
  /** How many snapshots of the workload are kept. */
  readonly keep: number;
  readonly maxTotalBytes?: number;
  readonly maxAgeMs?: number;
  /** Spec hashes that containers would start with now. */
  readonly live: ReadonlySet<string>;
};

export type Removal = { readonly digest: string; readonly because: 'age' | 'count' | 'size' };

/**
 * Which snapshots of one workload to remove, oldest first. The newest of each live spec hash is never removed for count or size, even where
 * the limit is then exceeded: the next container would start cold and make the same snapshot again, for ever. Age removes it too: it says
 * how old a state may be at all, and a fresh seed follows.
 */
export function chooseForRemoval(snapshots: readonly Kept[], policy: RetentionPolicy, nowMs: number): readonly Removal[] {
  const newestFirst = snapshots.toSorted((a, b) => b.createdAtMs - a.createdAtMs || (a.digest < b.digest ? -1 : 1));
  const maxAgeMs = policy.maxAgeMs ?? Number.POSITIVE_INFINITY;
  const young = newestFirst.filter((one) => nowMs - one.createdAtMs <= maxAgeMs);
  const removals: Removal[] = newestFirst
    .filter((one) => !young.includes(one))
    .reverse()
    .map(({ digest }) => ({ digest, because: 'age' }));

  const needed = new Set<string>();
  const seen = new Set<string>();
  for (const one of young) {
    if (policy.live.has(one.specHash) && !seen.has(one.specHash)) needed.add(one.digest);
    seen.add(one.specHash);
  }
  let count = young.length;
  let bytes = young.reduce((sum, one) => sum + one.totalBytes, 0);
  for (const one of young.toReversed()) {
    const because = count > policy.keep ? 'count' : bytes > (policy.maxTotalBytes ?? Number.POSITIVE_INFINITY) ? 'size' : undefined;
    if (because === undefined) break;
    if (needed.has(one.digest)) continue;
    removals.push({ digest: one.digest, because });
    count -= 1;
    bytes -= one.totalBytes;
  }
  return removals;
}
