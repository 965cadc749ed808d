import { execFileSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { Queue } from 'bullmq';
import fc from 'fast-check';
import { Redis } from 'ioredis';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { openMachine } from '../../src/commands/engine.ts';
import { readConfig } from '../../src/config.ts';
import type { ApiNode } from '../../src/gateway/schemas.ts';
import { silentLog } from '../../src/lib/log.ts';
import { QUEUE_PREFIX, queueName } from '../../src/queue/job-queue.ts';
import { JOBS } from '../../src/queue/jobs.ts';
import { KEYS } from '../../src/queue/view-wire.ts';
import { parseRekindleFile } from '../../src/workloads/file.ts';
import type { CommandLine } from '../fixtures/command-line.ts';
import { applications, workers } from '../fixtures/leftovers.ts';
import { aService, TestNode } from '../fixtures/node.ts';
import { until } from '../fixtures/until.ts';
import { nodeService, Up } from '../fixtures/up.ts';

/** What every request may take, and what the pools may take to be as they should be again once the fault and the requests are over. */
const DEADLINE_S = 15;
const CONVERGE_MS = 10_000;
/** A test of its own service: starts, bursts, and what has to come to rest between them. */
const LONG = { timeout: 240_000 };
/** How long Redis says nothing. */
const AWAY_MS = 10_000;

/** How a request ended: an answer of the application, an error of the gateway in words, or a connection that broke. */
type Outcome = { readonly id: string; readonly method: string; readonly ms: number; readonly said: string; readonly right: boolean };
type Row = { readonly fault: string; readonly moment: string; readonly outcomes: readonly Outcome[]; readonly convergedMs: number };

const rows: Row[] = [];
afterAll(() => {
  const lines = rows.map(({ fault, moment, outcomes, convergedMs }) => {
    const slowest = Math.max(0, ...outcomes.map(({ ms }) => ms));
    return `${fault} | ${moment} | ${counted(outcomes)} | slowest ${Math.round(slowest)} ms | as before after ${Math.round(convergedMs)} ms`;
  });
  console.log(['fault | moment | requests', ...lines].join('\n'));
});

/** Over a connection of its own, so that none that broke earlier is used. Never rejects. */
function send(up: Up, workload: string, id: string, method = 'POST'): Promise<Outcome> {
  const from = performance.now();
  return new Promise((resolve) => {
    const end = (said: string, right: boolean) => resolve({ id, method, ms: performance.now() - from, said, right });
    const asked = request(`${up.url}/invoke/${workload}/?id=${id}`, { method, agent: false }, (answer) => {
      let body = '';
      answer.on('data', (chunk: Buffer) => {
        body += chunk.toString();
      });
      answer.on('error', () => end('closed', false));
      answer.on('end', () => {
        const { statusCode = 0, headers } = answer;
        if (statusCode === 200) return end(`200 ${headers['rekindle-start']}`, body === id);
        const { code, message } = inWords(body);
        end(`${statusCode} ${code}: ${message}`, statusCode >= 400 && message.length > 20);
      });
    });
    asked.on('error', () => end('closed', false));
    asked.end();
  });
}

function inWords(body: string): { code: string; message: string } {
  try {
    const { code = '', message = '' } = JSON.parse(body);
    return { code, message };
  } catch {
    return { code: 'no JSON', message: '' };
  }
}

/** How many ended how; of errors the code alone. */
function counted(outcomes: readonly Outcome[]): string {
  const counts = new Map<string, number>();
  for (const { said } of outcomes) {
    const kind = said.replace(/:.*/s, '');
    counts.set(kind, (counts.get(kind) ?? 0) + 1);
  }
  return [...counts].map(([kind, count]) => `${count} × ${kind}`).join(', ');
}

/** Answers after a while with the id that it was asked with; writes each that was posted into a file that all instances share. */
function worker(name: string, dir: string, policy = '', handler = '', deadlineSeconds = DEADLINE_S): string {
  return nodeService(
    name,
    `const id = new URL(request.url, 'http://x').searchParams.get('id') ?? '';
  if (request.method === 'POST') require('node:fs').appendFileSync('/shared/posted', id + '\\n');
  ${handler}
  setTimeout(() => response.end(id), 200);`,
    {
      start: 'state.ballast = Buffer.alloc(3e7, 1);',
      container: `volumes: [{ at: /shared, from: ${dir} }]`,
      policy: `pool: { idleSeconds: 0.3, max: 2, parked: 2, targetConcurrency: 2, stableWindowSeconds: 1, burstWindowSeconds: 1, deadlineSeconds: ${deadlineSeconds}${policy} }`,
    },
  );
}

/** The service with one folder that its applications share. */
class Rig implements AsyncDisposable {
  #dir: string | undefined;
  #up: Up | undefined;
  #disk: SmallDisk | undefined;
  #requests = 0;

  /** Made when it is first asked for. */
  get dir(): string {
    this.#dir ??= mkdtempSync(join(tmpdir(), 'rekindle-faults-'));
    return this.#dir;
  }

  get up(): Up {
    if (this.#up === undefined) throw new Error('not started');
    return this.#up;
  }

  async start(workloads: string, ...more: Parameters<typeof Up.start> extends [string, ...infer M] ? M : never): Promise<void> {
    this.#up = await Up.start(`workloads:${workloads}`, ...more);
  }

  async startOnSmallDisk(workloads: string, args: readonly string[] = []): Promise<SmallDisk> {
    const disk = new SmallDisk();
    this.#up = await Up.start(`workloads:${workloads}`, args, {}, (cli) => {
      disk.mount(cli);
      this.#disk = disk;
    });
    return disk;
  }

  /** Waits until its snapshot has been made and its slots are parked. Without a request, whose deadline a busy machine could miss. */
  warm(workload: string): Promise<void> {
    return this.untilParked(workload, 60_000);
  }

  async untilParked(workload: string, withinMs = CONVERGE_MS): Promise<void> {
    await this.up.slots(
      workload,
      `${workload} as its policy says`,
      (slots, pool) => pool.phase === 'ready' && slots.length === 2 && slots.every(({ state }) => state === 'parked'),
      withinMs,
    );
  }

  /** Eight at once, two of them safe to repeat. */
  burst(workload: string): { readonly ids: readonly string[]; readonly all: Promise<Outcome[]> } {
    const row = this.#requests++;
    const ids = Array.from({ length: 8 }, (_, i) => `${workload}-${row}-${i}`);
    return { ids, all: Promise.all(ids.map((id, i) => send(this.up, workload, id, i % 4 === 3 ? 'GET' : 'POST'))) };
  }

  /** How often that was posted. */
  posted(id: string): number {
    return this.#posted().filter((line) => line === id).length;
  }

  began(ids: readonly string[]): boolean {
    const posted = new Set(this.#posted());
    return ids.some((id) => posted.has(id));
  }

  /** The containers of the service: process 1 of each. */
  async containers() {
    const { host } = await openMachine(readConfig(this.up.cli.env), silentLog);
    return host.list();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#disk !== undefined) {
      this.#disk.free();
      await this.#up?.end();
      await this.#up?.cli.run('stop', '--all', '--grace', '0');
      this.#disk.unmount();
    }
    await this.#up?.[Symbol.asyncDispose]();
    if (this.#dir !== undefined) rmSync(this.#dir, { recursive: true, force: true });
  }

  #posted(): string[] {
    const path = join(this.dir, 'posted');
    return existsSync(path) ? readFileSync(path, 'utf8').split('\n') : [];
  }
}

/** What holds for every row: each request has ended as it should, and none was executed twice. */
function expectSound(rig: Rig, outcomes: readonly Outcome[], mayClose: boolean): void {
  for (const outcome of outcomes) {
    const isFine = outcome.right || (mayClose && outcome.said === 'closed');
    expect(isFine, `${JSON.stringify(outcome)}; the service said: ${rig.up.said.slice(-2000)}`).toBe(true);
    expect(outcome.ms, JSON.stringify(outcome)).toBeLessThan(DEADLINE_S * 1000 + 1000);
    if (outcome.method !== 'POST') continue;
    const times = rig.posted(outcome.id);
    expect(times, JSON.stringify(outcome)).toBeLessThanOrEqual(1);
    if (outcome.said.startsWith('200')) expect(times, JSON.stringify(outcome)).toBe(1);
  }
}

type Fault = { readonly inflict: (rig: Rig) => Promise<void>; readonly closes?: true; readonly moments: readonly Moment[] };
type Moment = 'idle' | 'a request waits' | 'restoring' | 'requests in flight';
const ALL: readonly Moment[] = ['idle', 'a request waits', 'restoring', 'requests in flight'];

const FAULTS: Record<string, Fault> = {
  'agent killed': { inflict: (rig) => rig.up.kill('agent'), moments: ALL },
  'scaler killed': { inflict: (rig) => rig.up.kill('scaler'), moments: ALL },
  'gateway killed': { inflict: (rig) => rig.up.kill('gateway'), closes: true, moments: ALL },
  'redis-server killed': { inflict: (rig) => rig.up.kill('redis'), moments: ALL },
  'Redis flushed': { inflict: async (rig) => void redis(rig, 'FLUSHALL'), moments: ALL },
  'Redis silent for 10 s': { inflict: silenceRedis, moments: ['a request waits', 'requests in flight'] },
  'criu killed': { inflict: async (rig) => killCriu(rig), moments: ['restoring'] },
  'applications killed': { inflict: killApplications, moments: ['restoring', 'requests in flight'] },
  'instances killed that nobody uses': { inflict: killUnused, moments: ['idle'] },
  'parked slots killed': { inflict: killSlots, moments: ['idle', 'a request waits'] },
};

function redis(rig: Rig, ...args: readonly string[]): string {
  return execFileSync('redis-cli', ['-s', join(rig.up.cli.env.REKINDLE_RUN_DIR ?? '', 'redis', 'redis.sock'), ...args]).toString();
}

async function silenceRedis(rig: Rig): Promise<void> {
  const pid = rig.up.pid('redis');
  process.kill(pid, 'SIGSTOP');
  await delay(AWAY_MS);
  process.kill(pid, 'SIGCONT');
}

function killCriu(rig: Rig): void {
  const pid = criuOf(rig);
  if (pid !== undefined) process.kill(pid, 'SIGKILL');
}

/** The criu of a restore that runs: the child of a helper that works in our run directory. */
function criuOf(rig: Rig): number | undefined {
  const helpers = new Set(restores(rig));
  if (helpers.size === 0) return undefined;
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .find((pid) => /\0?swrk\0/.test(read(`/proc/${pid}/cmdline`)) && ancestors(pid).some((one) => helpers.has(one)));
}

function restores(rig: Rig): number[] {
  return workers(join(rig.up.cli.env.REKINDLE_RUN_DIR ?? '', 'work')).flatMap(({ pid, command }) =>
    / restore --pid /.test(command) ? [pid] : [],
  );
}

function ancestors(pid: number): number[] {
  const parent = Number(/^PPid:\s+(\d+)/m.exec(read(`/proc/${pid}/status`))?.[1] ?? 0);
  return parent <= 1 ? [] : [parent, ...ancestors(parent)];
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

async function killApplications(rig: Rig): Promise<void> {
  for (const container of await rig.containers()) for (const pid of applications(container).pids) process.kill(pid, 'SIGKILL');
}

async function killUnused(rig: Rig): Promise<void> {
  await rig.burst('web').all;
  await killApplications(rig);
}

async function killSlots(rig: Rig): Promise<void> {
  for (const { pid } of await rig.containers()) process.kill(pid, 'SIGKILL');
}

describe('a fault of a part', () => {
  const rig = new Rig();
  beforeAll(async () => {
    await rig.start(worker('web', rig.dir));
    await rig.warm('web');
  });
  afterAll(() => rig[Symbol.asyncDispose]());

  // By moments, so that no part is killed twice within seconds: its next start would be put off.
  const cases = ALL.flatMap((moment) =>
    Object.entries(FAULTS).flatMap(([name, fault]) => (fault.moments.includes(moment) ? [[name, moment, fault] as const] : [])),
  );

  test.each(
    cases,
  )('%s, %s: every request ends, none is executed twice, and the pool is as before within 10 s', async (name, moment, fault) => {
    let burst: ReturnType<Rig['burst']> | undefined;
    if (moment !== 'idle') burst = rig.burst('web');
    const { ids } = burst ?? { ids: [] };
    if (moment === 'a request waits') await until('a request that waits', async () => (await rig.up.pool('web')).waiting > 0);
    if (moment === 'restoring') {
      // One may be over before it was seen.
      let over = false;
      void burst?.all.then(() => {
        over = true;
      });
      await until('a restore', () => over || (name === 'criu killed' ? criuOf(rig) !== undefined : restores(rig).length > 0));
    }
    if (moment === 'requests in flight') await until('requests at work', () => rig.began(ids));

    const inflicted = fault.inflict(rig);
    if (moment === 'idle') await inflicted;
    burst ??= rig.burst('web');
    await inflicted;
    const outcomes = await burst.all;
    const from = performance.now();
    await rig.untilParked('web');
    rows.push({ fault: name, moment, outcomes, convergedMs: performance.now() - from });

    expectSound(rig, outcomes, fault.closes === true);
  });

  test('after all of it the service ends, and nothing of it is left', async () => {
    const { status, stderr } = await rig.up.end();

    expect(status, stderr).toBe(0);
    expect(rig.up.traces()).toEqual([]);
  });
});

const snapshotsOf = (up: Up): string => join(up.cli.env.REKINDLE_STATE_DIR ?? '', 'snapshots');

/** One bit of each file of its pages is another. Resolves with how many files that were. */
function flipBits(up: Up, digest: string): number {
  const images = join(snapshotsOf(up), digest, 'images');
  const pages = readdirSync(images).filter((name) => name.startsWith('pages-'));
  for (const name of pages) {
    const file = openSync(join(images, name), 'r+');
    const byte = Buffer.alloc(1);
    readSync(file, byte, 0, 1, 4_096);
    byte[0] = (byte[0] ?? 0) ^ 1;
    writeSync(file, byte, 0, 1, 4_096);
    closeSync(file);
  }
  return pages.length;
}

describe('a fault of a snapshot or an application', () => {
  const rig = new Rig();
  /** What it does in a clone, once the file `turn` is there: not before, so that its snapshot comes about. */
  const turncoat = (name: string, at: 'readiness' | 'request', then: string, deadlineSeconds = DEADLINE_S) => {
    const isClone = `require('node:fs').existsSync('/shared/turn') && require('node:os').hostname() !== born`;
    const text = worker(name, rig.dir, '', at === 'request' ? `if (${isClone}) { ${then} }` : '', deadlineSeconds).replace(
      "if (request.url === '/healthz')",
      at === 'readiness' ? `if (request.url === '/healthz' && ${isClone}) { ${then} } if (request.url === '/healthz')` : '$&',
    );
    return `${text.replace('state.ballast', "const born = require('node:os').hostname(); state.ballast")}    restore: { deadlineSeconds: 2 }\n`;
  };
  const names = ['flipped', 'hangs', 'ends', 'hangs-later', 'ends-later'];
  beforeAll(async () => {
    await rig.start(
      [
        worker('flipped', rig.dir),
        turncoat('hangs', 'readiness', 'return;'),
        turncoat('ends', 'readiness', 'process.exit(3);'),
        turncoat('hangs-later', 'request', 'return;', 3),
        turncoat('ends-later', 'request', 'process.exit(3);'),
      ].join(''),
    );
    await Promise.all(names.map((name) => rig.warm(name)));
  });
  afterAll(() => rig[Symbol.asyncDispose]());

  async function row(fault: string, workload: string, settled: () => Promise<unknown>): Promise<readonly Outcome[]> {
    const outcomes = await rig.burst(workload).all;
    const from = performance.now();
    await settled();
    rows.push({ fault, moment: 'idle', outcomes, convergedMs: performance.now() - from });
    expectSound(rig, outcomes, false);
    return outcomes;
  }

  test('one flipped bit in its snapshot: requests are answered cold with the reason, and another snapshot is made', async () => {
    const before = (await rig.up.pool('flipped')).digest;
    expect(flipBits(rig.up, before ?? '')).toBeGreaterThan(0);

    const outcomes = await row('snapshot corrupt', 'flipped', () => rig.untilParked('flipped'));

    expect(outcomes.every(({ said }) => said.startsWith('200'))).toBe(true);
    expect(outcomes.some(({ said }) => said === '200 cold')).toBe(true);
    const after = await rig.up.pool('flipped');
    expect(after.digest).not.toBe(before);
    const [again] = await rig.burst('flipped').all;
    expect(again).toMatchObject({ said: '200 restore', right: true });
  });

  test.each([
    ['application that hangs after its restore', 'hangs', /not ready (within|after) 2/],
    ['application that ends after its restore', 'ends', /ended with status 3/],
  ])('an %s is started over, cold, and its reason is told', async (fault, workload, reason) => {
    writeFileSync(join(rig.dir, 'turn'), '');
    let seen = '';
    const watching = until(
      'a reason',
      async () => {
        const pool = await rig.up.pool(workload);
        seen = pool.slots.map(({ start }) => start?.reason ?? '').join();
        return reason.test(seen);
      },
      DEADLINE_S * 1000,
    );

    const outcomes = await row(fault, workload, () => watching);

    expect(outcomes.map(({ said }) => said)).toEqual(outcomes.map(() => expect.stringMatching(/^200/)));
    await rig.up.slots(
      workload,
      'idle slots',
      (slots) => slots.length === 2 && slots.every(({ state }) => state === 'parked'),
      CONVERGE_MS,
    );
  });

  test.each([
    ['application that hangs at its first request', 'hangs-later', /^504 timeout: .*has not begun to answer/],
    ['application that ends at its first request', 'ends-later', /^502 container_failed: .*closed the connection/],
  ])('of an %s the client is told', async (fault, workload, words) => {
    writeFileSync(join(rig.dir, 'turn'), '');

    const outcomes = await row(fault, workload, async () => {
      rmSync(join(rig.dir, 'turn'));
      await rig.untilParked(workload, CONVERGE_MS);
    });

    expect(
      outcomes.some(({ said }) => words.test(said)),
      JSON.stringify(outcomes),
    ).toBe(true);
    const [after] = await rig.burst(workload).all;
    expect(after).toMatchObject({ said: '200 restore', right: true });
  });

  test('of two scalers one leads; when it stands still or is killed, the other does within seconds', async () => {
    const url = `unix:${join(rig.up.cli.env.REKINDLE_RUN_DIR ?? '', 'redis', 'redis.sock')}`;
    const second = rig.up.cli.start(['scaler', '--file', 'rekindle.yaml'], { env: { REDIS_URL: url, REKINDLE_LOG: 'info' } });
    await second.says('scaler: keeps');
    const leader = () => redis(rig, 'GET', '{rekindle}:leader');
    const first = leader();
    process.kill(rig.up.pid('scaler'), 'SIGSTOP');
    const stopped = rig.up.pid('scaler');

    const outcomes = await row('leading scaler stopped, another there', 'flipped', () =>
      until('another leads', () => leader() !== first, CONVERGE_MS),
    );
    process.kill(stopped, 'SIGCONT');
    await rig.untilParked('flipped');
    second.child.kill('SIGKILL');
    const others = await row('leading scaler killed, another there', 'flipped', () => rig.untilParked('flipped'));

    expect([...outcomes, ...others].every(({ said }) => said.startsWith('200'))).toBe(true);
  });

  test('after all of it the service ends, and nothing of it is left', async () => {
    const { status, stderr } = await rig.up.end();

    expect(status, stderr).toBe(0);
    expect(rig.up.traces()).toEqual([]);
  });
});

/** Small, and full when it is told. */
class SmallDisk {
  #at = '';

  /** Below the state directory, so that what is said of where state may lie holds. */
  mount(cli: CommandLine): void {
    this.#at = cli.env.REKINDLE_STATE_DIR ?? '';
    mkdirSync(this.#at, { mode: 0o700 });
    // Room for two snapshots and little more: what is large takes long to fill.
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=256m,mode=700', 'rekindle-test', this.#at]);
  }

  /** While these agents stand still, so that none is done before the disk is full; what they have started (criu) goes on meanwhile. */
  fillBefore(...agents: readonly number[]): void {
    for (const pid of agents) process.kill(pid, 'SIGSTOP');
    this.fill();
    for (const pid of agents) process.kill(pid, 'SIGCONT');
  }

  fill(): void {
    const file = openSync(join(this.#at, 'filler'), 'a');
    try {
      for (const size of [2 ** 22, 2 ** 12]) {
        const chunk = Buffer.alloc(size, 1);
        try {
          for (;;) writeSync(file, chunk);
        } catch (error) {
          if (!(error instanceof Error && 'code' in error && error.code === 'ENOSPC')) throw error;
        }
      }
    } finally {
      closeSync(file);
    }
  }

  free(): void {
    rmSync(join(this.#at, 'filler'), { force: true });
  }

  /** When nothing runs on it any more. */
  unmount(): void {
    execFileSync('umount', ['-l', this.#at]);
  }
}

/** What each node has of snapshots: those that are being written, and those that are there. */
function shelves(up: Up): { readonly partial: readonly string[]; readonly whole: readonly string[] }[] {
  const state = up.cli.env.REKINDLE_STATE_DIR ?? '';
  const nodes = existsSync(join(state, 'nodes')) ? readdirSync(join(state, 'nodes')).map((name) => join(state, 'nodes', name)) : [state];
  return nodes.map((dir) => {
    const at = join(dir, 'snapshots');
    const names = existsSync(at) ? readdirSync(at) : [];
    return { partial: names.filter((name) => name.startsWith('.partial')), whole: names.filter((name) => /^[0-9a-f]{64}$/.test(name)) };
  });
}

const partials = (up: Up): string[] => shelves(up).flatMap(({ partial }) => partial);

describe('a disk that is full', LONG, () => {
  test('while a checkpoint is written, and while a pool is asked for: requests are answered, the reason is told, and room makes it well', async () => {
    await using rig = new Rig();
    const disk = await rig.startOnSmallDisk(worker('web', rig.dir));

    const first = rig.burst('web');
    await until('a checkpoint', () => partials(rig.up).length > 0, 30_000);
    disk.fillBefore(rig.up.pid('agent'));
    const outcomes = await first.all;
    const from = performance.now();
    await rig.up.slots(
      'web',
      'the reason',
      (_slots, pool) => pool.phase === 'refused' && /disk is full|filled the disk/.test(pool.reason ?? ''),
    );
    rows.push({ fault: 'disk full', moment: 'checkpoint', outcomes, convergedMs: performance.now() - from });
    expectSound(rig, outcomes, false);
    const second = rig.burst('web');
    const others = await second.all;
    expectSound(rig, others, false);
    expect(partials(rig.up)).toEqual([]);
    disk.free();
    // A failed checkpoint is not tried again for a minute, but by an agent that begins.
    await rig.up.kill('agent');
    await rig.up.slots('web', 'an agent', (slots) => slots.length > 0);
    await rig.burst('web').all;
    await rig.untilParked('web', 30_000);

    disk.fill();
    const full = await rig.burst('web').all;
    // Parked again on a full disk, and woken again.
    await rig.untilParked('web');
    full.push(...(await rig.burst('web').all));
    disk.free();
    const freed = performance.now();
    await rig.untilParked('web');
    rows.push({ fault: 'disk full', moment: 'idle', outcomes: full, convergedMs: performance.now() - freed });
    expectSound(rig, full, false);
    expect(full.map(({ said }) => said)).toEqual(full.map(() => '200 restore'));
    const { status, stderr } = await rig.up.end();
    expect(status, stderr).toBe(0);
    expect(rig.up.traces()).toEqual([]);
  });

  test('while a snapshot is pulled: the node that has it serves, and the other pulls it once there is room', async () => {
    await using rig = new Rig();
    const disk = await rig.startOnSmallDisk(worker('web', rig.dir, ', maxConcurrency: 2'), ['--nodes', '2']);
    const agents = (await nodes(rig.up)).map(({ name }) => rig.up.pid(`agent ${name}`));
    const first = rig.burst('web');
    const pulled = () => {
      const at = shelves(rig.up);
      return at.some(({ whole }) => whole.length > 0) && at.some(({ partial, whole }) => partial.length > 0 && whole.length === 0);
    };
    await until('a pull', pulled, 30_000);

    disk.fillBefore(...agents);
    await first.all;
    await until('the pull has failed', () => rig.up.said.includes('snapshot could not be pulled from a node'), CONVERGE_MS);
    expect(rig.up.said).toContain('disk_full');
    const outcomes = await rig.burst('web').all;
    disk.free();
    const from = performance.now();
    await until('the snapshot on both', async () => (await nodes(rig.up)).every(({ snapshots }) => snapshots > 0), CONVERGE_MS);
    await rig.untilParked('web');
    rows.push({ fault: 'disk full', moment: 'pull', outcomes, convergedMs: performance.now() - from });

    expectSound(rig, outcomes, false);
    expect(outcomes.every(({ said }) => said.startsWith('200'))).toBe(true);
    const { status, stderr } = await rig.up.end();
    expect(status, stderr).toBe(0);
    expect(rig.up.traces()).toEqual([]);
  });
});

async function nodes(up: Up): Promise<ApiNode[]> {
  return JSON.parse(await (await fetch(`${up.url}/api/nodes`)).text());
}

describe('nonsense', LONG, () => {
  const SEED = 11;
  const name = fc.oneof(fc.constantFrom(...Object.keys(JOBS), '__proto__', 'constructor', ''), fc.string({ maxLength: 30 }));
  const anything = fc.object({ maxDepth: 3, withBigInt: false, withNullPrototype: false });
  const field = fc.constantFrom(
    'slot',
    'workload',
    'parks',
    'snapshot',
    'digest',
    'from',
    'why',
    'park',
    'name',
    'slots',
    'demand',
    'instances',
  );
  const value = fc.oneof(fc.constantFrom('web', 0, -1, 1e300, null, true, '', '../..', 'a'.repeat(64), '0'.repeat(64), [], {}), anything);
  const data = fc.oneof(anything, fc.dictionary(field, value));
  const part = fc.oneof(
    fc.constantFrom('workloads', 'scaler', 'node:', 'node:x', 'gateway:', 'gateway:x', ':', '', 'leader2', 'node:\n'),
    fc.string({ maxLength: 20 }),
  );
  const header = fc.oneof(
    fc.constantFrom('0123456789ab.1\n', '0123456789ab.999999999999999\n', 'ffffffffffff.0\n', '', 'x.1\n'),
    fc.string({ maxLength: 14 }),
  );
  const text = fc
    .tuple(
      header,
      fc.oneof(
        data.map((one) => JSON.stringify(one)),
        fc.array(data, { minLength: 1, maxLength: 3 }).map((one) => JSON.stringify(one)),
        fc.string(),
      ),
    )
    .map(([begin, rest]) => begin + rest);

  test('1,500 jobs, 2,500 texts of the shared view and a dozen files that are none crash nothing, and requests are answered meanwhile', async () => {
    await using rig = new Rig();
    await rig.start(worker('web', rig.dir), [], { REKINDLE_LOG: 'error' });
    await rig.warm('web');
    const before = PARTS.map((one) => rig.up.pid(one));
    const socket = join(rig.up.cli.env.REKINDLE_RUN_DIR ?? '', 'redis', 'redis.sock');
    const [node] = (await nodes(rig.up)).map((one) => one.name);
    const client = new Redis({ path: socket, maxRetriesPerRequest: null });
    const queue = new Queue(queueName(node ?? ''), { connection: client, prefix: QUEUE_PREFIX });
    let over = false;
    const asking = (async () => {
      const all: Outcome[] = [];
      while (!over) all.push(...(await rig.burst('web').all));
      return all;
    })();

    const jobs = fc.sample(fc.tuple(name, data), { numRuns: 1_500, seed: SEED });
    for (let i = 0; i < jobs.length; i += 100)
      await queue.addBulk(
        jobs.slice(i, i + 100).map(([job, said]) => ({ name: job, data: said, opts: { removeOnComplete: true, removeOnFail: true } })),
      );
    for (const [to, said] of fc.sample(fc.tuple(part, text), { numRuns: 2_500, seed: SEED })) {
      await client
        .pipeline()
        .set(`${KEYS.prefix}${to}`, said, 'PX', 5_000)
        .zadd(KEYS.names, 2 ** 40, to)
        .publish(KEYS.channel, `${to}\n${said}`)
        .exec();
    }
    // Of another type than they should be.
    for (const key of [
      KEYS.names,
      `${KEYS.prefix}scaler`,
      `${KEYS.prefix}workloads`,
      `${KEYS.prefix}node:${node}`,
      `${KEYS.prefix}leader`,
    ]) {
      await client.del(key);
      await client.rpush(key, 'nonsense');
    }
    for (const file of fc.sample(text, { numRuns: 12, seed: SEED })) {
      writeFileSync(join(rig.up.cli.dir, 'rekindle.yaml'), file);
      process.kill(rig.up.pid('scaler'), 'SIGHUP');
      await delay(20);
    }
    over = true;
    const outcomes = await asking;
    const from = performance.now();
    await until(
      'the jobs are gone',
      async () => (await queue.getJobCountByTypes('waiting', 'active', 'prioritized', 'delayed')) === 0,
      CONVERGE_MS,
    );
    await rig.untilParked('web');
    rows.push({ fault: 'nonsense in Redis', moment: 'requests in flight', outcomes, convergedMs: performance.now() - from });
    await queue.close();
    await client.quit();

    expectSound(rig, outcomes, false);
    expect(
      outcomes.every(({ said }) => said.startsWith('200')),
      counted(outcomes),
    ).toBe(true);
    expect(PARTS.map((one) => rig.up.pid(one))).toEqual(before);
    const { status, stderr } = await rig.up.end();
    expect(status, stderr).toBe(0);
    expect(rig.up.traces()).toEqual([]);
  });
});

const PARTS = ['agent', 'scaler', 'gateway', 'redis'];

/**
 * The time of a machine cannot be set here without setting it for everybody on it, so two things are shown instead. An agent in this process whose `Date.now`
 * jumps by an hour with every call restores as ever; and what plans and passes on requests does not ask for that time at all: ages, deadlines, leases
 * and windows go by the monotonic clock, and what is told to others are ages. Redis counts times to live by itself. Not shown: containers that are being
 * made at that very moment, whose deadline (src/local) still goes by the time of day; one that fails so is made again.
 */
describe('a clock that is set', () => {
  test('an agent whose time jumps an hour to and fro at every look restores all the same', async () => {
    const workload = parseRekindleFile(`workloads:${nodeService('web', 'response.end(String(state.count++));')}`, 'rekindle.yaml')[0];
    if (workload === undefined) throw new Error('no workload');
    await using node = await TestNode.open(aService(workload));
    const { digest } = await node.warm('web');
    const slots = [await node.park('web'), await node.park('web'), await node.park('web')];
    const real = Date.now;
    let looks = 0;
    const jumping = vi.spyOn(Date, 'now').mockImplementation(() => real() + (looks++ % 2 === 0 ? 1 : -1) * 3_600_000);

    try {
      for (const slot of slots) await node.restore(slot, digest);
    } finally {
      jumping.mockRestore();
    }

    for (const { uid } of slots) expect(node.slot(uid)).toMatchObject({ state: 'live', ready: true, start: { how: 'restore' } });
  });

  test('plans, leases, the shared view and the passing on of requests do not ask for the time of day', () => {
    const src = join(import.meta.dirname, '..', '..', 'src');
    const asking = ['pool', 'scaler', 'queue', 'gateway'].flatMap((dir) =>
      readdirSync(join(src, dir)).flatMap((file) =>
        file.endsWith('.ts') && /Date\.now|new Date\(\)|systemClock/.test(readFileSync(join(src, dir, file), 'utf8'))
          ? [`${dir}/${file}`]
          : [],
      ),
    );

    // When problems, starts and events of Kubernetes are shown to have been; and how long a job waited, which BullMQ says by that clock.
    expect(asking).toEqual(['scaler/resizing.ts', 'queue/job-worker.ts', 'gateway/gateway.ts']);
  });
});
