import { expect, test } from 'vitest';
import { parseQuantity } from '../../../src/cluster/quantity.ts';

test.each([
  ['500m', 0.5],
  ['0.1', 0.1],
  ['.5', 0.5],
  ['1.5Gi', 1.5 * 2 ** 30],
  ['128974848', 128974848],
  ['129e6', 129e6],
  ['129M', 129e6],
  ['1E', 1e18],
  ['1E3', 1000],
  ['100n', 1e-7],
  ['-1Ki', -1024],
  [2, 2],
])('%s is %d', (text, value) => {
  expect(parseQuantity(text)).toBeCloseTo(value, 9);
});

test.each(['', 'x', '1 Gi', '1KB', '1gi', '1toString', '--1', undefined])('%j is no quantity', (text) => {
  expect(parseQuantity(text)).toBeUndefined();
});
