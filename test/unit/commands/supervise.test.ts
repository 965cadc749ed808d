import { expect, test } from 'vitest';
import { supervise } from '../../../src/commands/supervise.ts';
import { systemClock } from '../../../src/lib/clock.ts';
import type { Service } from '../../../src/lib/exec.ts';
import { until } from '../../fixtures/until.ts';

/** Programs that end when they are told to, or when the test says so. */
function programs(options: { obeys?: boolean } = {}) {
  const started: { end: (why: string) => void; signals: string[] }[] = [];
  const start = (): Service => {
    const ended = Promise.withResolvers<string>();
    const signals: string[] = [];
    started.push({ end: ended.resolve, signals });
    const kill = (signal: NodeJS.Signals) => {
      signals.push(signal);
      if (signal === 'SIGKILL' || (options.obeys ?? true)) ended.resolve(signal);
    };
    return { pid: started.length, ended: ended.promise, kill };
  };
  return { started, start };
}

const told: string[] = [];
const deps = {
  clock: systemClock,
  onStart: (name: string, pid: number | undefined) => told.push(`${name} ${pid}`),
  onEnd: (_name: string, why: string) => told.push(why),
};

test('a program that ends is started again, and its end is told', async () => {
  told.length = 0;
  const { started, start } = programs();
  const kept = supervise('role', start, deps);
  await until('its start', () => started.length === 1);

  started[0]?.end('it crashed');
  await until('its second start', () => kept.pid() === 2);
  await kept.stop(1_000);

  expect(told).toEqual(['role 1', 'it crashed', 'role 2']);
  expect(started[1]?.signals[0]).toBe('SIGTERM');
  expect(started).toHaveLength(2);
});

test('one that cannot be started is tried again, ever more slowly', async () => {
  const at: number[] = [];
  const fails = () => {
    at.push(performance.now());
    throw new Error('no such program');
  };
  const kept = supervise('role', fails, deps);
  await until('three tries', () => at.length >= 3);
  await kept.stop(0);

  const [first = 0, second = 0, third = 0] = at;
  expect(third - second).toBeGreaterThan(second - first);
});

test('one that does not obey is killed when its time is up', async () => {
  const { started, start } = programs({ obeys: false });
  const kept = supervise('role', start, deps);
  await until('its start', () => started.length === 1);

  await kept.stop(20);

  expect(started[0]?.signals).toEqual(['SIGTERM', 'SIGKILL']);
});
