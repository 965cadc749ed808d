// A request to a workload of which nothing runs: what queue, scaler and gateway add to the engine's restore, in one run.
import { setTimeout as delay } from 'node:timers/promises';
import { monotonicClock } from '../../src/lib/clock.ts';
import { silentLog } from '../../src/lib/log.ts';
import { JobQueues } from '../../src/queue/job-queue.ts';
import { JobWorker } from '../../src/queue/job-worker.ts';
import { TestEngine } from '../../test/fixtures/engine.ts';
import { aService, ask, TestNode } from '../../test/fixtures/node.ts';
import { startRedis } from '../../test/fixtures/redis.ts';
import { nodeService, Up } from '../../test/fixtures/up.ts';
import { loadTest, withRounds } from '../lib/load-test.ts';
import { machineFacts } from '../lib/machine.ts';
import { summarize } from '../lib/stats.ts';

const ROUNDS = 30;
/** Until what a container that was removed leaves to the kernel is done. */
const SETTLE_MS = 300;
const JOBS = 300;

const { options, report } = loadTest<{ rounds: number }>(import.meta.dirname, withRounds(ROUNDS));

const yaml = (name: string): string =>
  `workloads:${nodeService(name, 'response.end(String(state.count++));', { policy: 'pool: { idleSeconds: 0.3, max: 2, parked: 2, stableWindowSeconds: 1, burstWindowSeconds: 1 }' })}`;

{
  const workload = TestEngine.workload(yaml('web'));
  // An agent that is given its jobs directly: no Redis, scaler or gateway.
  await using node = await TestNode.open(aService(workload));
  const { seed } = await node.warm('web');
  await node.remove(seed, false);
  const { uid } = await node.park('web');
  await using up = await Up.start(yaml('web'));
  await (await up.invoke('web')).text();
  const isParked = () =>
    up.slots(
      'web',
      'a parked slot',
      (slots, pool) => pool.phase === 'ready' && slots.length === 2 && slots.every(({ state }) => state === 'parked'),
      60_000,
    );
  await isParked();

  const alone: number[] = [];
  const invoked: number[] = [];
  const started: number[] = [];
  let cold = 0;
  for (let round = 0; round < options.rounds; round++) {
    await delay(SETTLE_MS);
    const parked = await node.untilSlot(uid, 'is parked', ({ state }) => state === 'parked');
    const asked = performance.now();
    await node.restore(parked);
    await ask(parked);
    alone.push(performance.now() - asked);
    await node.remove(parked);

    await isParked();
    await delay(SETTLE_MS);
    const began = performance.now();
    const answer = await up.invoke('web');
    await answer.text();
    if (answer.headers.get('rekindle-start') === 'restore') invoked.push(performance.now() - began);
    else cold += 1;
    const slots = await up.slots('web', 'the instance', (all) => all.some(({ start }) => start !== undefined));
    started.push(...slots.flatMap(({ start }) => (start?.how === 'restore' && start.ms !== undefined ? [start.ms] : [])));
  }
  report.header('one request, and nothing runs');
  const [engineAlone, request] = [summarize(alone), summarize(invoked)];
  report.times('the engine alone: from the job to an answer', engineAlone);
  report.times('through the gateway: from the request to its answer', request);
  report.times('  of that the agent, from the job until ready', summarize(started));
  report.figure('invoke beyond the engine alone, p50', request.p50 - engineAlone.p50, 10, 'lower', 'ms');
  report.figure('requests that met a cold start', cold, 0, 'lower', 'requests');
}

{
  await using redis = await startRedis();
  const waits: number[] = [];
  const queues = new JobQueues({ redis: redis.connect(), log: silentLog });
  const deps = { node: 'n', redis: redis.connect(), log: silentLog, clock: monotonicClock };
  let done = Promise.withResolvers<void>();
  const worker = JobWorker.start({
    ...deps,
    process: async () => {
      waits.push(performance.now() - began);
      done.resolve();
    },
  });
  let began = 0;
  for (let i = 0; i < JOBS; i++) {
    done = Promise.withResolvers();
    await delay(5);
    began = performance.now();
    const data = { slot: `slot-${i}`, parks: 0, workload: 'web', why: 'waiting' } as const;
    // Only at first: until it is connected.
    while (!(await queues.add('n', { name: 'restore', data }))) {
      await delay(5);
      began = performance.now();
    }
    await done.promise;
  }
  await worker.close(1_000);
  await queues[Symbol.asyncDispose]();
  report.header('queue');
  const waited = summarize(waits);
  report.times('from asking for a job until it begins', waited);
  report.figure('queue wait, p50', waited.p50, 5, 'lower', 'ms');
}
process.exitCode = report.end(await machineFacts());
