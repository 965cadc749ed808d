import { expect, test } from 'vitest';
import { abortedAfter, orAborted, untilAborted } from '../../../src/lib/abort.ts';

test('what is waited for comes first, or the reason of the abort does', async () => {
  const stop = new AbortController();
  const never = orAborted(new Promise<never>(() => undefined), stop.signal);

  await expect(orAborted(Promise.resolve(1), stop.signal)).resolves.toBe(1);
  stop.abort(new Error('enough'));

  await expect(never).rejects.toThrow('enough');
  await expect(orAborted(new Promise<never>(() => undefined), stop.signal)).rejects.toThrow('enough');
});

test('the signal that aborts first is told, also one that has', async () => {
  const [one, other] = [new AbortController(), new AbortController()];
  const first = untilAborted(one.signal, other.signal);

  other.abort();

  expect(await first).toBe(other.signal);
  expect(await untilAborted(one.signal, other.signal)).toBe(other.signal);
});

test.each([[1.25], [0], [-3], [Number.POSITIVE_INFINITY], [1e12]])('%d milliseconds are a delay', (ms) => {
  expect(abortedAfter(ms).aborted).toBe(false);
});

test('what was reckoned with a fraction aborts, with a TimeoutError', async () => {
  const first = await untilAborted(abortedAfter(20.5), new AbortController().signal);

  expect(first.reason).toMatchObject({ name: 'TimeoutError' });
});
