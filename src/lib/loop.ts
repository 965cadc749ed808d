import type { Clock } from './clock.ts';
import type { Log } from './log.ts';

/**
 * Something that is kept true. One pass looks at the whole state, acts, and says when to look again (`Infinity`: only when woken). Safe to
 * repeat at any time; it remembers nothing that matters.
 */
export interface Controller {
  readonly name: string;
  reconcile(signal: AbortSignal): Promise<{ readonly requeueAfterMs: number }>;
}

export type LoopDeps = {
  readonly log: Log;
  readonly clock: Clock;
  /** Called after every pass, for metrics; `name` is the controller's. */
  readonly onPass?: (name: string, outcome: 'ok' | 'failed') => void;
};

export type Loop = {
  /** Asks for a pass now; one that already runs is followed by another. A back-off after a failure is not shortened. */
  wake(): void;
  /** Resolves, never rejects, once the signal has aborted and the pass that ran has ended. */
  readonly done: Promise<void>;
};

const FIRST_BACKOFF_MS = 500;
const MAX_BACKOFF_MS = 60_000;
/** Node's timers fire at once above this. */
const MAX_SLEEP_MS = 2 ** 31 - 1;

/**
 * Runs the controller's passes one at a time until the signal aborts. A failed pass is tried again after 0.5 s, doubling up to a minute; the
 * first failure of a row and the recovery are logged.
 */
export function runLoop(controller: Controller, deps: LoopDeps, signal: AbortSignal): Loop {
  const log = deps.log.child({ loop: controller.name });
  let woken = false;
  let interrupt: AbortController | undefined;

  const pause = async (ms: number, mayBeWoken: boolean): Promise<void> => {
    if (mayBeWoken && woken) return;
    interrupt = mayBeWoken ? new AbortController() : undefined;
    const until = interrupt === undefined ? signal : AbortSignal.any([signal, interrupt.signal]);
    // The only rejection is the abort itself, which the caller's loop looks at.
    await deps.clock.sleep(Math.min(ms, MAX_SLEEP_MS), until).catch(() => undefined);
    interrupt = undefined;
  };

  const passes = async (): Promise<void> => {
    let failures = 0;
    while (!signal.aborted) {
      woken = false;
      try {
        const { requeueAfterMs } = await controller.reconcile(signal);
        if (failures > 0) log.info({ failures }, 'loop recovered');
        failures = 0;
        deps.onPass?.(controller.name, 'ok');
        await pause(requeueAfterMs, true);
      } catch (err) {
        if (signal.aborted) return;
        if (failures === 0) log.error({ err }, 'loop failed');
        deps.onPass?.(controller.name, 'failed');
        await pause(Math.min(FIRST_BACKOFF_MS * 2 ** failures, MAX_BACKOFF_MS), false);
        failures += 1;
      }
    }
  };

  return {
    wake: () => {
      woken = true;
      interrupt?.abort();
    },
    done: passes(),
  };
}
