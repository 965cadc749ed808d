import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Agent } from '../../../src/agent/agent.ts';
import type { AgentEvent, InstanceState } from '../../../src/agent/events.ts';
import { Inventory } from '../../../src/agent/inventory.ts';
import { SpecReader } from '../../../src/agent/spec-facts.ts';
import { SpecIndex } from '../../../src/agent/spec-index.ts';
import { filesAnywhere } from '../../../src/agent/volume-files.ts';
import { RestoreHelpers } from '../../../src/checkpoint/restore-helpers.ts';
import { monotonicClock } from '../../../src/lib/clock.ts';
import { exec, spawnDuplex } from '../../../src/lib/exec.ts';

import { type Log, silentLog } from '../../../src/lib/log.ts';
import { SlotServer } from '../../../src/slots/slot-server.ts';
import { parseRekindleFile } from '../../../src/workloads/file.ts';
import type { Container, ContainerMaker } from '../../../src/workloads/host.ts';
import { SlotProcess } from '../../fixtures/slot-process.ts';
import { until } from '../../fixtures/until.ts';
import { aStore, machine } from '../snapshots/builders.ts';

const [workload] = parseRekindleFile(
  'workloads: { web: { container: { rootfs: host, command: [x], readiness: check } } }',
  'rekindle.yaml',
);

export function aContainer(facts: Pick<Container, 'uid' | 'pid'> & Partial<Container>): Container {
  if (workload === undefined) throw new Error('no workload');
  const rest = { name: 'web-1', workload, restarts: 0, addresses: ['10.0.0.2'], imageDigest: 'host', volumes: [], createdAtMs: 0 };
  return { ...rest, ...facts };
}

/**
 * An agent of real slots that runs no CRIU: what starts cold never gets ready. `overrides`: what its host does besides finding the containers of the slots
 * that a test starts, or puts into `containers`.
 */
export async function anAgent(
  dir: string,
  overrides: Partial<ContainerMaker> = {},
  log: Log = silentLog,
  holdBack?: (container: Container) => Promise<boolean>,
) {
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
    ...overrides,
  };
  const store = aStore(join(dir, 'snapshots'));
  await mkdir(join(dir, 'snapshots'));
  const events: AgentEvent[] = [];
  const specKey = () => Buffer.alloc(32, 1);
  const index = new SpecIndex({ path: join(dir, 'hashes.json'), log: silentLog, key: specKey });
  const inventory = new Inventory({ store, machine, now: () => 0 });
  const tools = { criu: 'criu', helper: 'helper', preload: undefined, criuRunDir: dir, hostRoot: '' };
  const agent = new Agent({
    ...{ host, store, machine, exec, clock: monotonicClock, log, workDir: dir, concurrency: 1, randomProbe: '' },
    specs: new SpecReader({ key: specKey, files: filesAnywhere }),
    tools: { ...tools, helpers: new RestoreHelpers({ helper: tools.helper, spares: 0 }) },
    dial: { spawnDuplex, connect: '' },
    largePages: { hold: () => ({ [Symbol.dispose]: () => {} }) },
    listener: (event) => events.push(event),
    index,
    inventory,
    view: () => ({ nodes: new Map(), gateways: new Map(), scaler: undefined, workloads: undefined }),
    claimSeed: async () => new AsyncDisposableStack(),
    bring: unused,
    holdBack,
  });
  const unixPath = join(dir, 'agent.sock');
  const server = new SlotServer({ onConnection: agent.onConnection, clock: monotonicClock, log: silentLog, unixPath });
  await server.listen();
  /** Starts a slot, whose container is found as soon as its process is there. */
  const start = async (uid: string, more: Partial<Container> = {}): Promise<Container> => {
    const command = ['sh', '-c', 'exec sleep 60'];
    const slot = new SlotProcess({ agent: `unix:${unixPath}`, command, env: { REKINDLE_POD_UID: uid } });
    const container = aContainer({ uid, name: uid, pid: await slot.pid(), ...more });
    containers.set(uid, container);
    return container;
  };
  const stateOf = (uid: string): InstanceState | undefined =>
    events.flatMap((event) => (event.type === 'instance' && event.uid === uid ? [event.state] : [])).at(-1);
  const end = () => server.close().then(() => agent[Symbol.asyncDispose]());
  return { agent, store, index, inventory, containers, start, stateOf, [Symbol.asyncDispose]: end };
}
