import { mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { WorkloadSpec } from '../../src/workloads/workload.ts';
import { TestEngine } from '../fixtures/engine.ts';
import { leftovers } from '../fixtures/leftovers.ts';
import { aConfig, aService, ask, TestNode } from '../fixtures/node.ts';
import { until } from '../fixtures/until.ts';

const NODE = `${import.meta.dirname}/../../.build/node`;

/** Files here make its instances sick (never ready) or die at their next readiness check. */
let shared: string;
let counter: WorkloadSpec;

beforeAll(async () => {
  shared = await mkdtemp(join(tmpdir(), 'rekindle-pool-'));
  counter = aCounter();
});
afterAll(() => rm(shared, { recursive: true, force: true }));

/** Counts requests in memory and in files of its root and of a private volume. */
function aCounter(said = 'hello'): WorkloadSpec {
  return TestEngine.workload(`
workloads:
  counter:
    container:
      rootfs: host
      env: { SAID: ${said} }
      command:
        - ${NODE}
        - -e
        - |
          const fs = require('node:fs'); let n = 0;
          process.once('SIGTERM', () => process.exit(0));
          require('node:http').createServer((q, r) => {
            if (q.url === '/health') {
              if (fs.existsSync('/shared/die')) { console.log('I must die'); process.exit(4); }
              return fs.existsSync('/shared/sick') ? r.writeHead(503).end() : r.end('well');
            }
            if (q.url === '/said') return r.end(process.env.SAID);
            if (q.url === '/exit') { r.end('bye'); console.log('asked to end'); setTimeout(() => process.exit(3), 20); return; }
            fs.appendFileSync('/data/log', 'x'); fs.appendFileSync('/var/tmp/log', 'x');
            r.end([++n, fs.readFileSync('/data/log').length, fs.readFileSync('/var/tmp/log').length].join(' '));
          }).listen(8080);
      ports: [8080]
      volumes: [{ at: /data, private: memory }, { at: /shared, from: ${shared} }]
      readiness: { http: { path: /health, port: 8080 } }
      warmup: { request: { path: /, port: 8080 }, count: 5 }
    restore: { deadlineSeconds: 2 }
`);
}

describe('a slot of a pool', () => {
  test('is parked, restored into, and parked again with fresh files, as often as jobs say; nothing is left of it', async () => {
    await using node = await TestNode.open(aService(counter));
    const { digest, seed } = await node.warm('counter');
    const slot = await node.park('counter');

    const answers: string[] = [];
    for (let life = 0; life < 20; life++) {
      const parked = await node.untilSlot(slot.uid, 'is parked', ({ state }) => state === 'parked');
      expect(parked).toMatchObject({ parks: life, ready: false, snapshot: digest, address: slot.address });
      await node.restore(parked, digest);
      const live = node.slot(slot.uid);
      expect(live).toMatchObject({ state: 'live', ready: true, parks: life, snapshot: digest, start: { how: 'restore' } });
      answers.push(await ask(slot));
      await node.remove(parked);
    }

    expect(new Set(answers)).toEqual(new Set(['6 6 6']));
    expect(seed).toMatchObject({ ready: true, seed: false, start: { how: 'cold' } });
    await expect.poll(() => leftovers(node.config, node.engine.host), { timeout: 5_000 }).toEqual([]);
    await node.remove({ uid: slot.uid, parks: 20 }, false);
    expect(node.slot(slot.uid)).toBeUndefined();
    expect(await node.engine.host.find(slot.uid)).toBeUndefined();
  });

  test('of a seed that was not heard in time is no reason to try none for a minute: only for seconds', async () => {
    await using node = await TestNode.open(aService(counter));
    const { agentSocket } = node.engine.host;
    const phase = () => node.truth.phases[0];
    await rename(agentSocket, `${agentSocket}.away`);
    await expect(node.warm('counter')).rejects.toThrow('said nothing within');
    expect(phase()).toMatchObject({ at: 'refused', reason: expect.stringContaining('said nothing within') });
    await rename(`${agentSocket}.away`, agentSocket);

    await until('another may be made', () => phase()?.at === 'none', 8_000);
    await node.warm('counter');

    expect(phase()).toMatchObject({ at: 'ready' });
  });

  test('does a job once, however often it comes, and none that was meant for an earlier life', async () => {
    await using node = await TestNode.open(aService(counter));
    await node.warm('counter');
    const slot = await node.park('counter');
    await Promise.all([node.do({ name: 'park', data: { slot: slot.uid, workload: 'counter' } }), node.warm('counter')]);

    await Promise.all([node.restore(slot), node.restore(slot)]);
    await node.restore(slot);
    const first = await ask(slot);
    await Promise.all([node.remove(slot), node.remove(slot)]);
    await node.restore(slot);
    const parked = node.slot(slot.uid);
    await node.restore({ ...slot, parks: 1 });
    await node.do({ name: 'suspend', data: { slot: slot.uid, parks: 0 } });
    await node.remove(slot, false);

    expect(first).toBe('6 6 6');
    expect(parked).toMatchObject({ state: 'parked', parks: 1 });
    expect(node.slot(slot.uid)).toMatchObject({ state: 'live', parks: 1 });
    expect(node.truth.slots).toHaveLength(2);
    await node.remove({ uid: 'nobody', parks: 0 });
  });

  test('that is woken when there is no snapshot starts cold, serves, and becomes the snapshot', async () => {
    await using node = await TestNode.open(aService(counter));
    const slot = await node.park('counter');
    expect(node.truth.phases).toMatchObject([{ workload: 'counter', at: 'none' }]);

    await node.restore(slot);

    const cold = node.slot(slot.uid);
    expect(cold).toMatchObject({ state: 'cold', ready: true, start: { how: 'cold', reason: 'the first of its kind' } });
    expect(await ask(slot)).toBe('6 6 6');
    await node.untilSlot(slot.uid, 'is no seed any more', ({ seed }) => !seed);
    expect(node.truth.phases).toMatchObject([{ workload: 'counter', at: 'ready' }]);
    const other = await node.park('counter');
    await node.restore(other);
    expect(node.slot(other.uid)).toMatchObject({ state: 'live', start: { how: 'restore' } });
    // Its own request came after the checkpoint.
    expect(await ask(other)).toBe('6 6 6');
  });

  test('whose application ends is shown as failed, in words, and parked again; the third time it stays so', async () => {
    await using node = await TestNode.open(aService(counter));
    await node.warm('counter');
    const slot = await node.park('counter');

    for (let life = 0; life < 3; life++) {
      const parked = await node.untilSlot(slot.uid, 'is parked', ({ state, parks }) => state === 'parked' && parks === life);
      await node.restore(parked);
      await ask(slot, '/exit');
      const failed = await node.untilSlot(slot.uid, 'has failed', ({ state }) => state === 'failed');
      expect(failed.error).toMatch(/ended with status 3; its last lines:\n.*asked to end/s);
    }

    await node.remove({ uid: slot.uid, parks: 2 }, false);
    expect(node.slot(slot.uid)).toBeUndefined();
    await expect.poll(() => leftovers(node.config, node.engine.host), { timeout: 5_000 }).toEqual([]);
  });

  test.each([
    ['never gets ready', 'sick', /not ready/],
    ['ends at once', 'die', /ended with status 4 as soon as it was restored/],
  ])('whose application %s after the restore starts cold, with the reason', async (_, file, reason) => {
    await using node = await TestNode.open(aService(counter));
    const { digest } = await node.warm('counter');
    const slot = await node.park('counter');
    await writeFile(join(shared, file), '');

    const restored = node.restore(slot, digest);
    const cold = await node.untilSlot(slot.uid, 'is cold', ({ state }) => state === 'cold').finally(() => rm(join(shared, file)));
    // The one that ends does so cold too, if it was asked before the file was gone.
    const outcome = await restored.then(
      () => 'ready',
      () => 'failed',
    );

    expect(cold).toMatchObject({ ready: false, seed: false, start: { how: 'cold' } });
    expect(cold.start?.reason).toMatch(reason);
    if (outcome === 'ready') expect(await ask(slot, '/said')).toBe('hello');
    else expect(node.slot(slot.uid)).toMatchObject({ state: 'failed' });
    await node.remove(slot, false);
    await expect.poll(() => leftovers(node.config, node.engine.host), { timeout: 5_000 }).toEqual([]);
  });

  test('that is suspended is resumed with its memory and its files, by a new agent too', async () => {
    const place = await aConfig();
    const service = aService(counter);
    let suspended: string | undefined;
    let uid = '';
    {
      await using before = await TestNode.open(service, { place, keep: true });
      await before.warm('counter');
      const slot = await before.park('counter');
      uid = slot.uid;
      await before.restore(slot);
      expect(await ask(slot)).toBe('6 6 6');
      expect(await ask(slot)).toBe('7 7 7');
      await before.do({ name: 'suspend', data: { slot: uid, parks: 0 } });
      suspended = before.slot(uid)?.suspended;
      expect(before.slot(uid)).toMatchObject({ state: 'suspended', parks: 1, ready: false });
      await expect(ask(slot, '/', 8080, 100)).rejects.toThrow();
      expect(before.truth.snapshots.map(({ digest }) => digest)).not.toContain(suspended);
    }

    await using node = await TestNode.open(service, { place });
    const slot = await node.untilSlot(uid, 'is suspended', ({ state }) => state === 'suspended');
    expect(slot.suspended).toBe(suspended);
    await node.restore(slot, suspended);

    expect(node.slot(uid)).toMatchObject({ state: 'live', ready: true });
    expect(await ask(slot)).toBe('8 8 8');
    // Again: what was resumed can be suspended.
    await node.do({ name: 'suspend', data: { slot: uid, parks: slot.parks } });
    const again = await node.untilSlot(uid, 'is suspended again', ({ state }) => state === 'suspended');
    expect(again.suspended).not.toBe(suspended);
    await node.restore(again, again.suspended);
    expect(await ask(slot)).toBe('9 9 9');
    expect((await node.engine.store.list()).map(({ manifest }) => manifest.workload)).toEqual(['counter']);
    await expect.poll(() => leftovers(node.config, node.engine.host), { timeout: 5_000 }).toEqual([]);
  });

  test('of an old description goes: a parked one at once, an instance when nobody uses it', async () => {
    const service = aService(counter);
    await using node = await TestNode.open(service);
    await node.warm('counter');
    const [parked, live] = [await node.park('counter'), await node.park('counter')];
    await node.restore(live);
    const used = [{ uid: live.uid, parks: 0, inFlight: 1, idleMs: 0 }];
    service.view.gateways.set('g', { said: { id: 'g', url: '', demand: [], instances: used }, heardAtMs: 0 });

    service.view.describe(aCounter('goodbye'));
    node.engine.agent.pool.compare();

    expect(node.slot(live.uid)).toMatchObject({ state: 'live', outdated: true });
    await node.untilGone(parked.uid);
    await node.restore(parked);
    expect(await ask(live, '/said')).toBe('hello');
    expect(node.truth.phases).toMatchObject([{ workload: 'counter', at: 'none' }]);
    used.pop();
    await node.untilGone(live.uid);
    await node.warm('counter');
    const fresh = await node.park('counter');
    await node.restore(fresh);
    expect(await ask(fresh, '/said')).toBe('goodbye');
    expect(node.slot(fresh.uid)).toMatchObject({ state: 'live' });
  });

  test('stays what it is when the agent ends and another begins', async () => {
    const place = await aConfig();
    const service = aService(counter);
    let before: Record<string, string> = {};
    const states = (node: TestNode) => Object.fromEntries(node.truth.slots.map(({ uid, state, ready }) => [uid, `${state} ${ready}`]));
    let live: { uid: string; address?: string } = { uid: '' };
    {
      await using first = await TestNode.open(service, { place, keep: true });
      const { digest } = await first.warm('counter');
      await first.park('counter');
      const slot = await first.park('counter');
      await first.restore(slot, digest);
      live = slot;
      expect(await ask(slot)).toBe('6 6 6');
      before = states(first);
    }
    expect(await ask(live)).toBe('7 7 7');

    await using node = await TestNode.open(service, { place });

    // At once, but for what is parked: that has yet to say hello.
    expect(node.slot(live.uid)).toMatchObject({ state: 'live', ready: true, start: { how: 'restore' } });
    expect(node.truth.phases).toMatchObject([{ workload: 'counter', at: 'ready' }]);
    await expect.poll(() => states(node), { timeout: 5_000 }).toEqual(before);
    const parked = node.truth.slots.find(({ state }) => state === 'parked');
    if (parked === undefined) throw new Error('nothing is parked');
    await node.restore(parked);
    expect(await ask(parked)).toBe('6 6 6');
    expect(await ask(live)).toBe('8 8 8');
    await node.remove({ uid: live.uid, parks: 0 });
    expect(node.slot(live.uid)).toMatchObject({ state: 'parked', parks: 1 });
  });
});
