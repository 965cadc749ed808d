import { expect, test } from 'vitest';
import { hearOfContainers } from '../../../src/cluster/cri-news.ts';
import { monotonicClock as clock } from '../../../src/lib/clock.ts';
import { RekindleError } from '../../../src/lib/errors.ts';
import { silentLog as log } from '../../../src/lib/log.ts';
import { until } from '../../fixtures/until.ts';

/** A runtime that says what a test says. */
function aRuntime(version = 'containerd 2.1.9') {
  const streams: { say: (podUid: string) => void; break: () => void }[] = [];
  const cri = {
    version: async () => version,
    follow: (say: (podUid: string) => void) =>
      new Promise<void>((_, reject) => {
        const error = new RekindleError('machine_unsupported', 'it was restarted', { retryable: true });
        streams.push({ say, break: () => reject(error) });
      }),
  };
  return { cri, streams, stream: (nth: number) => until(`listened to ${nth} times`, () => streams[nth - 1], 5_000) };
}

test('a runtime that was restarted is listened to again', async () => {
  const stop = new AbortController();
  const { cri, stream } = aRuntime();
  const heard: string[] = [];
  const done = hearOfContainers({ cri, clock, log }, (uid) => heard.push(uid), stop.signal);

  const first = await stream(1);
  first.say('one');
  first.break();
  const second = await stream(2);
  second.say('two');
  stop.abort();
  second.break();
  await done;

  expect(heard).toEqual(['one', 'two']);
});

test('a containerd that tells one listener only is left to the kubelet', async () => {
  const stop = new AbortController();
  const { cri, streams } = aRuntime('containerd 1.7.27');
  const done = hearOfContainers({ cri, clock, log }, () => undefined, stop.signal);

  await new Promise((resolve) => setTimeout(resolve, 50));
  stop.abort();
  await done;

  expect(streams).toEqual([]);
});
