export type Summary = { readonly count: number; readonly min: number; readonly p50: number; readonly p99: number; readonly max: number };

/** Of at least one value. Quantiles are values that occurred (nearest rank), so p99 of fewer than a hundred is the greatest. */
export function summarize(values: readonly number[]): Summary {
  if (values.length === 0) throw new Error('no values to summarize');
  const sorted = [...values].sort((a, b) => a - b);
  const rank = (q: number): number => sorted[Math.max(0, Math.ceil(q * sorted.length) - 1)] ?? Number.NaN;
  return { count: sorted.length, min: rank(0), p50: rank(0.5), p99: rank(0.99), max: rank(1) };
}

export const median = (values: readonly number[]): number => summarize(values).p50;
