import { existsSync, readdirSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import type { ApiNode } from '../../src/gateway/schemas.ts';
import { until } from '../fixtures/until.ts';
import { nodeService, Up } from '../fixtures/up.ts';

const HELLO = nodeService('web', "response.end(require('node:os').hostname() + ' ' + state.count++);", {
  policy: 'pool: { idleSeconds: 1, max: 4, parked: 1, targetConcurrency: 4 }',
  // The first request is there before the seed, which the scaler starts by itself, is ready.
  start: 'Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2000);',
});
const ready = (state: string) => (slots: readonly { state: string; ready: boolean }[]) =>
  slots.some((slot) => slot.state === state && slot.ready);

describe('rekindle up', () => {
  test('the first request starts an instance cold and makes its snapshot; later ones from zero are restored; nothing is left behind', {
    timeout: 120_000,
  }, async () => {
    await using up = await Up.start(`workloads:${HELLO}`);

    const first = await up.invoke('web');
    const body = await first.text();

    expect(first.status, body).toBe(200);
    expect(first.headers.get('rekindle-start')).toBe('cold');
    await up.slots('web', 'the snapshot', (_slots, pool) => pool.phase === 'ready', 60_000);
    // The seed goes idle, and a parked slot waits.
    await up.slots('web', 'parked slots only', (slots) => slots.length > 0 && slots.every(({ state }) => state === 'parked'), 60_000);

    for (let i = 0; i < 3; i++) {
      const again = await up.invoke('web');
      expect(await again.text()).toMatch(/^web-\w+ 0$/);
      expect(again.headers.get('rekindle-start')).toBe('restore');
      const warm = await up.invoke('web');
      expect(await warm.text()).toMatch(/^web-\w+ 1$/);
      expect(warm.headers.get('rekindle-start')).toBe('warm');
      await up.slots('web', 'parked again', (slots) => slots.length > 0 && slots.every(({ state }) => state === 'parked'));
    }

    const { status, stderr } = await up.end();
    expect(status, stderr).toBe(0);
    expect(existsSync(up.cli.env.REKINDLE_RUN_DIR ?? '')).toBe(false);
    expect(readdirSync(`${up.cli.dir}/state/containers`)).toEqual([]);
  });

  test('a burst is shared by as many instances as the pool may have, and never by more', { timeout: 120_000 }, async () => {
    const slow = nodeService('slow', "setTimeout(() => response.end(require('node:os').hostname()), 100);", {
      policy: 'pool: { idleSeconds: 1, max: 3, parked: 3, maxConcurrency: 2, targetConcurrency: 2 }',
    });
    await using up = await Up.start(`workloads:${slow}`);
    await up.invoke('slow').then((answer) => answer.text());
    await up.slots(
      'slow',
      'the snapshot',
      (slots, pool) => pool.phase === 'ready' && slots.length === 3 && slots.every(({ state }) => state === 'parked'),
      60_000,
    );

    const answers = await Promise.all(Array.from({ length: 40 }, () => up.invoke('slow').then((answer) => answer.text())));

    expect(new Set(answers).size).toBeGreaterThan(1);
    expect(new Set(answers).size).toBeLessThanOrEqual(3);
  });

  test('a workload marked stateful goes on where it was suspended', { timeout: 120_000 }, async () => {
    const counter = nodeService('counter', 'response.end(String(++state.count));', {
      policy: 'pool: { idleSeconds: 1, max: 1, parked: 1, stateful: true }',
    });
    await using up = await Up.start(`workloads:${counter}`);
    const first = Number(await (await up.invoke('counter')).text());
    await up.slots('counter', 'its first suspension', (slots) => slots.length === 1 && slots[0]?.state === 'suspended', 60_000);
    const counts: string[] = [];
    for (let i = 0; i < 3; i++) {
      counts.push(await (await up.invoke('counter')).text());
      counts.push(await (await up.invoke('counter')).text());
      await up.slots('counter', 'its suspension', (slots) => slots.length === 1 && slots[0]?.state === 'suspended');
    }

    expect(counts.map(Number)).toEqual([1, 2, 3, 4, 5, 6].map((n) => first + n));
  });

  test('two nodes share the work: the snapshot made on one is restored on the other', { timeout: 120_000 }, async () => {
    const where = nodeService('web', "setTimeout(() => response.end(require('node:os').hostname()), 200);", {
      policy: 'pool: { idleSeconds: 3, max: 4, parked: 4, maxConcurrency: 1 }',
    });
    await using up = await Up.start(`workloads:${where}`, ['--nodes', '2']);
    await up.invoke('web').then((answer) => answer.text());
    await up.slots(
      'web',
      'the snapshot',
      (slots, pool) => pool.phase === 'ready' && slots.filter(({ state }) => state === 'parked').length >= 3,
      60_000,
    );

    await until('the snapshot on both nodes', async () => {
      const nodes: ApiNode[] = JSON.parse(await (await fetch(`${up.url}/api/nodes`)).text());
      return nodes.every(({ snapshots }) => snapshots > 0);
    });

    await Promise.all(Array.from({ length: 16 }, () => up.invoke('web').then((answer) => answer.text())));
    const slots = await up.slots(
      'web',
      'live ones on both nodes',
      (all) => new Set(all.filter(({ state }) => state === 'live').map(({ node }) => node)).size === 2,
    );

    expect(slots.filter(({ state }) => state === 'live').every(({ start }) => start?.how === 'restore')).toBe(true);
  });

  test('a part that is killed is started again, and live instances go on serving', { timeout: 120_000 }, async () => {
    await using up = await Up.start(`workloads:${HELLO.replace('idleSeconds: 1', 'idleSeconds: 600')}`);
    // The seed alone: a second instance would start for a request that comes before that is ready.
    await up.slots('web', 'an instance', ready('cold'));
    await up.slots('web', 'the snapshot', (_slots, pool) => pool.phase === 'ready', 60_000);
    const before = await (await up.invoke('web')).text();

    for (const role of ['agent', 'scaler', 'gateway', 'redis']) {
      await up.kill(role);
      await up.slots('web', `the instance after the ${role} was killed`, (slots) => slots.some(({ ready: is }) => is), 15_000);
      const answer = await up.invoke('web');
      expect(answer.status, role).toBe(200);
      expect((await answer.text()).split(' ')[0], role).toBe(before.split(' ')[0]);
    }
  });
});
