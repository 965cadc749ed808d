import { watch } from 'node:fs/promises';
import type { Clock } from '../lib/clock.ts';

/** What a change does not tell: that a process is gone which nobody writes an exit file for. */
const LOOK_EVERY_MS = 1_000;
/** Nothing more to watch: the container is being removed. */
const LOOK_SOON_MS = 50;

/**
 * Looks until there is something to see, at once and again whenever something changes in `dir`. An abort rejects with the signal's reason. It may take days, so
 * nothing is kept of a look.
 */
export async function lookUntil<T>(
  dir: string,
  look: () => Promise<T | undefined>,
  clock: Pick<Clock, 'sleep'>,
  signal: AbortSignal,
): Promise<T> {
  const stop = new AbortController();
  let pauseMs = LOOK_EVERY_MS;
  let turn = new AbortController();
  const follow = async () => {
    try {
      for await (const _ of watch(dir, { signal: AbortSignal.any([signal, stop.signal]) })) turn.abort();
    } catch {
      // Aborted, or the directory is gone.
    }
    pauseMs = LOOK_SOON_MS;
    turn.abort();
  };
  // Before the first look, so that no change is missed.
  const following = follow();
  try {
    for (;;) {
      signal.throwIfAborted();
      turn = new AbortController();
      const seen = await look();
      if (seen !== undefined) return seen;
      await clock.sleep(pauseMs, turn.signal).catch(() => undefined);
    }
  } finally {
    stop.abort();
    await following;
  }
}
