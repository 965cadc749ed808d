import fc from 'fast-check';
import { expect, test } from 'vitest';
import { quantile, resultTable } from '../../../src/commands/figures.ts';

test.each([
  [[], 0.5, 0],
  [[7], 0.99, 7],
  [[3, 1, 2], 0.5, 2],
  [[4, 3, 2, 1], 0.5, 2],
  [[10, 20, 30, 40, 50, 60, 70, 80, 90, 100], 0.99, 100],
  [[5, 1], 0, 1],
])('of %j the %d quantile is %d', (values, share, expected) => {
  expect(quantile(values, share)).toBe(expected);
});

test('at least the asked share of the values does not exceed a quantile, and it is one of them', () => {
  const values = fc.array(fc.integer({ min: -1000, max: 1000 }), { minLength: 1, maxLength: 50 });

  fc.assert(
    fc.property(values, fc.double({ min: 0, max: 1, noNaN: true }), (all, share) => {
      const found = quantile(all, share);
      expect(all).toContain(found);
      expect(all.filter((value) => value <= found).length / all.length).toBeGreaterThanOrEqual(share - 1e-9);
    }),
  );
});

test('the table of the demo says how many clones answered, and no figures of a sample that failed', () => {
  const figures = {
    name: 'node',
    coldMs: 1123.4,
    snapshotBytes: 86_762_338,
    freezeMs: 74.8,
    restoreMsP50: 60.7,
    restoreMsP99: 61.1,
    timesFaster: 18.51,
    clones: 10,
    failed: 1,
  };

  const outcomes = [
    { figures, cloneBytes: 87_900_000 },
    { figures: { ...figures, name: 'java', failed: 10 }, cloneBytes: 0 },
  ];
  expect(resultTable(outcomes).split('\n')).toEqual([
    'WORKLOAD  COLD START  SNAPSHOT  FREEZE  RESTORE P50    P99  FASTER   CLONES  MEMORY/CLONE',
    'node         1123 ms   86.8 MB   75 ms        61 ms  61 ms   18.5x  9 of 10       87.9 MB',
    'java               –         –       –            –      –       –  0 of 10             –',
  ]);
});
