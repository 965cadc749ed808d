import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { pino } from 'pino';
import { expect, test } from 'vitest';
import { monotonicClock as clock } from '../../src/lib/clock.ts';
import { RekindleError } from '../../src/lib/errors.ts';
import { startService } from '../../src/lib/exec.ts';
import { silentLog } from '../../src/lib/log.ts';
import { JobQueues } from '../../src/queue/job-queue.ts';
import { JobWorker, type JobWorkerDeps } from '../../src/queue/job-worker.ts';
import { type Job, type JobData, jobId } from '../../src/queue/jobs.ts';
import { Leader } from '../../src/queue/leader.ts';
import { connectRedis } from '../../src/queue/redis.ts';
import { RedisServer } from '../../src/queue/redis-server.ts';
import { claimSeed } from '../../src/queue/seed-claim.ts';
import { openSharedView } from '../../src/queue/shared-view.ts';
import { Child } from '../fixtures/child.ts';
import { startRedis, type TestRedis } from '../fixtures/redis.ts';
import { startKind } from '../fixtures/redis-kinds.ts';
import { aNodeTruth, aSlotTruth, aWorkloadTruth } from '../fixtures/truths.ts';
import { until } from '../fixtures/until.ts';

const log = silentLog;

function aRestore(slot: string, more: Partial<JobData['restore']> = {}): Job {
  return { name: 'restore', data: { slot, parks: 0, workload: 'web', why: 'waiting', ...more } };
}

function openView(redis: TestRedis) {
  return openSharedView({ redis: redis.connect(), log, clock });
}

async function openQueues(redis: TestRedis): Promise<JobQueues> {
  const connections = redis.connect();
  await until('redis answers', () => connections.up);
  return new JobQueues({ redis: connections, log });
}

/** A worker that notes what it begins. */
function startWorker(redis: TestRedis, deps: Partial<JobWorkerDeps> = {}) {
  const begun: string[] = [];
  const { process = async () => undefined, ...rest } = deps;
  const worker = JobWorker.start({
    node: 'a',
    redis: redis.connect(),
    log,
    clock,
    ...rest,
    process: (job, signal, progress) => {
      begun.push(jobId(job));
      return process(job, signal, progress);
    },
  });
  return { worker, begun, [Symbol.asyncDispose]: () => worker[Symbol.asyncDispose]() };
}

/** The lines of a log. */
function noted() {
  const lines: Record<string, unknown>[] = [];
  return { lines, log: pino({ level: 'info' }, { write: (line: string) => void lines.push(JSON.parse(line)) }) };
}

const median = (all: readonly number[]) => all.toSorted((a, b) => a - b)[all.length >> 1] ?? Number.NaN;

// The shared view.

test('what one process tells another sees within milliseconds, and sees it go', async () => {
  await using redis = await startRedis();
  await using teller = openView(redis);
  await using reader = openView(redis);
  let cores = 1;
  const node = teller.tellNode(() => aNodeTruth({ cores }));
  await until('the node is seen', () => reader.view.nodes.has('a'));

  const took: number[] = [];
  for (let i = 0; i < 100; i += 1) {
    const seen = Promise.withResolvers<void>();
    const stop = reader.onChange(() => reader.view.nodes.get('a')?.said.cores === cores && seen.resolve());
    const from = performance.now();
    cores += 1;
    node.now();
    await seen.promise;
    took.push(performance.now() - from);
    stop();
  }
  await node[Symbol.asyncDispose]();
  await until('the node is gone', () => reader.view.nodes.size === 0, 1_000);

  // A text that was missed is read within 250.
  expect(median(took)).toBeLessThan(50);
});

test('many calls of one turn are one text, and one call back', async () => {
  await using redis = await startRedis();
  await using teller = openView(redis);
  await using reader = openView(redis);
  let truth = aNodeTruth({ cores: 1 });
  let asked = 0;
  const node = teller.tellNode(() => {
    asked += 1;
    return truth;
  });
  await until('the node is seen', () => reader.view.nodes.has('a'));
  let heard = 0;
  reader.onChange(() => {
    heard += 1;
  });
  const before = asked;

  truth = aNodeTruth({ cores: 2 });
  for (let i = 0; i < 50; i += 1) node.now();
  await until('it was told', () => reader.view.nodes.get('a')?.said.cores === 2);

  // It is asked once a second besides, and tells nothing then.
  expect(asked).toBeLessThanOrEqual(before + 2);
  expect(heard).toBe(1);
});

test('a node that says nothing more is forgotten; workloads stay until the scaler says otherwise', async () => {
  await using redis = await startRedis();
  const connections = redis.connect();
  await using teller = openSharedView({ redis: connections, log, clock });
  await using reader = openView(redis);
  teller.tellNode(() => aNodeTruth());
  const workloads = [aWorkloadTruth()];
  teller.tellWorkloads(() => workloads);
  await until('both are seen', () => reader.view.nodes.has('a') && reader.view.workloads?.has('web'));

  await connections[Symbol.asyncDispose]();
  await until('the node is forgotten', () => reader.view.nodes.size === 0, 8_000);

  expect([...(reader.view.workloads?.keys() ?? [])]).toEqual(['web']);
});

test('a reader that comes late learns all there is at once', async () => {
  await using redis = await startRedis();
  await using teller = openView(redis);
  const workloads = [aWorkloadTruth()];
  teller.tellNode(() => aNodeTruth({ slots: [aSlotTruth()] }));
  teller.tellWorkloads(() => workloads);
  await until('it is told', () => teller.view.workloads !== undefined);

  await using reader = openView(redis);

  await until('all is there', () => reader.view.nodes.has('a') && reader.view.workloads?.has('web'), 900);
});

test('what Redis loses is told again within a second, and the copy stays meanwhile', async () => {
  await using redis = await startRedis();
  await using teller = openView(redis);
  await using reader = openView(redis);
  const workloads = [aWorkloadTruth()];
  teller.tellNode(() => aNodeTruth());
  teller.tellWorkloads(() => workloads);
  await until('both are seen', () => reader.view.nodes.has('a') && reader.view.workloads?.has('web'));
  let gone = false;
  reader.onChange(() => {
    gone ||= !reader.view.nodes.has('a');
  });

  await redis.flush();
  await using late = openView(redis);
  await until('all is told again', () => late.view.nodes.has('a') && late.view.workloads?.has('web'), 2_000);

  expect(gone).toBe(false);
});

test('while Redis is away the copy stays as it was, and it is told anew as soon as Redis is back', async () => {
  await using redis = await startRedis();
  await using teller = openView(redis);
  await using reader = openView(redis);
  let cores = 1;
  teller.tellNode(() => aNodeTruth({ cores }));
  await until('the node is seen', () => reader.view.nodes.has('a') && reader.connected);

  await redis.kill();
  await until('it is known to be away', () => !reader.connected && !teller.connected);
  cores = 2;
  // Longer than the time to live.
  await clock.sleep(6_000);
  expect(reader.view.nodes.get('a')?.said.cores).toBe(1);
  await redis.startAgain();
  const from = performance.now();
  await until('the new truth is seen', () => reader.connected && reader.view.nodes.get('a')?.said.cores === 2, 5_000);

  expect(performance.now() - from).toBeLessThan(2_500);
});

test('a Redis that hangs is noticed', async () => {
  await using redis = await startRedis();
  await using reader = openView(redis);
  await until('it is connected', () => reader.connected);

  process.kill(redis.pid ?? 0, 'SIGSTOP');
  try {
    await until('it is noticed', () => !reader.connected, 6_000);
  } finally {
    process.kill(redis.pid ?? 0, 'SIGCONT');
  }

  await until('it is connected again', () => reader.connected, 6_000);
});

test('junk in the shared view is ignored, and complained of once per part', async () => {
  await using redis = await startRedis();
  const { lines, log } = noted();
  await using reader = openSharedView({ redis: redis.connect(), log, clock });
  await using teller = openView(redis);
  await until('it is connected', () => reader.connected);
  const client = redis.connect().connect('patient');
  const message = fc.oneof(
    fc.string(),
    fc
      .tuple(fc.constantFrom('node:x', 'gateway:y', 'scaler', 'workloads'), fc.json())
      .map(([name, json]) => `${name}\nabcdef012345.${json.length}\n${json}`),
  );

  await fc.assert(
    fc.asyncProperty(message, async (text) => void (await client.publish('{rekindle}:told', text))),
    { numRuns: 2_000 },
  );
  await client.set('{rekindle}:node:junk', 'junk');
  await client.hset('{rekindle}:node:hash', 'a', 1);
  await client.zadd('{rekindle}:names', Math.floor(Date.now() / 1_000), 'node:junk', Math.floor(Date.now() / 1_000), 'node:hash');
  teller.tellNode(() => aNodeTruth());
  await until('what is well-formed is heard', () => reader.view.nodes.has('a'));
  await clock.sleep(2_200);

  expect([...reader.view.nodes.keys()]).toEqual(['a']);
  expect(reader.connected).toBe(true);
  expect(lines.filter(({ part }) => part === 'node:x').length).toBeLessThanOrEqual(1);
});

// Jobs.

test('a job reaches its node within milliseconds, while others run too', async () => {
  await using redis = await startRedis();
  const waited: number[] = [];
  await using node = startWorker(redis, {
    onStart: (job, waitedMs) => void (job.name === 'restore' && waited.push(waitedMs)),
    process: async (job, signal) => (job.name === 'warm' ? clock.sleep(60_000, signal) : undefined),
  });
  await using queues = await openQueues(redis);
  for (let i = 0; i < 10; i += 1) await queues.add('a', { name: 'warm', data: { workload: `w${i}` } });
  await until('the long ones run', () => node.begun.length === 10);

  const took: number[] = [];
  for (let i = 0; i < 100; i += 1) {
    const from = performance.now();
    await queues.add('a', aRestore(`s${i}`));
    await until('it began', () => node.begun.includes(`restore.s${i}.0`));
    took.push(performance.now() - from);
  }

  // About 6 ms, of which `until` sleeps 5, and 1 ms. A wake-up that was missed takes 250 or more.
  expect(median(took)).toBeLessThan(100);
  expect(median(waited)).toBeLessThan(50);
});

test('the same job is asked for once while it waits or runs, and again when it has ended', async () => {
  await using redis = await startRedis();
  const runs = Promise.withResolvers<void>();
  await using node = startWorker(redis, { process: () => runs.promise });
  await using queues = await openQueues(redis);

  await Promise.all(Array.from({ length: 20 }, () => queues.add('a', aRestore('s'))));
  await until('it runs', () => node.begun.length === 1);
  await queues.add('a', aRestore('s'));
  expect(await queues.exists('a', 'restore.s.0')).toBe(true);
  runs.resolve();
  await until('it has ended', async () => (await queues.exists('a', 'restore.s.0')) === false);
  expect(node.begun).toEqual(['restore.s.0']);
  await queues.add('a', aRestore('s'));

  await until('it runs again', () => node.begun.length === 2);
});

test('jobs are for their own node only', async () => {
  await using redis = await startRedis();
  await using a = startWorker(redis);
  await using b = startWorker(redis, { node: 'b' });
  await using queues = await openQueues(redis);

  await queues.add('b', aRestore('s'));
  await until('it ran', () => b.begun.length === 1);

  expect(a.begun).toEqual([]);
});

test('a request that waits goes before what waits in the queue already', async () => {
  await using redis = await startRedis();
  await using queues = await openQueues(redis);
  await queues.add('a', { name: 'pull', data: { workload: 'web', digest: 'd'.repeat(64), from: 'b' } });
  await queues.add('a', { name: 'park', data: { slot: 'p', workload: 'web' } });
  await queues.add('a', aRestore('ahead', { why: 'minimum' }));
  await queues.add('a', aRestore('waiting'));

  await using node = startWorker(redis, { concurrency: 1, process: () => clock.sleep(5) });
  await until('all ran', () => node.begun.length === 4);

  expect(node.begun).toEqual(['restore.waiting.0', 'restore.ahead.0', 'park.p', `pull.${'d'.repeat(64)}`]);
});

test('a job that fails for a while is tried again, one that cannot succeed is not, and each is logged once', async () => {
  await using redis = await startRedis();
  const { lines, log } = noted();
  await using node = startWorker(redis, {
    log,
    process: async (job) => {
      throw new RekindleError('internal', `no ${job.name}`, { retryable: job.name === 'pull' });
    },
  });
  await using queues = await openQueues(redis);
  const pull: Job = { name: 'pull', data: { workload: 'web', digest: 'd'.repeat(64), from: 'b' } };

  await queues.add('a', pull);
  await queues.add('a', { name: 'park', data: { slot: 'p', workload: 'web' } });
  await until('both have failed', async () => lines.filter(({ msg }) => msg === 'job failed').length === 2);

  expect(node.begun.filter((id) => id === jobId(pull))).toHaveLength(3);
  expect(node.begun.filter((id) => id === 'park.p')).toHaveLength(1);
  expect(lines.filter(({ msg }) => msg === 'job will be tried again')).toHaveLength(2);
  await until('they are forgotten', async () => (await queues.exists('a', jobId(pull))) === false);
});

test('a job is told when its deadline is over, and given up if it does not obey', async () => {
  await using redis = await startRedis();
  const { lines, log } = noted();
  const reasons: unknown[] = [];
  // A clock on which an hour is 50 ms.
  const fast = { ...clock, sleep: (ms: number, signal?: AbortSignal) => clock.sleep(ms / 3_600, signal) };
  await using _node = startWorker(redis, {
    log,
    clock: fast,
    process: (job, signal) => {
      signal.addEventListener('abort', () => reasons.push(signal.reason));
      return job.name === 'restore' ? clock.sleep(60_000, signal) : new Promise(() => undefined);
    },
  });
  await using queues = await openQueues(redis);

  await queues.add('a', aRestore('obeys'));
  await queues.add('a', { name: 'warm', data: { workload: 'deaf' } });
  await until('both have failed', () => lines.filter(({ msg }) => msg === 'job failed').length === 2);

  expect(reasons).toMatchObject([{ code: 'timeout' }, { code: 'timeout' }]);
});

test('malformed jobs fail with what is wrong, and the next job runs', async () => {
  await using redis = await startRedis();
  const { lines, log } = noted();
  await using node = startWorker(redis, { log });
  const client = redis.connect().connect('patient');
  const { Queue } = await import('bullmq');
  const raw = new Queue('node-a', { connection: client, prefix: '{rekindle}' });
  await using queues = await openQueues(redis);
  const anyName = fc.oneof(fc.constantFrom('restore', 'park', 'warm', 'pull', 'remove', 'suspend'), fc.string({ minLength: 1 }));
  let added = 0;

  await fc.assert(
    fc.asyncProperty(anyName, fc.jsonValue(), async (name, data) => {
      added += 1;
      await raw.add(name, data, { attempts: 3, removeOnFail: true, removeOnComplete: true });
    }),
    { numRuns: 2_000 },
  );
  await client.hset('{rekindle}:node-a:broken', { name: 'restore', data: '{', opts: '{' });
  await client.lpush('{rekindle}:node-a:wait', 'broken', 'missing');
  await queues.add('a', aRestore('fine'));
  await until('the good one ran', () => node.begun.includes('restore.fine.0'), 30_000);
  await until('all bad ones failed', () => lines.filter(({ msg }) => msg === 'job failed').length >= added - 5, 30_000);

  expect(node.begun.filter((id) => id !== 'restore.fine.0').length).toBeLessThan(5);
  expect(lines.some(({ msg }) => msg === 'job will be tried again')).toBe(false);
  await raw.close();
});

test('a worker that waits goes on after Redis was flushed, and after it was started anew', async () => {
  await using redis = await startRedis();
  await using node = startWorker(redis);
  await using queues = await openQueues(redis);
  const runs = async (slot: string) => {
    await until('it is queued', () => queues.add('a', aRestore(slot)), 5_000);
    await until(`${slot} ran`, () => node.begun.includes(`restore.${slot}.0`), 5_000);
  };
  await runs('before');

  await redis.flush();
  await runs('flushed');
  await redis.kill();
  expect(await queues.add('a', aRestore('away'))).toBe(false);
  await redis.startAgain();
  await runs('restarted');
  await redis.flush();
  await runs('again');
});

test('a job that runs while Redis is flushed ends as if nothing had been', async () => {
  await using redis = await startRedis();
  const runs = Promise.withResolvers<void>();
  await using node = startWorker(redis, { process: (job) => (job.name === 'warm' ? runs.promise : Promise.resolve()) });
  await using queues = await openQueues(redis);
  await queues.add('a', { name: 'warm', data: { workload: 'web' } });
  await until('it runs', () => node.begun.length === 1);

  await redis.flush();
  runs.resolve();
  await queues.add('a', aRestore('next'));

  await until('the next ran', () => node.begun.includes('restore.next.0'));
});

test('what a killed worker was at may be asked for again as soon as another is there', async () => {
  await using redis = await startRedis();
  await using queues = await openQueues(redis);
  await using child = new Child('run-worker.ts', redis.url);
  await queues.add('a', aRestore('s'));
  await child.says('restore.s.0');
  child.kill('SIGKILL');
  await child.ended;

  await using node = startWorker(redis);
  await until('it is forgotten', async () => (await queues.exists('a', 'restore.s.0')) === false, 2_000);
  await queues.add('a', aRestore('s'));

  await until('it ran', () => node.begun.includes('restore.s.0'));
});

test('a worker that ends takes no more, waits for what runs, and aborts what takes too long', async () => {
  await using redis = await startRedis();
  await using queues = await openQueues(redis);
  const ended: string[] = [];
  const node = startWorker(redis, {
    process: async (job, signal) => {
      await clock.sleep(job.name === 'restore' ? 200 : 60_000, signal).then(
        () => ended.push('done'),
        () => ended.push('aborted'),
      );
    },
  });
  await queues.add('a', aRestore('short'));
  await queues.add('a', { name: 'warm', data: { workload: 'long' } });
  await until('both run', () => node.begun.length === 2);

  const from = performance.now();
  const closed = node.worker.close(600);
  await clock.sleep(100);
  await queues.add('a', aRestore('late'));
  await closed;

  expect(ended).toEqual(['done', 'aborted']);
  expect(performance.now() - from).toBeLessThan(3_000);
  expect(node.begun).not.toContain('restore.late.0');
  await using next = startWorker(redis);
  await until('the next worker has it', () => next.begun.includes('restore.late.0'));
});

test('a worker ends although Redis is away, as soon as its jobs have', async () => {
  await using redis = await startRedis();
  await using queues = await openQueues(redis);
  const goOn = Promise.withResolvers<void>();
  const idle = startWorker(redis, { node: 'b' });
  const busy = startWorker(redis, { process: () => goOn.promise });
  await queues.add('a', aRestore('x'));
  await until('it runs', () => busy.begun.length === 1);
  await redis.kill();
  let ended = false;

  const closed = busy.worker.close(600_000).then(() => {
    ended = true;
  });
  await idle.worker.close(600_000);
  const before = ended;
  goOn.resolve();
  await closed;

  expect(before).toBe(false);
});

// Leadership.

test('one leads, and another takes over at once when it ends', async () => {
  await using redis = await startRedis();
  const first = new Leader({ redis: redis.connect(), log, clock });
  await until('it leads', () => first.leads);
  await using second = new Leader({ redis: redis.connect(), log, clock });
  await clock.sleep(1_500);
  expect([first.leads, second.leads]).toEqual([true, false]);

  const from = performance.now();
  await first[Symbol.asyncDispose]();
  await until('the other leads', () => second.leads);

  expect(performance.now() - from).toBeLessThan(1_000);
});

test('when a leader is gone without a word, another leads within three seconds, and never both', async () => {
  await using redis = await startRedis();
  const connections = redis.connect();
  await using first = new Leader({ redis: connections, log, clock });
  await until('it leads', () => first.leads);
  await using second = new Leader({ redis: redis.connect(), log, clock });
  await clock.sleep(500);

  const from = performance.now();
  await connections[Symbol.asyncDispose]();
  await until('the other leads', () => {
    expect(first.leads && second.leads).toBe(false);
    return second.leads;
  });

  expect(performance.now() - from).toBeLessThan(6_000);
});

test('a flush gives nobody a second leader', async () => {
  await using redis = await startRedis();
  await using first = new Leader({ redis: redis.connect(), log, clock });
  await until('one leads', () => first.leads);
  await using second = new Leader({ redis: redis.connect(), log, clock });
  await using third = new Leader({ redis: redis.connect(), log, clock });
  await clock.sleep(600);

  for (let i = 0; i < 5; i += 1) {
    await redis.flush();
    const end = performance.now() + 900;
    while (performance.now() < end) {
      expect([first, second, third].filter(({ leads }) => leads).length).toBeLessThan(2);
      await clock.sleep(2);
    }
  }

  await until('one leads', () => [first, second, third].some(({ leads }) => leads), 6_000);
});

// Connections and the server.

test('an outage is logged once for all connections of a process, and so is its end', async () => {
  await using redis = await startRedis();
  const { lines, log } = noted();
  await using connections = connectRedis({ url: redis.url, log });
  connections.connect('patient');
  connections.connect('subscriber');
  await until('it is connected', () => connections.up);

  await redis.kill();
  await until('it is known to be away', () => lines.length > 0);
  await clock.sleep(300);
  await redis.startAgain();
  await until('it is known to be back', () => lines.length > 1);

  expect(lines.map(({ msg }) => msg)).toEqual(['redis is away', 'redis is back']);
});

test('a wrong password is told in words, without it', async () => {
  await using redis = await startRedis();
  const { lines, log } = noted();
  await redis.command('CONFIG', 'SET', 'requirepass', 'hunter2');
  const target = { name: 'test', kind: 'single', options: { path: redis.url.slice('unix:'.length), password: 'swordfish' } } as const;
  const { RedisConnections } = await import('../../src/queue/redis.ts');
  await using connections = new RedisConnections({ target, log });

  expect(connections.up).toBe(false);
  await until('it is refused', () => lines.length > 0);

  expect(JSON.stringify(lines)).toMatch(/WRONGPASS|NOAUTH/);
  expect(JSON.stringify(lines)).not.toContain('swordfish');
});

test.each(['password', 'tls', 'sentinel', 'cluster'] as const)('view, jobs and leadership go through Redis with %s', async (kind) => {
  await using redis = await startKind(kind);
  await using stack = new AsyncDisposableStack();
  const connect = () => stack.use(connectRedis({ url: redis.url, log }));
  const [ours, theirs] = [connect(), connect()];
  const reader = stack.use(openSharedView({ redis: theirs, log, clock }));
  const teller = stack.use(openSharedView({ redis: ours, log, clock }));
  const leader = stack.use(new Leader({ redis: ours, log, clock }));
  const begun: string[] = [];
  stack.use(JobWorker.start({ node: 'a', redis: theirs, log, clock, process: async (job) => void begun.push(jobId(job)) }));
  const queues = stack.use(new JobQueues({ redis: ours, log }));

  stack.use(teller.tellNode(() => aNodeTruth()));
  await until('the node is seen', () => reader.view.nodes.has('a'));
  await until('it leads', () => leader.leads);
  await until('it is queued', () => queues.add('a', aRestore('s')));
  await until('it ran', () => begun.includes('restore.s.0'));

  await until('it is forgotten', async () => (await queues.exists('a', 'restore.s.0')) === false);
});

test('our redis-server says why it ended, and serves again at the same place', async () => {
  await using redis = await startRedis();
  const dir = redis.url.slice('unix:'.length).replace(/redis\.sock$/, '');

  await expect(RedisServer.start(dir, { startService, clock })).rejects.toThrow(expect.objectContaining({ code: 'usage' }));
  await redis.kill();
  await redis.startAgain();

  expect(await redis.command('PING')).toBe('PONG');
});

test('our redis-server does not outlive whoever started it', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'rekindle-redis-'));
  await using stack = new AsyncDisposableStack();
  stack.defer(() => rm(dir, { recursive: true }));
  const child = stack.use(new Child('run-redis.ts', dir));
  const pid = Number(await until('it is started', () => /pid (\d+)/.exec(child.said)?.[1], 60_000));
  expect(() => process.kill(pid, 0)).not.toThrow();

  child.kill('SIGKILL');

  await until('it is gone', () => {
    try {
      process.kill(pid, 0);
      return false;
    } catch {
      return true;
    }
  });
});

test('one node at a time may make the seed of a kind; another may when that has ended, or when nobody can say', async () => {
  await using redis = await startRedis();
  const connections = redis.connect();
  await until('redis answers', () => connections.up);
  const kind = { machineClass: 'c1', specHash: 'a'.repeat(64) };
  const claim = (of = kind) => claimSeed({ redis: connections, clock }, of);

  const first = await claim();
  const second = await claim();
  const elsewhere = await claim({ ...kind, machineClass: 'c2' });
  await first?.[Symbol.asyncDispose]();
  const third = await claim();
  const withoutRedis = await claimSeed({ redis: { up: false, prompt: connections.prompt }, clock }, kind);

  expect([first, second, elsewhere, third, withoutRedis].map((one) => one !== undefined)).toEqual([true, false, true, true, true]);
  for (const one of [elsewhere, third]) await one?.[Symbol.asyncDispose]();
});
