/** What is asked of an instance before it is given a request. */
export type Candidate = {
  /** Requests of all gateways that it works on. */
  readonly inFlight: number;
  /** By a clock that only goes forward. */
  readonly lastUsedMs: number;
  /** Nothing new is sent to it: it ends when it is idle. */
  readonly draining: boolean;
  /** A connection to it has just failed; not before this time again. */
  readonly avoidUntilMs: number;
};

/**
 * The instance that a request goes to: the one with least to do, of equals the one that was used last, so that those not needed become idle and
 * end. Undefined when each has as many requests as it may have (`limit`), ends, or is avoided.
 */
export function pick<T extends Candidate>(ready: readonly T[], limit: number, nowMs: number): T | undefined {
  let best: T | undefined;
  for (const one of ready) {
    if (one.draining || one.inFlight >= limit || one.avoidUntilMs > nowMs) continue;
    const better =
      best === undefined || one.inFlight < best.inFlight || (one.inFlight === best.inFlight && one.lastUsedMs > best.lastUsedMs);
    if (better) best = one;
  }
  return best;
}

/** How many requests one instance is given at once. */
export function concurrencyLimit(pool: { readonly maxConcurrency?: number; readonly targetConcurrency: number }): number {
  return pool.maxConcurrency ?? Math.ceil(pool.targetConcurrency);
}
