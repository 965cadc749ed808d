import { expect, test } from 'vitest';
import { Trials } from '../../../src/agent/trials.ts';
import { never } from '../snapshots/builders.ts';
import { aContainer } from './rig.ts';

const container = aContainer({ uid: 'u', name: 'trial-1', pid: 1 });

test('a trial whose slot says nothing ends soon, with that as the reason', async () => {
  const trials = new Trials({ helloMs: 20 });

  const slot = trials.slotOf(container, never);
  expect(trials.count).toBe(1);

  await expect(slot).rejects.toMatchObject({ code: 'container_failed', message: 'the slot of trial-1 said nothing within 20 ms' });
  expect(trials.count).toBe(0);
});

test('one that is given up ends with the reason for that', async () => {
  const giveUp = new AbortController();

  const slot = new Trials().slotOf(container, giveUp.signal);
  giveUp.abort(new Error('enough'));

  await expect(slot).rejects.toThrow('enough');
});
