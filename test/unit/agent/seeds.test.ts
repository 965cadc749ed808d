import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { AgentEvent } from '../../../src/agent/events.ts';
import { Restorer } from '../../../src/agent/restorer.ts';
import { Seeds } from '../../../src/agent/seeds.ts';
import { RestoreHelpers } from '../../../src/checkpoint/restore-helpers.ts';
import type { Clock } from '../../../src/lib/clock.ts';
import type { ErrorCode } from '../../../src/lib/errors.ts';
import { exec, spawnDuplex } from '../../../src/lib/exec.ts';
import { silentLog } from '../../../src/lib/log.ts';
import { parseRekindleFile } from '../../../src/workloads/file.ts';
import type { Container, ContainerMaker } from '../../../src/workloads/host.ts';
import { until } from '../../fixtures/until.ts';
import { aFolder, aStore, machine, never, publish } from '../snapshots/builders.ts';

const HASH = 'spec-1';

/** A container on this machine's own processes, whose readiness command ends with what `readiness()` says. */
function aContainer(policy: string, pid = process.pid): Container {
  const [workload] = parseRekindleFile(`workloads: {web: {container: {rootfs: host, command: [x]${policy}}}}`, 'rekindle.yaml', '/');
  if (workload === undefined) throw new Error('no workload');
  return { uid: 'u', name: 'web-1', workload, pid, restarts: 0, addresses: ['10.0.0.2'], imageDigest: 'host', volumes: [], createdAtMs: 0 };
}

class SetClock implements Clock {
  time = 1_000_000;
  now(): number {
    return this.time;
  }
  async sleep(ms: number, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    this.time += ms;
    await new Promise(setImmediate);
  }
}

/** `status` is how readiness commands end. */
async function someSeeds(dir: string, status: number, leaving = false) {
  const unused = async () => {
    throw new Error('not in this test');
  };
  const host: ContainerMaker = {
    ...{ create: unused, restart: unused, startOver: unused, setPool: unused, resting: unused, end: unused, remove: unused },
    find: async () => undefined,
    isLeaving: async () => leaving,
    list: async () => [],
    exec: async () => {
      // What else waits has its turn.
      if (leaving) await new Promise(setImmediate);
      return { status, output: 'no' };
    },
    wait: (_container, signal) =>
      new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason), { once: true })),
    logFile: () => '',
  };
  const store = aStore(join(dir, 'snapshots'));
  const clock = new SetClock();
  const events: AgentEvent[] = [];
  const workDir = join(dir, 'work');
  await mkdir(workDir);
  const tools = { criu: 'criu', helper: 'helper', preload: undefined, criuRunDir: dir, hostRoot: '' };
  const deps = {
    ...{ host, clock, workDir, machine, exec, log: silentLog, concurrency: 1, randomProbe: '' },
    tools: { ...tools, helpers: new RestoreHelpers({ helper: tools.helper, spares: 0 }) },
    dial: { spawnDuplex, connect: '' },
    largePages: { hold: () => ({ [Symbol.dispose]: () => {} }) },
    store,
    slotOf: unused,
    live: async () => new Set<string>(),
    listener: (event: AgentEvent) => events.push(event),
  };
  return { seeds: new Seeds({ ...deps, restorer: new Restorer(deps) }), store, clock, events };
}

const make = (seeds: Seeds, container: Container) => seeds.make({ container, hash: HASH, mounts: [] }, () => {}, never);

test('a failed seed is tried again after 60 s and not before', async () => {
  await using folder = await aFolder();
  const { seeds, clock, events } = await someSeeds(folder.path, 1);
  const container = aContainer(', readiness: { command: check, failureThreshold: 2 }');

  const outcome = await make(seeds, container);
  const failedAt = clock.time;

  expect(outcome).toMatchObject({ code: 'not_ready' });
  expect(events).toMatchObject([{ type: 'checkpoint-failed', specHash: HASH, code: 'not_ready' }]);
  expect(seeds.runs(HASH)).toBe(false);
  clock.time = failedAt + 59_999;
  expect(seeds.refusal(HASH)).toContain('not ready after');
  expect(seeds.refusal('another')).toBeUndefined();
  clock.time = failedAt + 60_000;
  expect(seeds.refusal(HASH)).toBeUndefined();

  // It counts from the last attempt.
  await make(seeds, container);
  clock.time += 59_999;
  expect(seeds.refusal(HASH)).toContain('not ready after');
});

test('one that somebody ended while it warmed up does not keep the next from being tried', async () => {
  await using folder = await aFolder();
  const { seeds } = await someSeeds(folder.path, 1, true);

  const outcome = await make(seeds, aContainer(', readiness: { command: check, failureThreshold: 1000 }'));

  expect(outcome).toMatchObject({ code: 'container_failed', reason: expect.stringContaining('is being removed') });
  expect(seeds.refusal(HASH)).toBeUndefined();
});

test('while several are held back for one kind it counts as being made, until the last is let go', async () => {
  await using folder = await aFolder();
  const { seeds } = await someSeeds(folder.path, 0);
  const held = [seeds.hold(HASH), seeds.hold(HASH)];

  held[0]?.[Symbol.dispose]();
  expect(seeds.runs(HASH)).toBe(true);
  expect(seeds.runs('another')).toBe(false);

  held[1]?.[Symbol.dispose]();
  expect(seeds.runs(HASH)).toBe(false);
});

test('one whose policy cannot work is never tried again', async () => {
  await using folder = await aFolder();
  const { seeds, clock } = await someSeeds(folder.path, 0);

  expect(await make(seeds, aContainer(''))).toMatchObject({ code: 'config_invalid' });

  clock.time += 365 * 86_400_000;
  expect(seeds.refusal(HASH)).toContain('when is it ready?');
});

test.skipIf(process.geteuid?.() !== 0)('one that is refused for what the application does is never tried again (needs root)', async () => {
  await using folder = await aFolder();
  const { seeds, clock, events } = await someSeeds(folder.path, 0);
  // An application that made a namespace of its own.
  const application = spawn('sh', ['-c', 'unshare --uts sh -c "echo made; sleep 60" & wait'], { detached: true });
  try {
    await once(application.stdout, 'data');
    const container = aContainer(', readiness: check', application.pid);

    const outcome = await make(seeds, container);

    expect(outcome).toMatchObject({ code: 'dump_refused', reason: expect.stringContaining('uts namespace') });
    expect(events).toHaveLength(1);
    clock.time += 365 * 86_400_000;
    expect(seeds.refusal(HASH)).toContain('uts namespace');
  } finally {
    if (application.pid !== undefined) process.kill(-application.pid, 'SIGKILL');
    await until('its end', () => application.exitCode !== null || application.signalCode !== null);
  }
});

test('with a new snapshot here the older ones go that its policy keeps no longer', async () => {
  await using folder = await aFolder();
  const { seeds, store } = await someSeeds(folder.path, 0);
  const ofDay = (day: number, specHash: string) => publish(store, { createdAt: `2026-01-0${day}T00:00:00Z`, specHash });
  const [older, made, newer] = [await ofDay(1, 'one'), await ofDay(2, 'two'), await ofDay(3, 'three')];
  const { workload } = aContainer('');

  await seeds.prune({ ...workload, checkpoint: { ...workload.checkpoint, keep: 2 } }, 'one');

  // One that came back after a rollback is older, and what is wanted now.
  expect((await store.list()).map(({ digest }) => digest)).toEqual([newer.digest, older.digest]);
  expect(await store.find('two', machine)).toBeUndefined();
  expect(made.manifest.specHash).toBe('two');
});

describe('failed restores', () => {
  const failThrice = async (dir: string, leaving: boolean, code: ErrorCode = 'restore_failed') => {
    const { seeds, store } = await someSeeds(dir, 0, leaving);
    const { digest } = await publish(store);
    for (let i = 0; i < 3; i++) await seeds.failed(digest, aContainer(''), { why: 'failed', reason: 'no', code });
    return store.quarantined().get(digest)?.reason;
  };

  test('three in a row, and the snapshot is left alone', async () => {
    await using folder = await aFolder();

    expect(await failThrice(folder.path, false)).toContain('3 restores in a row failed');
  });

  test('into containers that somebody ended meanwhile do not count', async () => {
    await using folder = await aFolder();

    expect(await failThrice(folder.path, true)).toBeUndefined();
  });

  test('that cannot be written down keep nobody from starting cold', async () => {
    await using folder = await aFolder();
    const { seeds, store } = await someSeeds(folder.path, 0);
    const { digest } = await publish(store);
    const fail = () => seeds.failed(digest, aContainer(''), { why: 'failed', reason: 'no', code: 'restore_failed' });
    const { quarantine } = store;
    Object.defineProperty(store, 'quarantine', { value: () => Promise.reject(new Error('no space left')), configurable: true });

    for (let i = 0; i < 3; i++) await fail();
    Object.defineProperty(store, 'quarantine', { value: quarantine });
    await fail();

    expect(store.quarantined().get(digest)?.reason).toContain('4 restores in a row failed');
  });

  test.each(['disk_full', 'machine_unsupported'] as const)('for what the machine lacks (%s) do not count', async (code) => {
    await using folder = await aFolder();

    expect(await failThrice(folder.path, false, code)).toBeUndefined();
  });
});
