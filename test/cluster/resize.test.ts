import { expect, test } from 'vitest';
import { monotonicClock as clock } from '../../src/lib/clock.ts';
import { silentLog as log } from '../../src/lib/log.ts';
import type { SlotTruth, View } from '../../src/queue/truth.ts';
import { ClusterPods, type Pod } from '../../src/scaler/cluster-pods.ts';
import { Resizing } from '../../src/scaler/resizing.ts';
import { REQUESTS_ANNOTATION } from '../../src/workloads/kubernetes.ts';
import { aNodeTruth, aSlotTruth, aView } from '../fixtures/truths.ts';
import { APPS } from './fixture/cluster.ts';
import { aNamespace } from './fixture/namespace.ts';

const space = aNamespace();
const OWN = { cpu: '20m', memory: '32Mi' };
const SMALL = { cpu: '1m', memory: '4Mi' };

/** A pod that parks, as the webhook leaves it; in place of a slot it has a program that waits. `asks`: for what when it wakes. */
async function aParkedPod(name: string, asks: object, more: object = {}): Promise<string> {
  await space.apply({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, labels: { 'rekindle.dev/enabled': 'true' }, annotations: { [REQUESTS_ANNOTATION]: JSON.stringify(asks) } },
    spec: {
      terminationGracePeriodSeconds: 0,
      volumes: [{ name: 'slot', emptyDir: {} }],
      initContainers: [
        {
          name: 'copy',
          image: APPS,
          command: ['cp', '/bin/sleep', '/rekindle/slot'],
          resources: { requests: OWN, limits: OWN },
          volumeMounts: [{ name: 'slot', mountPath: '/rekindle' }],
        },
      ],
      containers: [
        {
          name: 'app',
          image: APPS,
          command: ['/rekindle/slot', '3600'],
          env: [{ name: 'REKINDLE_MODE', value: 'on-demand' }],
          resources: { requests: OWN, limits: { memory: '64Mi' } },
          volumeMounts: [{ name: 'slot', mountPath: '/rekindle' }],
          ...more,
        },
      ],
    },
  });
  const pod = await space.until('the pod to run', async () => {
    const found = await podNow(name);
    return found.status?.phase === 'Running' && found;
  });
  return pod.metadata?.uid ?? '';
}

async function podNow(name: string): Promise<Pod> {
  return JSON.parse(await space.kubectl('get', 'pod', name, '-o', 'json')) as Pod;
}

/** What the scaler does with the pod while its slot is in this state, by the real API server and kubelet. */
async function aScaler() {
  const stop = new AbortController();
  const pods = new ClusterPods({ cluster: space.kube, log }, stop.signal);
  await pods.synced;
  const view: { view: View; connected: boolean } = { view: aView({}), connected: true };
  const resizing = new Resizing({ cluster: space.kube, pods, view, leader: { leads: true }, log, clock }, stop.signal);
  return {
    resizing,
    /** Looks until the kubelet says that the pod has these requests. */
    become: async (name: string, uid: string, state: SlotTruth['state'], requests: object) => {
      view.view = aView({ nodes: [aNodeTruth({ slots: [aSlotTruth({ uid, workload: `${space.name}.${name}`, state })] })] });
      return space.until(`the pod ${state} to have ${JSON.stringify(requests)}`, async () => {
        await resizing.reconcile(stop.signal);
        const [container] = (await podNow(name)).status?.containerStatuses ?? [];
        const { requests: now } = container?.resources ?? {};
        return now?.cpu === Reflect.get(requests, 'cpu') && now?.memory === Reflect.get(requests, 'memory') && container;
      });
    },
    [Symbol.dispose]: () => stop.abort(),
  };
}

test('a parked pod has next to no requests and its own again when it wakes, in the same container', async () => {
  const uid = await aParkedPod('small', OWN);
  using scaler = await aScaler();

  const parked = await scaler.become('small', uid, 'parked', SMALL);
  const { qosClass } = (await podNow('small')).status ?? {};
  const awake = await scaler.become('small', uid, 'restoring', OWN);

  expect(qosClass).toBe('Burstable');
  expect(parked.resources?.limits).toEqual({ memory: '64Mi' });
  expect(awake.restartCount).toBe(0);
  expect(awake.containerID).toBe(parked.containerID);
  expect(scaler.resizing.full.size).toBe(0);
});

test('a node that has no room for what a pod asks for counts as full, and the pod goes on with what it had', async () => {
  const uid = await aParkedPod('greedy', { cpu: '900', memory: '32Mi' });
  using scaler = await aScaler();
  await scaler.become('greedy', uid, 'parked', SMALL);

  await space.until('the node to count as full', async () => {
    await scaler.become('greedy', uid, 'restoring', SMALL);
    return scaler.resizing.full.size > 0;
  });
  await scaler.become('greedy', uid, 'live', SMALL);
  const pod = await podNow('greedy');

  expect([...scaler.resizing.full]).toEqual([pod.spec?.nodeName]);
  expect(pod.spec?.containers[0]?.resources?.requests).toEqual(SMALL);
  expect(pod.status?.containerStatuses?.[0]?.restartCount).toBe(0);
});

test('what a LimitRange does not allow is not asked for, and a quota that is used up is the same as a full node', async () => {
  const uid = await aParkedPod('limited', { cpu: '300m', memory: '32Mi' });
  await space.apply(
    {
      apiVersion: 'v1',
      kind: 'LimitRange',
      metadata: { name: 'range' },
      spec: { limits: [{ type: 'Container', min: { cpu: '5m', memory: '8Mi' } }] },
    },
    { apiVersion: 'v1', kind: 'ResourceQuota', metadata: { name: 'quota' }, spec: { hard: { 'requests.cpu': '200m' } } },
  );
  using scaler = await aScaler();
  try {
    await space.until(
      'the quota to be counted',
      async () => (await space.kubectl('get', 'quota', 'quota', '-o', 'jsonpath={.status.used}')) !== '',
    );
    await scaler.become('limited', uid, 'parked', { cpu: '5m', memory: '8Mi' });
    await space.until('the node to count as full', async () => {
      await scaler.become('limited', uid, 'restoring', { cpu: '5m', memory: '8Mi' });
      return scaler.resizing.full.size > 0;
    });
  } finally {
    await space.kubectl('delete', 'quota/quota', 'limitrange/range');
  }
});

test('a Guaranteed pod stays as it is, and an event says why', async () => {
  const uid = await aParkedPod('guaranteed', OWN, { resources: { requests: OWN, limits: OWN } });
  using scaler = await aScaler();

  const event = await space.until('the event', async () => {
    await scaler.become('guaranteed', uid, 'parked', OWN);
    return (await space.eventsOf('guaranteed')).find((one) => one.startsWith('NotMadeSmaller:'));
  });

  expect(event).toContain('Guaranteed');
  expect((await podNow('guaranteed')).spec?.containers[0]?.resources).toEqual({ requests: OWN, limits: OWN });
});
