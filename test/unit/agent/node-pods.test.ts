import { spawn } from 'node:child_process';
import { expect, test } from 'vitest';
import { NodePods } from '../../../src/agent/node-pods.ts';
import { monotonicClock as clock } from '../../../src/lib/clock.ts';
import type { Container } from '../../../src/workloads/host.ts';
import { aWorkloadTruth } from '../../fixtures/truths.ts';

function aContainer(uid: string, pid: number): Container {
  const { name, spec } = aWorkloadTruth();
  const workload = { name: `shop.${name}`, ...spec };
  return { uid, name: `web-${uid}`, workload, pid, restarts: 0, addresses: ['10.0.0.1'], imageDigest: '', volumes: [], createdAtMs: 0 };
}

test('a pod that started before its agent did, or without it, is told once as one that started cold; a slot waits', async () => {
  const slot = spawn('/bin/sleep', ['60'], { argv0: '/rekindle/slot' });
  try {
    const told: string[] = [];
    const unseen = ({ uid }: Container) => told.push(uid);
    const list = async () => [aContainer('old', process.pid), aContainer('new', slot.pid ?? 0)];
    const pods = new NodePods({ host: { list }, clock, gateways: () => new Set(), unseen, changed: () => undefined });

    await pods.reconcile();
    const first = pods.truth().map(({ state }) => state);
    await pods.reconcile();
    const second = pods.truth();
    await pods.reconcile();

    expect(first).toEqual(['waiting', 'waiting']);
    expect(second).toMatchObject([
      { uid: 'old', state: 'cold', ready: true, start: { how: 'cold', reason: 'no agent saw how it started' } },
      { uid: 'new', state: 'waiting' },
    ]);
    expect(told).toEqual(['old']);
  } finally {
    slot.kill('SIGKILL');
  }
});

test('what became of a pod is known although the pod itself is found only at the next look', async () => {
  const slot = spawn('/bin/sleep', ['60'], { argv0: '/rekindle/slot' });
  try {
    let there: Container[] = [];
    const pods = new NodePods({
      host: { list: async () => there },
      clock,
      gateways: () => new Set(),
      unseen: () => undefined,
      changed: () => undefined,
    });
    const timing = { decidedMs: 5, filesMs: 3, criuMs: 30, restoredMs: 50, readyMs: 60 };

    const looking = pods.reconcile();
    pods.onEvent({
      ...{ type: 'instance', uid: 'new', name: 'web-new', workload: 'shop.web' },
      state: { at: 'live', snapshot: 'a'.repeat(64), timing },
    });
    await looking;
    there = [aContainer('new', slot.pid ?? 0)];
    await pods.reconcile();

    expect(pods.truth()).toMatchObject([{ uid: 'new', state: 'live', ready: true, start: { how: 'restore', ms: 60 } }]);
  } finally {
    slot.kill('SIGKILL');
  }
});

test('nobody is connected to a slot that is parked: it is not looked at', async () => {
  const slot = spawn('/bin/sleep', ['60'], { argv0: '/rekindle/slot' });
  try {
    const pool = { revision: 'r', parks: 0 };
    const list = async () => [
      { ...aContainer('parked', slot.pid ?? 0), pool },
      { ...aContainer('gone', 4_194_304), pool },
    ];
    const pods = new NodePods({ host: { list }, clock, gateways: () => new Set(), unseen: () => undefined, changed: () => undefined });

    await pods.reconcile();

    expect([pods.connections('parked'), pods.connections('gone')]).toEqual([0, undefined]);
    expect(pods.truth()).toEqual([]);
  } finally {
    slot.kill('SIGKILL');
  }
});
