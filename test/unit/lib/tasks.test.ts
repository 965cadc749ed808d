import { expect, test } from 'vitest';
import { Tasks } from '../../../src/lib/tasks.ts';

test('waits for all that runs, also for what fails, and counts it no more', async () => {
  const tasks = new Tasks();
  const good = Promise.withResolvers<string>();
  const bad = Promise.withResolvers<never>();
  const told = tasks.add(good.promise);
  void tasks.add(bad.promise);
  let settled = false;
  const all = tasks.settled().then(() => {
    settled = true;
  });

  bad.reject(new Error('no'));
  await expect(bad.promise).rejects.toThrow('no');
  const between = [tasks.size, settled];
  good.resolve('yes');
  await all;

  expect(between).toEqual([1, false]);
  expect(tasks.size).toBe(0);
  expect(await told).toBe('yes');
});

test('settles at once where nothing runs', async () => {
  await new Tasks().settled();
});
