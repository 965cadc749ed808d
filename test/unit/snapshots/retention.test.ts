import fc from 'fast-check';
import { expect, test } from 'vitest';
import { chooseForRemoval, type Kept, type RetentionPolicy } from '../../../src/snapshots/retention.ts';

const NOW = 1_000;
const specHash = fc.constantFrom('a', 'b', 'c', 'd');
const snapshots = fc
  .array(fc.record({ specHash, createdAtMs: fc.integer({ min: 0, max: NOW }), totalBytes: fc.integer({ min: 0, max: 100 }) }), {
    maxLength: 20,
  })
  .map((all) => all.map((one, i): Kept => ({ ...one, digest: `d${i}` })));
const policy = fc.record(
  {
    keep: fc.integer({ min: 1, max: 6 }),
    maxTotalBytes: fc.integer({ min: 1, max: 600 }),
    maxAgeMs: fc.integer({ min: 1, max: NOW }),
    live: fc.uniqueArray(specHash).map((all) => new Set(all)),
  },
  { requiredKeys: ['keep', 'live'] },
);

function outcome(
  all: readonly Kept[],
  rules: RetentionPolicy,
): { left: readonly Kept[]; needed: ReadonlySet<string>; removed: ReadonlyMap<string, string> } {
  const removed = new Map(chooseForRemoval(all, rules, NOW).map(({ digest, because }) => [digest, because]));
  const needed = new Set<string>();
  for (const live of rules.live) {
    const newest = all
      .filter((one) => one.specHash === live)
      .sort((a, b) => b.createdAtMs - a.createdAtMs || (a.digest < b.digest ? -1 : 1))[0];
    if (newest !== undefined) needed.add(newest.digest);
  }
  return { left: all.filter(({ digest }) => !removed.has(digest)), needed, removed };
}

test('the newest of a live spec hash is removed for its age only', () => {
  fc.assert(
    fc.property(snapshots, policy, (all, rules) => {
      const { needed, removed } = outcome(all, rules);

      for (const digest of needed) expect(removed.get(digest) ?? 'age').toBe('age');
    }),
  );
});

test('what is left is within every limit, or is only what live spec hashes need', () => {
  fc.assert(
    fc.property(snapshots, policy, (all, rules) => {
      const { left, needed } = outcome(all, rules);

      const spare = left.filter(({ digest }) => !needed.has(digest));
      const bytes = left.reduce((sum, one) => sum + one.totalBytes, 0);
      if (left.length > rules.keep || bytes > (rules.maxTotalBytes ?? Number.POSITIVE_INFINITY)) expect(spare).toEqual([]);
      for (const one of left) expect(NOW - one.createdAtMs).toBeLessThanOrEqual(rules.maxAgeMs ?? NOW);
    }),
  );
});

test('nothing within all limits is removed, and a second look removes no more', () => {
  fc.assert(
    fc.property(snapshots, policy, (all, rules) => {
      const { left, removed } = outcome(all, rules);

      const bytes = all.reduce((sum, one) => sum + one.totalBytes, 0);
      const old = all.some((one) => NOW - one.createdAtMs > (rules.maxAgeMs ?? NOW));
      if (all.length <= rules.keep && bytes <= (rules.maxTotalBytes ?? bytes) && !old) expect(removed.size).toBe(0);
      expect(chooseForRemoval(left, rules, NOW)).toEqual([]);
    }),
  );
});

test('of what nobody needs, nothing is kept that is older than something removed', () => {
  fc.assert(
    fc.property(snapshots, policy, (all, rules) => {
      const { left, needed, removed } = outcome(all, rules);

      const oldestKept = Math.min(...left.filter(({ digest }) => !needed.has(digest)).map(({ createdAtMs }) => createdAtMs));
      for (const one of all) if (removed.has(one.digest)) expect(one.createdAtMs).toBeLessThanOrEqual(oldestKept);
    }),
  );
});

test('the reason of each removal is told, oldest first', () => {
  const kept = [900, 500, 100].map((createdAtMs): Kept => ({ digest: `d${createdAtMs}`, specHash: 'a', createdAtMs, totalBytes: 10 }));

  expect(chooseForRemoval(kept, { keep: 1, maxAgeMs: 800, live: new Set(['a']) }, NOW)).toEqual([
    { digest: 'd100', because: 'age' },
    { digest: 'd500', because: 'count' },
  ]);
});
