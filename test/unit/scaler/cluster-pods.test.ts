import { expect, test } from 'vitest';
import { type Pod, workloadsOf } from '../../../src/scaler/cluster-pods.ts';
import { aPod } from '../../fixtures/pods.ts';

const DAY = 24 * 3600 * 1000;

test("a workload is its pods' owner, in its namespace", () => {
  const pods = [
    aPod({ namespace: 'shop', deployment: 'web' }),
    aPod({ namespace: 'shop', deployment: 'api' }),
    aPod({ namespace: 'other', deployment: 'web' }),
  ];

  expect(workloadsOf(pods).map(({ name }) => name)).toEqual(['other.web', 'shop.api', 'shop.web']);
});

test("the newest pod's description counts, whatever the order", () => {
  const old = aPod({ deployment: 'web', hash: 'aaa', createdAtMs: DAY, idleSeconds: 5 });
  const young = aPod({ deployment: 'web', hash: 'bbb', createdAtMs: 2 * DAY, idleSeconds: 7 });

  for (const pods of [
    [old, young],
    [young, old],
  ]) {
    const [web] = workloadsOf(pods);
    expect(web).toMatchObject({ revision: 'bbb', spec: { pool: { idleSeconds: 7 } } });
  }
});

test('a pod that is being deleted says nothing while another stays', () => {
  const stays = aPod({ deployment: 'web', hash: 'aaa', createdAtMs: DAY });
  const goes = aPod({ deployment: 'web', hash: 'bbb', createdAtMs: 2 * DAY, deletedAtMs: 3 * DAY });

  expect(workloadsOf([stays, goes])[0]?.revision).toBe('aaa');
  expect(workloadsOf([goes])[0]?.revision).toBe('bbb');
});

test('the mode is as the webhook decided, ordinary where a pod asks to park and cannot', () => {
  const modes = workloadsOf([
    aPod({ deployment: 'a' }),
    aPod({ deployment: 'b', mode: 'on-demand' }),
    aPod({ deployment: 'c', mode: 'on-demand', parks: false }),
  ]);

  expect(modes.map(({ mode }) => mode)).toEqual(['restore', 'on-demand', 'restore']);
});

test('a pod without a valid description, and one that the webhook left alone, describe nothing', () => {
  const broken = aPod({ deployment: 'web' });
  const annotations = { ...broken.metadata?.annotations, 'rekindle.dev/workload': '{"container":{"rootfs":"/"}}' };
  const nonsense: Pod = { ...broken, metadata: { ...broken.metadata, annotations } };
  const untouched: Pod = { ...broken, spec: { containers: [{ name: 'app', command: ['/bin/app'] }] } };

  expect(workloadsOf([nonsense, untouched])).toEqual([]);
});
