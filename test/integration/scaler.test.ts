import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { monotonicClock as clock } from '../../src/lib/clock.ts';
import { silentLog as log } from '../../src/lib/log.ts';
import { runLoop } from '../../src/lib/loop.ts';
import { JobQueues } from '../../src/queue/job-queue.ts';
import { Leader } from '../../src/queue/leader.ts';
import { openSharedView } from '../../src/queue/shared-view.ts';
import type { GatewayTruth, WorkloadTruth } from '../../src/queue/truth.ts';
import { Scaler } from '../../src/scaler/scaler.ts';
import { Child } from '../fixtures/child.ts';
import { digestOf, FakeNode, type FakeNodeOptions } from '../fixtures/fake-node.ts';
import { startRedis, type TestRedis } from '../fixtures/redis.ts';
import { aWorkloadTruth } from '../fixtures/truths.ts';
import { until } from '../fixtures/until.ts';

/** Short times, so that pools come to rest within seconds. */
const SHORT = { idleSeconds: 1, stableWindowSeconds: 1, burstWindowSeconds: 1 };

/** A scaler with connections of its own, as its process would have it. */
class RunningScaler implements AsyncDisposable {
  readonly queued: { readonly atMs: number; readonly id: string }[] = [];
  readonly leader: Leader;
  workloads: readonly WorkloadTruth[];
  readonly #stack = new AsyncDisposableStack();
  readonly #connections;

  constructor(redis: TestRedis, workloads: readonly WorkloadTruth[]) {
    this.workloads = workloads;
    const stack = this.#stack;
    this.#connections = redis.connect();
    const view = stack.use(openSharedView({ redis: this.#connections, log, clock }));
    const queues = stack.use(new JobQueues({ redis: this.#connections, log }));
    this.leader = stack.use(new Leader({ redis: this.#connections, log, clock, onChange: () => loop.wake() }));
    const noting: Pick<JobQueues, 'add' | 'exists'> = {
      add: (node, job) => {
        this.queued.push({ atMs: performance.now(), id: job.name });
        return queues.add(node, job);
      },
      exists: (node, id) => queues.exists(node, id),
    };
    const id = Math.random().toString(36).slice(2);
    const scaler = stack.use(new Scaler({ id, view, queues: noting, leader: this.leader, workloads: () => this.workloads, log, clock }));
    const stop = new AbortController();
    const loop = runLoop(scaler, { log, clock }, stop.signal);
    stack.defer(view.onChange(() => loop.wake()));
    stack.defer(async () => {
      stop.abort();
      await loop.done;
    });
  }

  /** As kill -9: it says nothing more, though it goes on believing. */
  async cutOff(): Promise<void> {
    await this.#connections[Symbol.asyncDispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}

/** A gateway without requests: its demand is set by hand. Whoever waits is served by any instance that is ready and does not drain. */
class FakeGateway implements AsyncDisposable {
  readonly view;
  readonly id = Math.random().toString(36).slice(2);
  inFlight = 0;
  #waitingSince: number[] = [];
  #arrivals = 0;
  readonly #used = new Map<string, { uid: string; parks: number; inFlight: number; lastMs: number }>();
  readonly #teller;

  constructor(redis: TestRedis) {
    this.view = openSharedView({ redis: redis.connect(), log, clock });
    this.#teller = this.view.tellGateway(() => this.#truth());
  }

  /** So many requests wait from now on. */
  wait(count: number): void {
    this.#waitingSince = Array.from({ length: count }, () => performance.now());
    this.#arrivals += count;
    this.#teller.now();
  }

  /** Instances that a request could be sent to. */
  usable() {
    const draining = this.view.view.scaler?.said.draining ?? [];
    const slots = [...this.view.view.nodes.values()].flatMap(({ said }) => said.slots);
    return slots.filter(({ uid, ready, state }) => ready && (state === 'live' || state === 'cold') && !draining.includes(uid));
  }

  /** Sends one request to each, which lasts until `release`. */
  hold(): void {
    for (const { uid, parks } of this.usable()) this.#used.set(`${uid} ${parks}`, { uid, parks, inFlight: 1, lastMs: performance.now() });
    this.inFlight = this.#used.size;
    this.#teller.now();
  }

  release(): void {
    for (const one of this.#used.values()) Object.assign(one, { inFlight: 0, lastMs: performance.now() });
    this.inFlight = 0;
    this.#teller.now();
  }

  #truth(): GatewayTruth {
    const now = performance.now();
    const [oldest = now] = this.#waitingSince;
    const waiting = this.#waitingSince.length;
    return {
      id: this.id,
      url: 'http://127.0.0.1:1',
      demand: [{ workload: 'web', inFlight: this.inFlight, waiting, oldestWaitingMs: now - oldest, arrivals: this.#arrivals }],
      instances: [...this.#used.values()].map(({ lastMs, ...one }) => ({ ...one, idleMs: one.inFlight > 0 ? 0 : now - lastMs })),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#teller[Symbol.asyncDispose]();
    await this.view[Symbol.asyncDispose]();
  }
}

const startNode = (redis: TestRedis, options: Omit<FakeNodeOptions, 'redis'> = {}) =>
  new FakeNode({ redis: redis.connect(), snapshots: true, ...options });
const states = (...nodes: FakeNode[]) =>
  nodes
    .flatMap((node) => node.slots())
    .map(({ state, ready }) => (state === 'live' && !ready ? 'waking' : state))
    .sort()
    .join(' ');
const is = (wanted: string, ...nodes: FakeNode[]) =>
  until(`slots are: ${wanted}`, () => states(...nodes) === wanted, 20_000).catch(() => expect(states(...nodes)).toBe(wanted));
const jobsOf = (node: FakeNode, name: string) => node.jobs.filter(({ job }) => job.name === name);

test('the slots of the file are made, and a snapshot by a seed where there is none', async () => {
  await using redis = await startRedis();
  await using _scaler = new RunningScaler(redis, [aWorkloadTruth({ ...SHORT, parked: 2, max: 4 })]);
  await using node = startNode(redis, { snapshots: false });

  await until('there is a snapshot', () => node.truth().snapshots.length === 1);
  await is('parked parked', node);

  expect(jobsOf(node, 'warm')).toHaveLength(1);
});

test('a request that waits has its restore begun within milliseconds, and the pool comes to rest after it', async () => {
  await using redis = await startRedis();
  await using _scaler = new RunningScaler(redis, [aWorkloadTruth({ ...SHORT, parked: 2, max: 5 })]);
  await using node = startNode(redis);
  await using gateway = new FakeGateway(redis);
  await is('parked parked', node);
  const took: number[] = [];

  for (let i = 0; i < 3; i += 1) {
    const from = performance.now();
    gateway.wait(1);
    await until('it is restored', () => gateway.usable().length > 0);
    gateway.wait(0);
    const restore = jobsOf(node, 'restore').find(({ atMs }) => atMs > from);
    expect(restore?.job.data).toMatchObject({ why: 'waiting', snapshot: digestOf('web') });
    took.push((restore?.atMs ?? Number.NaN) - from);
    await is('parked parked', node);
  }

  // About 4 ms; the best one, since all roles and the test share this process. A wake-up that was missed takes 250.
  expect(Math.min(...took)).toBeLessThan(100);
});

test('a burst wakes as many as the policy allows and no more, on all nodes', async () => {
  await using redis = await startRedis();
  await using _scaler = new RunningScaler(redis, [aWorkloadTruth({ ...SHORT, parked: 4, max: 6 })]);
  await using a = startNode(redis);
  await using b = startNode(redis, { name: 'b' });
  await using gateway = new FakeGateway(redis);
  await is('parked parked parked parked', a, b);

  gateway.wait(50);
  await until('all are seen', () => gateway.usable().length === 6);
  gateway.wait(0);
  gateway.hold();
  await clock.sleep(1_500);
  expect(states(a, b)).toBe('live live live live live live');
  expect(a.slots().length).toBeGreaterThan(0);
  expect(b.slots().length).toBeGreaterThan(0);
  gateway.release();

  await is('parked parked parked parked', a, b);
});

test('an instance is sent nothing new for a moment before it is ended, and serves on if a request waits then', async () => {
  await using redis = await startRedis();
  await using _scaler = new RunningScaler(redis, [aWorkloadTruth({ ...SHORT, parked: 1, max: 1, idleSeconds: 0 })]);
  await using node = startNode(redis);
  await using gateway = new FakeGateway(redis);
  await is('parked', node);
  gateway.wait(1);
  await is('live', node);
  gateway.wait(0);

  await until('it is held back', () => gateway.usable().length === 0);
  const heldAt = performance.now();
  await until('it is ended', () => jobsOf(node, 'remove').length > 0);

  expect((jobsOf(node, 'remove')[0]?.atMs ?? 0) - heldAt).toBeGreaterThan(10);
});

test('what waits when Redis is flushed is served all the same', async () => {
  await using redis = await startRedis();
  await using _scaler = new RunningScaler(redis, [aWorkloadTruth({ ...SHORT, parked: 2, max: 4 })]);
  await using node = startNode(redis);
  await using gateway = new FakeGateway(redis);
  await is('parked parked', node);

  for (let i = 0; i < 4; i += 1) {
    gateway.wait(1);
    await redis.flush();
    await until('it is restored', () => gateway.usable().length > 0, 5_000);
    gateway.wait(0);
    await redis.flush();
    await is('parked parked', node);
  }
});

test('Redis may be away for a while: requests that wait are served when it is back, and nothing is made twice', async () => {
  await using redis = await startRedis();
  await using _scaler = new RunningScaler(redis, [aWorkloadTruth({ ...SHORT, parked: 2, max: 4 })]);
  await using a = startNode(redis);
  await using b = startNode(redis, { name: 'b' });
  await using gateway = new FakeGateway(redis);
  await is('parked parked', a, b);
  const made = jobsOf(a, 'park').length + jobsOf(b, 'park').length;

  await redis.kill();
  gateway.wait(1);
  await clock.sleep(6_000);
  await redis.startAgain();
  await until('it is restored', () => gateway.usable().length > 0, 8_000);
  gateway.wait(0);
  await is('parked parked', a, b);

  // The one that was woken is made up for, once.
  expect(jobsOf(a, 'park').length + jobsOf(b, 'park').length).toBeLessThanOrEqual(made + 1);
});

test('a node that dies is made up for on another, and what it was to do is not waited for', async () => {
  await using redis = await startRedis();
  await using _scaler = new RunningScaler(redis, [aWorkloadTruth({ ...SHORT, parked: 2, max: 4 })]);
  const a = startNode(redis);
  await using b = startNode(redis, { name: 'b' });
  await using gateway = new FakeGateway(redis);
  await is('parked parked', a, b);

  await a.kill();
  await is('parked parked', b);
  gateway.wait(1);
  await until('it is restored', () => gateway.usable().some(({ state }) => state === 'live'));

  expect(jobsOf(b, 'restore').length).toBeGreaterThan(0);
});

test('an agent that starts anew is asked again at once for what the one before was at', async () => {
  await using redis = await startRedis();
  await using _scaler = new RunningScaler(redis, [aWorkloadTruth({ ...SHORT, parked: 0, min: 1, max: 1 })]);
  const first = startNode(redis, { snapshots: false, takes: { cold: 60_000 } });
  await until('it makes a seed', () => first.slots().some(({ seed }) => seed));
  await first.kill();

  await using second = startNode(redis, { snapshots: false });
  await until('there is a snapshot', () => second.truth().snapshots.length === 1, 5_000);
});

test('a job that fails again and again is not asked for all the time', async () => {
  await using redis = await startRedis();
  await using _scaler = new RunningScaler(redis, [aWorkloadTruth({ ...SHORT, parked: 1, max: 1 })]);
  await using node = startNode(redis, {
    before: (job) => {
      if (job.name === 'park') throw new Error('no room for it');
    },
  });

  await until('it was tried', () => jobsOf(node, 'park').length > 0);
  await clock.sleep(4_000);

  expect(jobsOf(node, 'park').length).toBeLessThan(8);
});

test('a workload that is taken from the file goes, with its instances', async () => {
  await using redis = await startRedis();
  await using scaler = new RunningScaler(redis, [aWorkloadTruth({ ...SHORT, min: 1, parked: 1, max: 4 })]);
  await using node = startNode(redis);
  await is('live parked', node);

  scaler.workloads = [aWorkloadTruth({ ...SHORT, parked: 1, max: 4 }, { name: 'other' })];

  await until('only the other is there', () => node.slots().length === 1 && node.slots()[0]?.workload === 'other');
  expect([...(node.view.view.workloads?.keys() ?? [])]).toEqual(['other']);
});

test('two scalers never both act, and the second goes on when the first is cut off', async () => {
  await using redis = await startRedis();
  const workloads = [aWorkloadTruth({ ...SHORT, parked: 2, max: 4 })];
  await using node = startNode(redis);
  await using gateway = new FakeGateway(redis);
  await using first = new RunningScaler(redis, workloads);
  await until('it leads', () => first.leader.leads);
  await using second = new RunningScaler(redis, workloads);
  await is('parked parked', node);
  gateway.wait(1);
  await until('it is restored', () => gateway.usable().length > 0);
  gateway.wait(0);
  await is('parked parked', node);
  expect(second.queued).toEqual([]);

  await first.cutOff();
  const from = performance.now();
  gateway.wait(1);
  await until('it is restored', () => gateway.usable().length > 0);
  const took = performance.now() - from;
  gateway.wait(0);
  await is('parked parked', node);

  expect(took).toBeLessThan(6_000);
  const lastOfFirst = Math.max(...first.queued.map(({ atMs }) => atMs));
  expect(second.queued.every(({ atMs }) => atMs > lastOfFirst)).toBe(true);
});

test('the role: reads its file, reads it again when told to, keeps the old when the new is wrong, and ends when asked', async () => {
  await using redis = await startRedis();
  const dir = await mkdtemp(join(tmpdir(), 'rekindle-scaler-'));
  await using stack = new AsyncDisposableStack();
  stack.defer(() => rm(dir, { recursive: true }));
  const file = join(dir, 'rekindle.yaml');
  const write = (parked: number, more = '') =>
    writeFile(
      file,
      `workloads:\n  web:\n    container: { rootfs: host, command: [/bin/true], ports: [80] }\n    pool: { parked: ${parked}, max: 4 }\n${more}`,
    );
  await write(1);
  const child = stack.use(new Child('run-scaler.ts', file, redis.url));
  await child.says('scaler: keeps web');
  await using node = startNode(redis);
  await is('parked', node);
  const [slot] = node.slots();

  await write(3);
  child.kill('SIGHUP');
  await is('parked parked parked', node);
  expect(node.slots().map(({ uid }) => uid)).toContain(slot?.uid);

  await write(3, 'nonsense: true\n');
  child.kill('SIGHUP');
  await until('it says what is wrong', () => child.said.includes('file is wrong') && child.said.includes('nonsense'));
  expect(states(node)).toBe('parked parked parked');

  child.kill('SIGTERM');
  expect(await child.ended).toBe(0);
  await until('what it told is taken back', () => node.view.view.scaler === undefined, 1_000);
  expect(node.view.view.workloads?.has('web')).toBe(true);
});

test('a scaler that is killed is followed by another within seconds', async () => {
  await using redis = await startRedis();
  const dir = await mkdtemp(join(tmpdir(), 'rekindle-scaler-'));
  await using stack = new AsyncDisposableStack();
  stack.defer(() => rm(dir, { recursive: true }));
  const file = join(dir, 'rekindle.yaml');
  await writeFile(file, 'workloads:\n  web:\n    container: { rootfs: host, command: [/bin/true], ports: [80] }\n');
  const child = stack.use(new Child('run-scaler.ts', file, redis.url));
  await child.says('scaler: keeps web');
  await using node = startNode(redis);
  await is('parked', node);
  await using next = new RunningScaler(redis, [aWorkloadTruth()]);
  await clock.sleep(500);
  expect(next.leader.leads).toBe(false);

  child.kill('SIGKILL');
  const from = performance.now();
  await until('the next leads', () => next.leader.leads);

  expect(performance.now() - from).toBeLessThan(6_000);
});
