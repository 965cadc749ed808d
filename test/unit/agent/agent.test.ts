import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { Agent } from '../../../src/agent/agent.ts';
import type { AgentEvent, InstanceState } from '../../../src/agent/events.ts';
import { Inventory } from '../../../src/agent/inventory.ts';
import { SpecIndex } from '../../../src/agent/spec-index.ts';
import { RestoreHelpers } from '../../../src/checkpoint/restore-helpers.ts';
import { monotonicClock } from '../../../src/lib/clock.ts';
import { exec, spawnDuplex } from '../../../src/lib/exec.ts';
import { silentLog } from '../../../src/lib/log.ts';
import { SlotServer } from '../../../src/slots/slot-server.ts';
import { parseRekindleFile } from '../../../src/workloads/file.ts';
import type { Container, ContainerMaker } from '../../../src/workloads/host.ts';
import { SlotProcess } from '../../fixtures/slot-process.ts';
import { until } from '../../fixtures/until.ts';
import { aFolder, aStore, machine } from '../snapshots/builders.ts';

const [workload] = parseRekindleFile(
  'workloads: { web: { container: { rootfs: host, command: [x], readiness: check } } }',
  'rekindle.yaml',
);

/** An agent of real slots that runs no CRIU: what starts cold never gets ready. */
async function anAgent(dir: string) {
  if (workload === undefined) throw new Error('no workload');
  const containers = new Map<string, Container>();
  const unused = async () => {
    throw new Error('not in this test');
  };
  const host: ContainerMaker = {
    ...{ create: unused, restart: unused, startOver: unused, setPool: unused, resting: unused, end: unused, remove: unused },
    find: (uid) => until(`container ${uid}`, () => containers.get(uid)),
    isLeaving: async () => false,
    list: async () => [],
    exec: async () => ({ status: 1, output: 'not ready' }),
    wait: (_container, signal) =>
      new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason), { once: true })),
    logFile: () => '',
  };
  const store = aStore(join(dir, 'snapshots'));
  await mkdir(join(dir, 'snapshots'));
  const events: AgentEvent[] = [];
  const specKey = () => Buffer.alloc(32, 1);
  const tools = { criu: 'criu', helper: 'helper', preload: undefined, criuRunDir: dir, hostRoot: '' };
  const agent = new Agent({
    ...{ host, store, machine, exec, clock: monotonicClock, log: silentLog, workDir: dir, concurrency: 1, randomProbe: '', specKey },
    tools: { ...tools, helpers: new RestoreHelpers({ helper: tools.helper, spares: 0 }) },
    dial: { spawnDuplex, connect: '' },
    largePages: { hold: () => ({ [Symbol.dispose]: () => {} }) },
    listener: (event) => events.push(event),
    index: new SpecIndex({ path: join(dir, 'hashes.json'), log: silentLog, key: specKey }),
    inventory: new Inventory({ store, machine, now: () => 0 }),
    view: () => ({ nodes: new Map(), gateways: new Map(), scaler: undefined, workloads: undefined }),
    claimSeed: async () => new AsyncDisposableStack(),
    bring: unused,
  });
  const unixPath = join(dir, 'agent.sock');
  const server = new SlotServer({ onConnection: agent.onConnection, clock: monotonicClock, log: silentLog, unixPath });
  await server.listen();
  const start = async (uid: string) => {
    const slot = new SlotProcess({
      agent: `unix:${unixPath}`,
      command: ['sh', '-c', 'echo runs; exec sleep 60'],
      env: { REKINDLE_POD_UID: uid },
    });
    const facts = { restarts: 0, addresses: ['10.0.0.2'], imageDigest: 'host', volumes: [], createdAtMs: 0 };
    containers.set(uid, { uid, name: uid, workload, pid: await slot.pid(), ...facts });
    await until(`the application of ${uid}`, () => slot.output.includes('runs'));
  };
  const stateOf = (uid: string): InstanceState | undefined =>
    events.flatMap((event) => (event.type === 'instance' && event.uid === uid ? [event.state] : [])).at(-1);
  return { store, start, stateOf, [Symbol.asyncDispose]: () => server.close().then(() => agent[Symbol.asyncDispose]()) };
}

test('of those that say hello at once one is made into the snapshot, and the others say so', async () => {
  await using folder = await aFolder();
  await using agent = await anAgent(folder.path);
  const uids = ['one', 'two', 'three', 'four'];

  await Promise.all(uids.map(agent.start));

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
