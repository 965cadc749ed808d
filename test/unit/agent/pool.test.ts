import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { pino } from 'pino';
import { expect, onTestFinished, test } from 'vitest';
import { SUSPENDED_PREFIX } from '../../../src/agent/inventory.ts';
import { processTree } from '../../../src/checkpoint/process.ts';
import { RekindleError } from '../../../src/lib/errors.ts';
import type { Container, PoolMembership } from '../../../src/workloads/host.ts';
import { until } from '../../fixtures/until.ts';
import { aFolder, never, publish } from '../snapshots/builders.ts';
import { aContainer, anAgent } from './rig.ts';

const UID = 'slot-1';

/** A process in the place of a container's process 1, until the end of the test. */
function aProcess(program: string, args: readonly string[], argv0 = program): ChildProcess & { readonly pid: number } {
  const child = spawn(program, args, { argv0, detached: true });
  const { pid } = child;
  if (pid === undefined) throw new Error('no process');
  onTestFinished(() => void process.kill(-pid, 'SIGKILL'));
  return Object.assign(child, { pid });
}

/** State of proc_pid_stat(5). */
const stateOf = (pid: number): string => /\) (\w) /.exec(readFileSync(`/proc/${pid}/stat`, 'utf8'))?.[1] ?? '';

async function stop(pid: number): Promise<void> {
  process.kill(pid, 'SIGSTOP');
  await until('it stands still', () => stateOf(pid) === 'T');
}

/** A node whose earlier agent was killed, with the state of one suspended slot. */
async function aNode(overrides: Parameters<typeof anAgent>[1] = {}) {
  const folder = await aFolder();
  const lines: { msg: string; slot?: string; pool?: string; state?: string }[] = [];
  const log = pino({ level: 'info' }, { write: (line: string) => lines.push(JSON.parse(line)) });
  const written: PoolMembership[] = [];
  const rig = await anAgent(
    folder.path,
    {
      list: async () => [...rig.containers.values()],
      setPool: async (uid, pool) => {
        written.push(pool);
        const container = { ...(rig.containers.get(uid) ?? aContainer({ uid, pid: 1 })), pool };
        rig.containers.set(uid, container);
        return container;
      },
      end: async () => 137,
      ...overrides,
    },
    log,
  );
  const { digest } = await publish(rig.store, { workload: `${SUSPENDED_PREFIX}web` });
  const slot = () => rig.agent.pool.truth()[0];
  return {
    ...{ rig, lines, written, digest, slot, store: rig.store },
    adopt: (container: Container) => {
      rig.containers.set(container.uid, container);
      return rig.agent.pool.adopt([container], []);
    },
    [Symbol.asyncDispose]: async () => {
      await rig[Symbol.asyncDispose]();
      await folder[Symbol.asyncDispose]();
    },
  };
}

test('an application that was stopped for a suspension whose agent was killed goes on, and the state it was to leave is forgotten', async () => {
  await using node = await aNode();
  const { pid } = aProcess('sleep', ['60']);
  await stop(pid);

  await node.adopt(
    aContainer({
      uid: UID,
      pid,
      pool: { revision: 'r', parks: 0, suspended: node.digest, started: { how: 'cold', ms: 1, reason: 'first' } },
    }),
  );

  await until('it goes on', () => stateOf(pid) !== 'T');
  await until('the state is gone', async () => (await node.store.list()).length === 0);
  expect(node.written).toEqual([{ revision: 'r', parks: 0, started: { how: 'cold', ms: 1, reason: 'first' } }]);
  expect(node.slot()).toMatchObject({ state: 'cold', ready: true });
});

test('so does one that was restored', async () => {
  await using node = await aNode();
  const slot = aProcess('bash', ['-c', 'sleep 60 & wait'], '/rekindle/slot');
  const application = await until('its application', () => processTree(slot.pid)[1]);
  await stop(application);

  const started = { how: 'restore', ms: 1 } as const;
  await node.adopt(aContainer({ uid: UID, pid: slot.pid, pool: { revision: 'r', parks: 3, suspended: node.digest, started } }));

  await until('it goes on', () => stateOf(application) !== 'T');
  await until('the state is gone', async () => (await node.store.list()).length === 0);
  expect(node.written).toEqual([{ revision: 'r', parks: 3, started }]);
  expect(node.slot()).toMatchObject({ state: 'live', ready: true });
});

test('the state of a slot that started cold instead of being resumed stays', async () => {
  await using node = await aNode();
  const { pid } = aProcess('sleep', ['60']);

  await node.adopt(aContainer({ uid: UID, pid, pool: { revision: 'r', parks: 0, suspended: node.digest } }));
  await node.rig.agent.pool.reconcile();

  expect(node.slot()).toMatchObject({ state: 'cold' });
  expect(node.written).toEqual([]);
  expect((await node.store.list()).map(({ digest }) => digest)).toEqual([node.digest]);
});

test('a suspended slot that cannot be started is not removed with its state: it is tried again, and each change is a line of the log', async () => {
  let tries = 0;
  await using node = await aNode({
    startOver: async (container) => {
      if (++tries === 1) throw new RekindleError('container_failed', 'too much to do');
      return node.rig.start(container.uid, { pool: { ...(container.pool ?? { revision: 'r' }), parks: 1 } });
    },
  });
  // It has ended.
  const resting = aContainer({ uid: UID, pid: 4_194_303, pool: { revision: 'r', parks: 0, suspended: node.digest } });
  await node.rig.agent.pool.adopt([], [resting]);
  await until('it has failed', () => node.slot()?.state === 'failed');
  expect(node.slot()?.error).toBe('its state is kept, but too much to do');

  await node.rig.agent.pool.do({ name: 'remove', data: { slot: UID, parks: 0, park: false, why: 'failed' } }, never);

  expect(node.slot()).toMatchObject({ state: 'suspended', suspended: node.digest, parks: 1 });
  expect(node.lines.filter(({ msg }) => msg.includes('state'))).toMatchObject([
    { msg: 'slot changed state', slot: UID, pool: 'web', state: 'failed', error: 'its state is kept, but too much to do' },
    { msg: 'slot changed state', slot: UID, pool: 'web', state: 'suspended' },
  ]);
  expect((await node.store.list()).map(({ digest }) => digest)).toEqual([node.digest]);
});
