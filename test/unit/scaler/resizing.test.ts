import { expect, test } from 'vitest';
import { EVENTS, PODS } from '../../../src/cluster/kinds.ts';
import { RekindleError } from '../../../src/lib/errors.ts';
import { silentLog as log } from '../../../src/lib/log.ts';
import type { SlotTruth } from '../../../src/queue/truth.ts';
import { ClusterPods } from '../../../src/scaler/cluster-pods.ts';
import { Resizing } from '../../../src/scaler/resizing.ts';
import { FakeCluster } from '../../fixtures/fake-cluster.ts';
import { aPod, type PodOptions } from '../../fixtures/pods.ts';
import { aNodeTruth, aSlotTruth, aView } from '../../fixtures/truths.ts';

const DECLARED = { cpu: '500m', memory: '256Mi' };
const PARKED = { cpu: '1m', memory: '4Mi' };
const signal = new AbortController().signal;

async function rig(options: PodOptions = {}) {
  const cluster = new FakeCluster();
  const made = await cluster.create(
    PODS,
    aPod({ name: 'web-1', namespace: 'shop', mode: 'on-demand', declared: DECLARED, requests: DECLARED, ...options }),
    signal,
  );
  const uid = made.metadata?.uid ?? '';
  const pods = new ClusterPods({ cluster, log }, signal);
  await pods.synced;
  const clock = { nowMs: 0, now: () => clock.nowMs, sleep: async () => undefined };
  const view = { view: aView({}), connected: true };
  const leader = { leads: true };
  const resizing = new Resizing({ cluster, pods, view, leader, log, clock }, signal);
  await new Promise((resolve) => setImmediate(resolve));
  /** The slot is in this state, and the scaler looks. */
  const look = async (state: SlotTruth['state'], parks = 0) => {
    view.view = aView({ nodes: [aNodeTruth({ name: 'node1', slots: [aSlotTruth({ uid, workload: 'shop.web', state, parks })] })] });
    await resizing.reconcile(signal);
    return requests();
  };
  const requests = async () =>
    (await cluster.get(PODS, { name: 'web-1', namespace: 'shop' }, signal))?.spec?.containers[0]?.resources?.requests;
  const kubelet = (reason: string | undefined) => {
    const conditions = reason === undefined ? [] : [{ type: 'PodResizePending', status: 'True', reason }];
    return cluster.patch(PODS, { name: 'web-1', namespace: 'shop', subresource: 'status' }, { status: { conditions } }, 'merge', signal);
  };
  return { cluster, resizing, look, kubelet, clock, leader, requests };
}

const resizes = ({ deeds }: FakeCluster) => deeds.filter((deed) => deed.startsWith('patch resize'));

test('a pod is made small when it parks, and has its own requests from the moment its slot is woken', async () => {
  const { look, cluster } = await rig();

  expect(await look('making')).toEqual(DECLARED);
  expect(await look('parked')).toEqual(PARKED);
  expect(await look('restoring')).toEqual(DECLARED);
  expect(await look('live')).toEqual(DECLARED);
  expect(await look('ending')).toEqual(DECLARED);
  expect(await look('parked', 1)).toEqual(PARKED);
  expect(resizes(cluster)).toHaveLength(3);
});

test('where the node cannot ever hold it, the pod goes on with what it had, until it is woken again, and the node counts as full for a while', async () => {
  const { look, kubelet, resizing, clock } = await rig();
  await look('parked');
  await look('restoring');

  await kubelet('Infeasible');
  expect(await look('live')).toEqual(PARKED);
  expect([...resizing.full]).toEqual(['node1']);

  await kubelet(undefined);
  clock.nowMs = 10_000;
  expect([...resizing.full]).toEqual([]);
  expect(await look('live')).toEqual(PARKED);
  await look('parked', 1);
  expect(await look('restoring', 1)).toEqual(DECLARED);
});

test('a deferred change is waited for a little', async () => {
  const { look, kubelet, resizing, clock } = await rig();
  await look('parked');
  await look('restoring');
  await kubelet('Deferred');

  expect(await look('live')).toEqual(DECLARED);
  clock.nowMs = 1_999;
  expect(await look('live')).toEqual(DECLARED);
  clock.nowMs = 2_000;
  expect(await look('live')).toEqual(PARKED);
  expect(resizing.full.size).toBe(1);
});

test('where it is forbidden, by a quota say, the pod goes on with what it had and the node counts as full', async () => {
  const { look, cluster, resizing } = await rig();
  await look('parked');
  const patch = cluster.patch.bind(cluster);
  cluster.patch = async () => {
    throw new RekindleError('cluster_unavailable', 'exceeded quota');
  };

  expect(await look('restoring')).toEqual(PARKED);
  expect(resizing.full.size).toBe(1);
  cluster.patch = patch;
  expect(await look('live')).toEqual(PARKED);
  expect(resizes(cluster)).toHaveLength(1);
});

test('what the API server did not answer is asked for again at the next look', async () => {
  const { look, cluster } = await rig();
  const patch = cluster.patch.bind(cluster);
  cluster.patch = async () => {
    throw new RekindleError('cluster_unavailable', 'away', { retryable: true });
  };
  expect(await look('parked')).toEqual(DECLARED);

  cluster.patch = patch;
  expect(await look('parked')).toEqual(PARKED);
});

test('a pod that cannot be made smaller stays as it is, with one warning', async () => {
  const { look, cluster } = await rig({ limits: DECLARED, qosClass: 'Guaranteed' });

  expect(await look('parked')).toEqual(DECLARED);
  await look('live');
  await look('parked');

  const events = await cluster.list(EVENTS, {}, signal);
  expect(events).toHaveLength(1);
  expect(events[0]).toMatchObject({ type: 'Warning', reason: 'NotMadeSmaller', message: expect.stringContaining('Guaranteed') });
});

test('only the leader does so, only for on-demand pods, and only where Kubernetes can', async () => {
  const follower = await rig();
  follower.leader.leads = false;
  const ordinary = await rig({ mode: 'restore' });
  const old = await rig();
  old.cluster.minor = 32;

  for (const { look } of [follower, ordinary, old]) expect(await look('parked')).toEqual(DECLARED);
});
