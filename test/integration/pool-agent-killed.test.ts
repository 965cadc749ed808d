import { hash } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { openMachine } from '../../src/commands/engine.ts';
import { silentLog } from '../../src/lib/log.ts';
import type { WorkloadTruth } from '../../src/queue/truth.ts';
import { TestEngine } from '../fixtures/engine.ts';
import { applications, leftovers } from '../fixtures/leftovers.ts';
import { ask } from '../fixtures/node.ts';
import { NodeProcess } from '../fixtures/node-process.ts';
import { startRedis } from '../fixtures/redis.ts';
import { until } from '../fixtures/until.ts';

const NODE = `${import.meta.dirname}/../../.build/node`;

const { name, ...spec } = TestEngine.workload(`
workloads:
  counter:
    container:
      rootfs: host
      command: [${NODE}, -e, 'let n = 0; const all = Buffer.alloc(3e7, 1); require("node:http").createServer((q, r) => r.end(String(++n + all[0]))).listen(8080)']
      ports: [8080]
      readiness: { tcp: { port: 8080 } }
      warmup: { request: { path: /, port: 8080 }, count: 5 }
`);
const counter: WorkloadTruth = { name, revision: hash('sha256', JSON.stringify(spec), 'hex').slice(0, 16), spec };

test('an agent that is killed with a slot parked and another live leaves them as they are, and the next one goes on with both', async () => {
  await using redis = await startRedis();
  await using node = await NodeProcess.open(redis, [counter]);
  const digest = await node.warm('counter');
  const [parked, live] = [await node.park('counter'), await node.park('counter')];
  await node.restore(live, digest);
  await node.untilSlot(live.uid, 'is live', ({ ready }) => ready);
  expect(await ask(live)).toBe('7');

  await node.kill();
  expect(await ask(live)).toBe('8');
  await node.startAgent();

  expect(node.slot(live.uid)).toMatchObject({ state: 'live', ready: true, snapshot: digest, start: { how: 'restore' } });
  await node.untilSlot(parked.uid, 'is parked', ({ state }) => state === 'parked');
  await node.restore(parked, digest);
  await node.untilSlot(parked.uid, 'is live', ({ ready }) => ready);
  expect(await ask(parked)).toBe('7');
  expect(await ask(live)).toBe('9');
  await node.add({ name: 'remove', data: { slot: live.uid, parks: 0, park: true, why: 'idle' } });
  await node.untilSlot(live.uid, 'is parked again', ({ state, parks }) => state === 'parked' && parks === 1);
});

test('an agent that is killed while it restores: the instance serves, once, restored or cold', async () => {
  await using redis = await startRedis();
  await using node = await NodeProcess.open(redis, [counter]);
  const digest = await node.warm('counter');
  const { host } = await openMachine(node.config, silentLog);
  const work = join(node.config.runDir, 'work');

  const ends: string[] = [];
  for (const waitMs of [0, 5, 15, 30]) {
    const slot = await node.park('counter');
    await node.restore(slot, digest);
    await until('the restore has begun', () => readdirSync(work).some((entry) => entry.startsWith(slot.uid)) || node.slot(slot.uid)?.ready);
    await new Promise((resolve) => setTimeout(resolve, waitMs));
    await node.kill();
    await node.startAgent();
    // A slot that was left parked is woken by the next plan.
    const settled = await node.untilSlot(slot.uid, 'is ready or parked', ({ state, ready }) => ready || state === 'parked');
    if (settled.state === 'parked') await node.restore(settled, digest);
    const ready = await node.untilSlot(slot.uid, 'is ready', (one) => one.ready);
    ends.push(ready.state);
    expect(['7', '2']).toContain(await ask(ready));
    const container = await host.find(slot.uid);
    if (container === undefined) throw new Error('the container has ended');
    expect(applications(container).pids).toHaveLength(1);
    expect(ready.state === 'live').toBe(applications(container).restored);
  }

  expect(ends.length).toBe(4);
  await expect.poll(() => leftovers(node.config, host), { timeout: 5_000 }).toEqual([]);
});

test('an agent that is told to end finishes the restore that runs, says that it is leaving, and leaves what is live serving', async () => {
  await using redis = await startRedis();
  await using node = await NodeProcess.open(redis, [counter]);
  const digest = await node.warm('counter');
  const [one, other] = [await node.park('counter'), await node.park('counter')];
  await node.restore(one, digest);
  await node.untilSlot(one.uid, 'is live', ({ ready }) => ready);
  await node.restore(other, digest);
  await node.untilSlot(other.uid, 'is restored', ({ state }) => state !== 'parked');

  await node.kill('SIGTERM');

  const said = await until('it says that it leaves', () => (node.truth?.leaving ? node.truth : undefined));
  expect(said.slots.filter(({ state }) => state === 'live').map(({ uid }) => uid)).toEqual(expect.arrayContaining([one.uid, other.uid]));
  expect(await ask(one)).toBe('7');
  expect(await ask(other)).toBe('7');
});

test('Redis that forgets everything is told everything again, the secret too', async () => {
  await using redis = await startRedis();
  await using node = await NodeProcess.open(redis, [counter]);
  const digest = await node.warm('counter');
  const slot = await node.park('counter');
  const secret = await redis.command('GET', '{rekindle}:secret');

  await redis.flush();

  await expect.poll(() => redis.command('GET', '{rekindle}:secret'), { timeout: 5_000 }).toBe(secret);
  await node.restore(slot, digest);
  await node.untilSlot(slot.uid, 'is live', ({ state }) => state === 'live');
  expect(await ask(slot)).toBe('7');
});
