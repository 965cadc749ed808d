import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { monotonicClock } from '../../../src/lib/clock.ts';
import { lookUntil } from '../../../src/local/exit-watch.ts';

const never = new AbortController().signal;
let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'rekindle-watch-'));
});
afterEach(() => rm(dir, { recursive: true, force: true }));

test('what is there already is seen at once, and what comes later as soon as it is there', async () => {
  const clock = { sleep: (_ms: number, signal?: AbortSignal) => monotonicClock.sleep(60_000, signal) };
  let looks = 0;
  const look = async () => (++looks > 1 ? looks : undefined);

  expect(await lookUntil(dir, async () => 7, clock, never)).toBe(7);
  const seen = lookUntil(dir, look, clock, never);
  await monotonicClock.sleep(20);
  await writeFile(join(dir, 'exit'), '0');

  expect(await seen).toBe(2);
});

test('a directory that is gone is looked after all the same', async () => {
  let looks = 0;

  expect(await lookUntil(join(dir, 'none'), async () => (++looks > 3 ? 'seen' : undefined), monotonicClock, never)).toBe('seen');
});

test('an abort ends it with its own reason', async () => {
  const giveUp = new AbortController();
  const seen = lookUntil(dir, async () => undefined, monotonicClock, giveUp.signal);

  setTimeout(() => giveUp.abort(new Error('enough')), 10);

  await expect(seen).rejects.toThrow('enough');
});

test('a look leaves nothing behind, so that it may go on for days', async () => {
  setFlagsFromString('--expose-gc');
  const collect: () => void = runInNewContext('gc');
  let looks = 0;
  let before = 0;
  const heap = () => {
    collect();
    return process.memoryUsage().heapUsed;
  };

  await lookUntil(
    dir,
    async () => {
      if (++looks === 1_000) before = heap();
      return looks === 31_000 ? true : undefined;
    },
    { sleep: async () => undefined },
    never,
  );

  expect((heap() - before) / 30_000).toBeLessThan(100);
});
