import { setTimeout as delay } from 'node:timers/promises';

/** Time as a dependency: fake timers do not reach `node:timers/promises`. */
export interface Clock {
  /** Milliseconds since the epoch. */
  now(): number;
  /** Resolves after `ms`; rejects with the signal's reason as soon as it aborts. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

export const systemClock: Clock = {
  now: () => Date.now(),
  sleep: async (ms, signal) => {
    try {
      await delay(ms, undefined, signal ? { signal } : undefined);
    } catch (error) {
      // Node's own error says only that there was an abort.
      throw signal?.aborted ? signal.reason : error;
    }
  },
};

/** As {@link systemClock}, but `now()` counts from the start of the process and never jumps: for ages, deadlines and leases. */
export const monotonicClock: Clock = { ...systemClock, now: () => performance.now() };
