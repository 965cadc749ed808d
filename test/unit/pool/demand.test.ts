import fc from 'fast-check';
import { expect, test } from 'vitest';
import { average, emptyWindow, observe, ratePerSecond, type Sample, type Window } from '../../../src/pool/demand.ts';

const KEEP_MS = 60_000;

function windowOf(samples: readonly Sample[]): Window {
  return samples.reduce(observe, emptyWindow(KEEP_MS));
}

function everySecond(seconds: number, sample: (second: number) => Partial<Sample>): Sample[] {
  return Array.from({ length: seconds }, (_, i) => ({ atMs: i * 1_000, concurrency: 0, arrivals: 0, ...sample(i) }));
}

test('a constant concurrency is its own average, from the first sample on', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 200 }),
      fc.integer({ min: 0, max: 500 }),
      fc.integer({ min: 1, max: KEEP_MS }),
      (n, concurrency, span) => {
        const window = windowOf(everySecond(n, () => ({ concurrency })));

        expect(average(window, (n - 1) * 1_000, span)).toBeCloseTo(concurrency);
      },
    ),
  );
});

test('a short window sees a burst before a long one does', () => {
  const window = windowOf(everySecond(60, (second) => ({ concurrency: second < 57 ? 0 : 100 })));

  expect(average(window, 59_999, 6_000)).toBe(50);
  expect(average(window, 59_999, 60_000)).toBe(5);
});

test('seconds without samples count as no demand, so that a gateway that went away is not held for a busy one', () => {
  const window = windowOf(everySecond(6, () => ({ concurrency: 10 })));

  expect(average(window, 8_999, 6_000)).toBe(5);
  expect(average(window, 60_000, 6_000)).toBe(0);
});

test('arrivals are counted per second, however many samples there are in one', () => {
  const window = windowOf(
    everySecond(10, () => ({})).flatMap((sample) => [
      { ...sample, arrivals: 3 },
      { ...sample, atMs: sample.atMs + 500, arrivals: 1 },
    ]),
  );

  expect(ratePerSecond(window, 9_999, 6_000)).toBe(4);
});

test('a window keeps no more than it must, and survives a clock that jumps', () => {
  fc.assert(
    fc.property(
      fc.array(fc.record({ atMs: fc.integer({ min: -1e12, max: 1e13 }), concurrency: fc.nat(100), arrivals: fc.nat(100) })),
      fc.integer(),
      (samples, nowMs) => {
        const window = windowOf(samples);

        expect(window.buckets.length).toBeLessThanOrEqual(KEEP_MS / 1_000);
        expect(average(window, nowMs, 6_000)).toBeGreaterThanOrEqual(0);
        expect(average(window, nowMs, 6_000)).toBeLessThanOrEqual(100);
        expect(ratePerSecond(window, nowMs, 6_000)).toBeGreaterThanOrEqual(0);
      },
    ),
  );
});
