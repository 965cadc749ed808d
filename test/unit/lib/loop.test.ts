import { setTimeout as delay } from 'node:timers/promises';
import { pino } from 'pino';
import { expect, test } from 'vitest';
import type { Clock } from '../../../src/lib/clock.ts';
import { silentLog } from '../../../src/lib/log.ts';
import { type Controller, type LoopDeps, runLoop } from '../../../src/lib/loop.ts';

/** A clock whose sleeps last until `pass()`; it tells how long each was meant to be. */
function aClock(): Clock & { slept: number[]; pass(): void } {
  let waiting: (() => void)[] = [];
  const slept: number[] = [];
  return {
    now: () => 0,
    slept,
    sleep: (ms, signal) =>
      new Promise((resolve, reject) => {
        slept.push(ms);
        waiting.push(resolve);
        signal?.addEventListener('abort', () => reject(signal.reason), { once: true });
      }),
    pass: () => {
      for (const wake of waiting) wake();
      waiting = [];
    },
  };
}

function started(reconcile: Controller['reconcile'], extra: Partial<LoopDeps> = {}) {
  const clock = aClock();
  const stop = new AbortController();
  const loop = runLoop({ name: 'test', reconcile }, { log: silentLog, clock, ...extra }, stop.signal);
  return { clock, stop, loop };
}

test('a pass follows when the controller asked for it, or at once when woken', async () => {
  let passes = 0;
  const { clock, stop, loop } = started(async () => ({ requeueAfterMs: 1000 * ++passes }));

  await expect.poll(() => clock.slept).toEqual([1000]);
  clock.pass();
  await expect.poll(() => clock.slept).toEqual([1000, 2000]);
  loop.wake();
  await expect.poll(() => clock.slept).toEqual([1000, 2000, 3000]);

  stop.abort();
  await loop.done;
  expect(passes).toBe(3);
});

test('passes never overlap: a wake during one makes another follow', async () => {
  let running = 0;
  let most = 0;
  let passes = 0;
  const { stop, loop, clock } = started(async () => {
    most = Math.max(most, ++running);
    await delay(5);
    running -= 1;
    passes += 1;
    return { requeueAfterMs: Number.POSITIVE_INFINITY };
  });
  for (let i = 0; i < 10; i++) loop.wake();

  await expect.poll(() => clock.slept).toEqual([2 ** 31 - 1]);

  stop.abort();
  await loop.done;
  expect({ most, passes }).toEqual({ most: 1, passes: 2 });
});

test('failures back off, doubling up to a minute; the first and the recovery are logged, each is counted', async () => {
  const lines: string[] = [];
  const outcomes: string[] = [];
  let fail = true;
  const log = pino({ base: null }, { write: (line: string) => void lines.push(JSON.parse(line).msg) });
  const { clock, stop, loop } = started(
    async () => {
      if (fail) throw new Error('no');
      return { requeueAfterMs: 7 };
    },
    { log, onPass: (name, outcome) => outcomes.push(`${name} ${outcome}`) },
  );

  const waits = [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000];
  for (let i = 1; i <= waits.length; i++) {
    await expect.poll(() => clock.slept).toEqual(waits.slice(0, i));
    // Waking does not shorten a back-off.
    loop.wake();
    if (i === waits.length) fail = false;
    clock.pass();
  }
  await expect.poll(() => clock.slept).toEqual([...waits, 7]);

  stop.abort();
  await loop.done;
  expect(lines).toEqual(['loop failed', 'loop recovered']);
  expect(outcomes).toEqual([...waits.map(() => 'test failed'), 'test ok']);
});

test('an abort ends the loop at once, is handed to the pass, and is no failure', async () => {
  const outcomes: string[] = [];
  let begun = false;
  const { stop, loop } = started(
    async (signal) => {
      begun = true;
      await new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)));
      return { requeueAfterMs: 1 };
    },
    { onPass: (_name, outcome) => outcomes.push(outcome) },
  );
  await expect.poll(() => begun).toBe(true);

  stop.abort();
  await loop.done;

  expect(outcomes).toEqual([]);
});
