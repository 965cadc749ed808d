import { expect, test } from 'vitest';
import { silentLog } from '../../../src/lib/log.ts';
import { parseRekindleFile } from '../../../src/workloads/file.ts';
import { until } from '../../fixtures/until.ts';
import { aFolder, publish } from '../snapshots/builders.ts';
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

test('what is still to be made is expected to be restored where a snapshot of its description is here, and it alone tells when it is ready', async () => {
  await using folder = await aFolder();
  await using rig = await anAgent(folder.path);
  const { agent, store, index, inventory } = rig;
  const expectedOf = (restore: string, revision = 'r1') => {
    const [workload] = parseRekindleFile(`workloads: { web: { container: { rootfs: host, command: [x] }${restore} } }`, 'f', '/');
    return workload && agent.expects({ workload, revision });
  };
  const { digest } = await publish(store);

  expect(expectedOf('')).toBeUndefined();
  index.set('web', 'r1', 'spec-1');
  expect(expectedOf('')).toBeUndefined();
  await inventory.refresh();
  expect(expectedOf('')).toBe(digest);

  expect(expectedOf('', 'r2')).toBeUndefined();
  expect(expectedOf(', restore: { cold: it says so }')).toBeUndefined();
  expect(expectedOf(', restore: { identity: file }')).toBeUndefined();
  expect(expectedOf(', restore: { after: { command: x } }')).toBeUndefined();
  expect(expectedOf(', checkpoint: { verify: first-restore }')).toBeUndefined();
  await store.prove(digest);
  expect(expectedOf(', checkpoint: { verify: first-restore }')).toBe(digest);
});

test('one that is not held is the seed once it can be held back, and else cold', async () => {
  await using folder = await aFolder();
  const asked: string[] = [];
  const holdBack = async ({ uid }: { uid: string }) => {
    asked.push(uid);
    return uid === 'again';
  };
  await using agent = await anAgent(folder.path, {}, silentLog, holdBack);
  const pod = { namespace: '', serviceAccount: '', container: '', security: '', sysctls: {}, revision: '', held: false };

  await agent.start('serves', { pod });
  expect(await until('its state', () => agent.stateOf('serves'))).toMatchObject({
    at: 'cold',
    why: 'no_snapshot',
    reason: expect.stringContaining('expected'),
  });
  await agent.start('again', { pod });
  expect(await until('its state', () => agent.stateOf('again'))).toMatchObject({ at: 'seed' });
  expect(asked).toEqual(['serves', 'again']);
});
