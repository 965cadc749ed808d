import { readdir, readFile, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { exec } from '../../src/lib/exec.ts';
import type { Container } from '../../src/workloads/host.ts';
import type { ContainerSpec } from '../../src/workloads/workload.ts';
import { until } from '../fixtures/until.ts';
import { aPlace, aWorkload, missing, type Place, said } from './local-fixture.ts';

const CLI = path.join(import.meta.dirname, '../../src/cli.ts');
const why = await missing();

type Fact = { group: string; name: string; level: string; says: string };

describe.skipIf(why !== undefined)(`doctor${why === undefined ? '' : ` (skipped: ${why})`}`, () => {
  let place: Place;
  beforeEach(async () => {
    place = await aPlace();
  });
  afterEach(async () => {
    await place[Symbol.asyncDispose]();
  });

  async function doctor(...args: readonly string[]) {
    const env = {
      REKINDLE_STATE_DIR: place.deps.stateDir,
      REKINDLE_RUN_DIR: place.deps.runDir,
      REKINDLE_SUBNET: place.deps.subnet ?? '',
      REKINDLE_BRIDGE: place.deps.bridge ?? '',
    };
    return exec(process.execPath, [CLI, 'doctor', ...args], { env, timeoutMs: 30_000 });
  }

  /** What doctor says about a workload `box` whose only container is the one given. */
  async function diagnosed(spec: Partial<ContainerSpec>): Promise<readonly Fact[]> {
    const { container } = aWorkload(spec);
    const file = path.join(place.dir, 'rekindle.yaml');
    await writeFile(file, JSON.stringify({ workloads: { box: { container } } }));
    const { stdout } = await doctor('--workload', 'box', '--file', file, '--json');
    const { facts }: { facts: readonly Fact[] } = JSON.parse(stdout);
    return facts;
  }

  async function running(spec: Partial<ContainerSpec>): Promise<Container> {
    return place.host.create(aWorkload(spec), { signal: AbortSignal.timeout(30_000) });
  }

  test('this machine passes', async () => {
    const { status, stdout } = await doctor('--json');

    const { ok, facts }: { ok: boolean; facts: readonly Fact[] } = JSON.parse(stdout);
    expect(facts.filter(({ level }) => level === 'fail')).toEqual([]);
    expect(facts.filter(({ says }) => says.includes('could not be found out'))).toEqual([]);
    expect({ ok, status }).toEqual({ ok: true, status: 0 });
  });

  test('a missing program of ours fails, with exit code 4 and a verdict as the last line', async () => {
    const env = {
      REKINDLE_STATE_DIR: place.deps.stateDir,
      REKINDLE_RUN_DIR: place.deps.runDir,
      REKINDLE_BUILD_DIR: path.join(place.dir, 'nothing'),
    };

    const { status, stdout } = await exec(process.execPath, [CLI, 'doctor'], { env, timeoutMs: 30_000 });

    expect(status).toBe(4);
    expect(stdout).toContain('✗ helper');
    expect(stdout.trim().split('\n').at(-1)).toMatch(/^This machine cannot checkpoint and restore: programs: slot; programs: helper/);
  });

  test('looking leaves the machine as it was', async () => {
    const state = async () => ({
      mounts: (await readFile('/proc/self/mountinfo', 'utf8')).split('\n').filter((line) => line.includes(place.dir)),
      modules: (await readFile('/proc/modules', 'utf8').catch(() => '')).split('\n').map((line) => line.split(' ')[0]),
      links: (await readdir('/sys/class/net')).filter((name) => name.includes('try')),
      files: (await readdir(place.dir, { recursive: true })).sort(),
      caches: (await readdir('/run')).filter((name) => name.includes('kdat')),
    });
    const before = await state();

    await doctor();

    expect(await state()).toEqual(before);
  });

  test('an application that does nothing unusual can be checkpointed', async () => {
    const spec = { image: place.image, ports: [8080] };
    const { name } = await running(spec);

    const facts = await until('the container is past its slot', async () => {
      const found = await diagnosed(spec);
      return found.some(({ says }) => says.includes('nothing that would keep it')) && found;
    });

    expect(facts.filter(({ level }) => level === 'fail')).toEqual([]);
    expect(facts.filter(({ group }) => group === `running in ${name}`).map(({ level }) => level)).toEqual(['ok']);
  });

  test('a running application is looked at, and everything that keeps it from being checkpointed is told', async () => {
    const outside = createServer((socket) => socket.on('error', () => {}).resume()).listen(path.join(place.dir, 'outside.sock'));
    const held = [
      'import ctypes, os, socket, subprocess, time',
      'written = open("/shared/written", "w")',
      'outside = socket.socket(socket.AF_UNIX); outside.connect("/shared/outside.sock")',
      'pair = socket.socketpair()',
      'listener = socket.create_server(("127.0.0.1", 0))',
      'client = socket.create_connection(listener.getsockname()); server = listener.accept()',
      'ring = ctypes.CDLL(None).syscall(425, 4, ctypes.create_string_buffer(120))', // io_uring_setup, the same number everywhere
      'subprocess.Popen(["unshare", "--user", "sleep", "3600"]); time.sleep(0.3)',
      'print("holding", ring, flush=True); time.sleep(3600)',
    ].join('\n');
    const spec: Partial<ContainerSpec> = {
      rootfs: 'host',
      command: ['/usr/bin/python3', '-c', held],
      seccomp: 'unconfined',
      ports: [8080],
      volumes: [{ at: '/shared', from: place.dir, readOnly: false }],
    };
    try {
      const container = await running(spec);
      const output = await until(
        'the application holds everything',
        async () => /holding (-?\d+)/.exec(await said(place.host, container)) ?? undefined,
      );

      const facts = (await diagnosed(spec)).filter(({ group }) => group === `running in ${container.name}`);

      const found = Object.fromEntries(facts.map(({ name, level }) => [name, level]));
      expect(found).toMatchObject({ 'shared volume': 'fail', 'unix sockets': 'fail', 'TCP connections': 'warn', 'user namespace': 'fail' });
      // Where the machine forbids io_uring nobody can hold one.
      if (output[1] !== '-1') expect(found).toMatchObject({ io_uring: 'fail' });
      expect(facts.find(({ name }) => name === 'unix sockets')?.says).toContain('1 connected');
      expect(facts.find(({ name }) => name === 'TCP connections')?.says).toContain('2 established');
    } finally {
      // Its one connection ends with the container, which the place removes.
      outside.close();
    }
  });
});
