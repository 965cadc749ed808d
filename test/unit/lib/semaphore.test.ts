import { expect, test } from 'vitest';
import { Semaphore } from '../../../src/lib/semaphore.ts';

const never = new AbortController().signal;

test('so many run at once, and the others in the order in which they came', async () => {
  const semaphore = new Semaphore(2);
  const began: number[] = [];
  const gates = Array.from({ length: 5 }, () => Promise.withResolvers<void>());
  const runs = gates.map(({ promise }, i) =>
    semaphore.run(async () => {
      began.push(i);
      await promise;
    }, never),
  );

  await Promise.resolve();
  expect(began).toEqual([0, 1]);

  gates[1]?.resolve();
  await runs[1];
  expect(began).toEqual([0, 1, 2]);
  for (const { resolve } of gates) resolve();
  await Promise.all(runs);
  expect(began).toEqual([0, 1, 2, 3, 4]);
});

test('work that fails gives its place to the next', async () => {
  const semaphore = new Semaphore(1);
  const failing = semaphore.run(() => Promise.reject(new Error('no')), never);
  const next = semaphore.run(() => Promise.resolve('done'), never);

  await expect(failing).rejects.toThrow('no');
  expect(await next).toBe('done');
});

test('who stops waiting never begins, and nobody else loses a place', async () => {
  const semaphore = new Semaphore(1);
  const gate = Promise.withResolvers<void>();
  const first = semaphore.run(() => gate.promise, never);
  const impatient = new AbortController();
  const left = semaphore.run(() => Promise.reject(new Error('began')), impatient.signal);
  const patient = semaphore.run(() => Promise.resolve('done'), never);

  impatient.abort(new Error('enough'));

  await expect(left).rejects.toThrow('enough');
  gate.resolve();
  await first;
  expect(await patient).toBe('done');
});
