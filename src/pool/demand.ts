import type { Demand, PoolPolicy } from './state.ts';

/** What was seen at one moment: requests in flight and waiting then, and how many arrived since the sample before. */
export type Sample = { readonly atMs: number; readonly concurrency: number; readonly arrivals: number };

type Bucket = { readonly index: number; readonly samples: number; readonly concurrency: number; readonly arrivals: number };

/** The last samples of one workload, one bucket a second as Knative keeps them; immutable. */
export type Window = { readonly keepMs: number; readonly buckets: readonly Bucket[] };

const BUCKET_MS = 1_000;

/** An empty window that can be asked for spans up to `keepMs`. */
export function emptyWindow(keepMs: number): Window {
  return { keepMs, buckets: [] };
}

/** The window with one more sample. After the clock went back, samples count for the newest bucket until it has caught up. */
export function observe(window: Window, sample: Sample): Window {
  const last = window.buckets.at(-1);
  const index = Math.max(Math.floor(sample.atMs / BUCKET_MS), last?.index ?? Number.NEGATIVE_INFINITY);
  const before = last?.index === index ? last : { samples: 0, concurrency: 0, arrivals: 0 };
  const bucket = {
    index,
    samples: before.samples + 1,
    concurrency: before.concurrency + sample.concurrency,
    arrivals: before.arrivals + sample.arrivals,
  };
  const oldest = index - bucketsOf(window.keepMs);
  return { ...window, buckets: [...window.buckets.filter((one) => one.index > oldest && one.index < index), bucket] };
}

/** Mean concurrency over the last `spanMs`. A second without samples counts as none; the time before the first sample does not count. */
export function average(window: Window, nowMs: number, spanMs: number): number {
  const { buckets, count } = within(window, nowMs, spanMs);
  return count === 0 ? 0 : buckets.reduce((sum, one) => sum + one.concurrency / one.samples, 0) / count;
}

/** Arrivals per second over the last `spanMs`, or since the first sample. */
export function ratePerSecond(window: Window, nowMs: number, spanMs: number): number {
  const { buckets, count } = within(window, nowMs, spanMs);
  return count === 0 ? 0 : (buckets.reduce((sum, one) => sum + one.arrivals, 0) / count) * (1_000 / BUCKET_MS);
}

/** The demand that a plan looks at: what is now, and the averages of the policy's windows. */
export function demandOf(
  window: Window,
  now: Pick<Demand, 'inFlight' | 'waiting' | 'oldestWaitingMs'>,
  policy: Pick<PoolPolicy, 'stableWindowMs' | 'burstWindowMs'>,
  nowMs: number,
): Demand {
  const { inFlight, waiting, oldestWaitingMs } = now;
  return {
    inFlight,
    waiting,
    oldestWaitingMs,
    ratePerSecond: ratePerSecond(window, nowMs, policy.stableWindowMs),
    stableAverage: average(window, nowMs, policy.stableWindowMs),
    burstAverage: average(window, nowMs, policy.burstWindowMs),
  };
}

function within(window: Window, nowMs: number, spanMs: number): { buckets: readonly Bucket[]; count: number } {
  const first = window.buckets[0];
  if (first === undefined) return { buckets: [], count: 0 };
  // After the clock went back the newest bucket is still the present.
  const last = Math.max(Math.floor(nowMs / BUCKET_MS), window.buckets.at(-1)?.index ?? first.index);
  const span = bucketsOf(Math.min(spanMs, window.keepMs));
  return { buckets: window.buckets.filter(({ index }) => index > last - span), count: Math.min(span, last - first.index + 1) };
}

function bucketsOf(spanMs: number): number {
  return Math.max(1, Math.ceil(spanMs / BUCKET_MS));
}
