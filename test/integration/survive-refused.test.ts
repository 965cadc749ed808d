import { once } from 'node:events';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { AgentEvent } from '../../src/agent/events.ts';
import type { Container } from '../../src/workloads/host.ts';
import type { WorkloadSpec } from '../../src/workloads/workload.ts';
import { get, TestEngine } from '../fixtures/engine.ts';
import { hostWorkload } from '../fixtures/survive/workloads.ts';

const HOLDER = `${import.meta.dirname}/../fixtures/survive/holder.py`;

let engine: TestEngine;
let dir: string;

beforeAll(async () => {
  engine = await TestEngine.open();
  dir = await mkdtemp(join(tmpdir(), 'rekindle-refused-'));
  await writeFile(join(dir, 'file'), '');
});
afterAll(async () => {
  await engine[Symbol.asyncDispose]();
  await rm(dir, { recursive: true, force: true });
});

type Failed = Extract<AgentEvent, { type: 'checkpoint-failed' }>;

function holding(what: string, path = '', more = ''): WorkloadSpec {
  const command = ['/usr/bin/python3', HOLDER, what, path];
  return hostWorkload(what, command, `      ports: [8080]\n      readiness: { http: { port: 8080 }, periodSeconds: 0.1 }\n${more}`);
}

/**
 * Starts a seed and resolves with why no snapshot of it could be made, once it is sure that it serves still, that nothing of a snapshot is left
 * and that the next container starts cold for the same reason.
 */
async function refusal(workload: WorkloadSpec, whileStarting?: (seed: Container) => Promise<void>): Promise<Failed> {
  const seed = await engine.engine.host.create(workload, { name: `${workload.name}-seed`, signal: AbortSignal.timeout(60_000) });
  await whileStarting?.(seed);
  const failed = await engine.until('the refusal', (events) =>
    events.find((event): event is Failed => event.type === 'checkpoint-failed' && event.workload === workload.name),
  );
  const serving = `serving with ${workload.name}`;
  expect(await get(seed)).toBe(serving);
  expect(await readdir(join(engine.config.stateDir, 'snapshots'))).toEqual([]);
  expect(await readdir(join(engine.config.runDir, 'work'))).toEqual([]);
  const next = await engine.start(workload, `${workload.name}-next`);
  expect(next.state).toMatchObject({ at: 'cold', reason: expect.stringContaining(failed.reason) });
  await whileStarting?.(next.container);
  expect(await get(next.container)).toBe(serving);
  return failed;
}

describe('cannot be cloned, goes on serving, and starts cold with a reason that says what to do:', () => {
  test('io_uring where no filter forbids it', async () => {
    const failed = await refusal(holding('io-uring', '', '      seccomp: unconfined\n'));

    expect(failed.code).toBe('dump_refused');
    expect(failed.reason).toMatch(/^process \d+ uses io_uring, .*: run it with a seccomp profile that refuses io_uring_setup/);
  });

  test('a terminal whose other end is outside', async () => {
    const stop = new AbortController();
    const openers: Promise<unknown>[] = [];
    const script = 'import os,pty,time; m,s=pty.openpty(); os.symlink(os.ttyname(s),"/tmp/terminal"); time.sleep(60)';

    const failed = await refusal(holding('terminal', '/tmp/terminal'), async (container) => {
      const options = { timeoutMs: 60_000, signal: stop.signal };
      openers.push(engine.engine.host.exec(container, ['/usr/bin/python3', '-c', script], options).catch(() => undefined));
    });

    expect(failed.code).toBe('dump_refused');
    expect(failed.reason).toMatch(/the application goes on: the application holds a terminal\. Run it without one/);
    stop.abort();
    await Promise.all(openers);
  });

  test('a unix socket to a process outside', async () => {
    const server = createServer().listen(join(dir, 'outside.sock'));
    await once(server, 'listening');

    const failed = await refusal(
      holding('socket', '/outside/outside.sock', `      volumes: [{ at: /outside, from: ${dir}, readOnly: true }]\n`),
    );

    expect(failed.code).toBe('dump_refused');
    expect(failed.reason).toMatch(/holds a unix socket whose other end is outside the container .* Close it before the checkpoint/);
    server.close();
  });

  test('a device', async () => {
    const more = '      volumes: [{ at: /dev/net/tun, from: /dev/net/tun }]\n      capabilities: [CAP_NET_ADMIN]\n';

    const failed = await refusal(holding('tun', '', more));

    expect(failed.code).toBe('dump_refused');
    expect(failed.reason).toMatch(/is \/dev\/net\/tun\), .*: open it only on use, or leave this workload cold$/);
  });

  test('a PID namespace of its own', async () => {
    const failed = await refusal(holding('pid-namespace', '', '      capabilities: [CAP_SYS_ADMIN]\n'));

    expect(failed.code).toBe('dump_refused');
    expect(failed.reason).toMatch(/is in a pid namespace that the application made .* Switch that off/);
  });

  test('a file open for writing on a volume that others have too', async () => {
    const failed = await refusal(holding('device', '/shared/file', `      volumes: [{ at: /shared, from: ${dir} }]\n`));

    expect(failed.code).toBe('dump_refused');
    expect(failed.reason).toMatch(
      /has open for writing .* \/shared\/file on the shared volume \/shared: .* Close it before the checkpoint/,
    );
  });

  test('not what lasts a moment only: the checkpoint is tried again', async () => {
    const workload = holding('netlink');

    await engine.engine.host.create(workload, { name: 'netlink-seed', signal: AbortSignal.timeout(60_000) });

    const made = await engine.until('the snapshot', (events) =>
      events.find((event) => (event.type === 'snapshot' || event.type === 'checkpoint-failed') && event.workload === 'netlink'),
    );
    expect(made).toMatchObject({ type: 'snapshot' });
    expect(await readdir(join(engine.config.runDir, 'work'))).toEqual([]);
    const { state } = await engine.start(workload, 'netlink-next');
    expect(state).toMatchObject({ at: 'live' });
  });

  test('an application that ends before it is ready', async () => {
    const workload = hostWorkload('ends', ['/bin/false'], '      ports: [8080]\n');
    await engine.engine.host.create(workload, { name: 'ends', signal: AbortSignal.timeout(60_000) });

    const failed = await engine.until('the failure', (events) =>
      events.find((event): event is Failed => event.type === 'checkpoint-failed' && event.workload === 'ends'),
    );

    expect(failed).toMatchObject({ code: 'container_failed', reason: 'the container ended with 1 before a snapshot of it was made' });
  });
});
