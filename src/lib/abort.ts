/** The longest delay of a timer, see the documentation of `setTimeout`. */
const MAX_DELAY_MS = 2 ** 31 - 1;

/** Aborts after so many milliseconds, at most 24 days: what was reckoned may have a fraction, which `AbortSignal.timeout` refuses by throwing. */
export function abortedAfter(ms: number): AbortSignal {
  return AbortSignal.timeout(Math.min(Math.max(0, Math.ceil(ms)), MAX_DELAY_MS));
}

/** The promise, or the signal's reason as soon as that aborts. */
export async function orAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  const aborted = Promise.withResolvers<never>();
  const abort = () => aborted.reject(signal.reason);
  if (signal.aborted) abort();
  signal.addEventListener('abort', abort, { once: true });
  try {
    return await Promise.race([promise, aborted.promise]);
  } finally {
    signal.removeEventListener('abort', abort);
  }
}

/** Resolves with whichever signal aborts first. */
export function untilAborted(...signals: readonly AbortSignal[]): Promise<AbortSignal> {
  return new Promise((resolve) => {
    for (const signal of signals) {
      if (signal.aborted) resolve(signal);
      signal.addEventListener('abort', () => resolve(signal), { once: true });
    }
  });
}
