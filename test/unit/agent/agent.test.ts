import { expect, test } from 'vitest';
import { until } from '../../fixtures/until.ts';
import { aFolder } from '../snapshots/builders.ts';
import { anAgent } from './rig.ts';

test('of those that say hello at once one is made into the snapshot, and the others say so', async () => {
  await using folder = await aFolder();
  await using agent = await anAgent(folder.path);
  const uids = ['one', 'two', 'three', 'four'];

  await Promise.all(uids.map((uid) => agent.start(uid)));

  const states = await Promise.all(uids.map((uid) => until(`the state of ${uid}`, () => agent.stateOf(uid))));
  expect(states.map(({ at }) => at).sort()).toEqual(['cold', 'cold', 'cold', 'seed']);
  for (const state of states)
    if (state.at === 'cold')
      expect(state).toMatchObject({ why: 'no_snapshot', reason: 'no snapshot yet: another container is being made into one' });
});

test('one for which nothing can be decided starts cold, and the reason is told', async () => {
  await using folder = await aFolder();
  await using agent = await anAgent(folder.path);
  Object.defineProperty(agent.store, 'find', { value: () => Promise.reject(new Error('EIO: the disk does not answer')) });

  await agent.start('one');

  expect(await until('its state', () => agent.stateOf('one'))).toEqual({
    at: 'cold',
    why: 'failed',
    code: 'internal',
    reason: 'it could not be decided how it starts: EIO: the disk does not answer',
  });
});
