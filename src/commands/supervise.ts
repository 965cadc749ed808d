import type { Clock } from '../lib/clock.ts';
import type { Service } from '../lib/exec.ts';

/** A program that is started again whenever it ends, until it is stopped. */
export type Supervised = {
  /** Of the program that runs now. */
  readonly pid: () => number | undefined;
  /** Asks it to end (SIGTERM), kills it after `graceMs`, and starts it no more. Safe to repeat. */
  stop(graceMs: number): Promise<void>;
};

export type SuperviseDeps = {
  readonly clock: Clock;
  /** Told of every start, and of every end that nobody asked for, with the reason. */
  readonly onStart: (name: string, pid: number | undefined) => void;
  readonly onEnd: (name: string, why: string, againInMs: number) => void;
};

const FIRST_PAUSE_MS = 100;
const MAX_PAUSE_MS = 5_000;
/** One that ran so long was well: its next end is no row of failures. */
const WELL_MS = 10_000;

/** Keeps a program running: at once again after an end, and more slowly while it fails in a row. */
export function supervise(name: string, start: () => Promise<Service> | Service, deps: SuperviseDeps): Supervised {
  const { clock, onStart, onEnd } = deps;
  const stopping = new AbortController();
  let service: Service | undefined;
  const runs = async (): Promise<void> => {
    let pauseMs = FIRST_PAUSE_MS;
    while (!stopping.signal.aborted) {
      const startedAt = performance.now();
      const why = await Promise.resolve()
        .then(start)
        .then((started) => {
          service = started;
          onStart(name, started.pid);
          return started.ended;
        })
        .catch((error: unknown) => (error instanceof Error ? error.message : String(error)));
      service = undefined;
      if (stopping.signal.aborted) return;
      pauseMs = performance.now() - startedAt > WELL_MS ? FIRST_PAUSE_MS : Math.min(2 * pauseMs, MAX_PAUSE_MS);
      onEnd(name, why, pauseMs);
      await clock.sleep(pauseMs, stopping.signal).catch(() => undefined);
    }
  };
  const done = runs();
  return {
    pid: () => service?.pid,
    stop: async (graceMs) => {
      stopping.abort();
      const over = new AbortController();
      service?.kill('SIGTERM');
      await Promise.race([done, clock.sleep(graceMs, over.signal).catch(() => undefined)]);
      over.abort();
      service?.kill('SIGKILL');
      await done;
    },
  };
}
