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
