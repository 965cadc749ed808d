import { randomUUID } from 'node:crypto';
import { expect, test } from 'vitest';
import type { CriContainer, CriContainerStatus } from '../../../src/cluster/cri.ts';
import { ClusterHost, type ComingPod, type TrialMaker } from '../../../src/cluster/host.ts';
import { PODS, type PodSpec } from '../../../src/cluster/kinds.ts';
import { isAlive, taskOf } from '../../../src/cluster/task.ts';
import { monotonicClock as clock } from '../../../src/lib/clock.ts';
import { RekindleError } from '../../../src/lib/errors.ts';
import { silentLog } from '../../../src/lib/log.ts';
import { ENABLED_LABEL, GATE, MODE_VARIABLE, WORKLOAD_ANNOTATION } from '../../../src/workloads/kubernetes.ts';
import { FakeCluster } from '../../fixtures/fake-cluster.ts';
import { until } from '../../fixtures/until.ts';

const signal = new AbortController().signal;
const noTrials: TrialMaker = {
  create: () => Promise.reject(new Error('no trials here')),
  find: () => undefined,
  list: () => [],
  exec: () => Promise.reject(new Error('no trials here')),
  remove: async () => undefined,
};

async function rig() {
  const cluster = new FakeCluster();
  const asked: string[] = [];
  const undescribed: string[] = [];
  const coming: ComingPod[] = [];
  const broken = new Map<string, RekindleError>();
  const hidden = new Set<string>();
  const running = (podUid: string): CriContainer => ({
    ...{ id: `c-${podUid}`, podUid, podName: '', namespace: 'shop', name: 'app', state: 'running', restarts: 0, createdAtMs: 0 },
    ...{ image: '', imageId: `sha256:${'a'.repeat(64)}`, labels: {} },
  });
  const cri = {
    containersOf: async (uid: string) => {
      asked.push(uid);
      const error = broken.get(uid);
      if (error !== undefined) throw error;
      return [running(uid)];
    },
    container: async (id: string): Promise<CriContainerStatus> => ({
      ...running(id.slice(2)),
      ...{ exitCode: 0, logFile: '', pid: process.pid, sandboxId: undefined, runtimeSpec: undefined },
    }),
    execSync: () => Promise.reject(new Error('not asked')),
  };
  const host = new ClusterHost(
    {
      ...{ cluster, cri, trials: noTrials, clock, log: silentLog, node: 'n1', nodeRoot: '/', poolDir: `/tmp/rekindle-${randomUUID()}` },
      volumesOf: () => [],
      whyFilled: () => undefined,
      remotePlaces: () => [],
      addressesOf: () => ['10.0.0.1'],
      groups: { init: (uid) => (hidden.has(uid) ? undefined : process.pid), processesOf: () => [] },
      expects: (pod) => {
        coming.push(pod);
        return pod.workload.name === 'shop.known';
      },
      undescribed: ({ name, workload }, reason) => undescribed.push(`${name} of ${workload}: ${reason}`),
    },
    signal,
  );
  const aPod = async (name: string, phase = 'Running', workload = '{"container":{}}', more: Partial<PodSpec> = {}) => {
    const annotations = workload === 'none' ? {} : { [WORKLOAD_ANNOTATION]: workload };
    const metadata = { name, namespace: 'shop', labels: { [ENABLED_LABEL]: 'true' }, annotations };
    const spec = { nodeName: 'n1', containers: [{ name: 'app', command: ['/rekindle/slot', 'app'] }], ...more };
    const made = await cluster.create(PODS, { metadata, spec }, signal);
    await cluster.patch(PODS, { name, namespace: 'shop', subresource: 'status' }, { status: { phase } }, 'merge', signal);
    return made.metadata?.uid ?? '';
  };
  await host.synced;
  return { host, aPod, asked, undescribed, coming, broken, hidden };
}

test('a pod whose container its runtime cannot tell of hides no other', async () => {
  const { host, aPod, broken } = await rig();
  const [bad] = [await aPod('bad'), await aPod('good')];
  broken.set(bad, new RekindleError('container_failed', 'the container runtime refuses ListContainers: broken'));

  expect((await host.list()).map(({ name }) => name)).toEqual(['good']);
});

test('a runtime that is away is no node without containers', async () => {
  const { host, aPod, broken } = await rig();
  broken.set(await aPod('web'), new RekindleError('machine_unsupported', 'no container runtime answers'));

  await expect(host.list()).rejects.toMatchObject({ code: 'machine_unsupported' });
});

test('the process of a container that has no group to be found in is what the runtime says', async () => {
  const { host, aPod, hidden } = await rig();
  const uid = await aPod('web');
  hidden.add(uid);

  expect((await host.find(uid))?.pid).toBe(process.pid);
});

test('of a container that was told of when it was made nothing is asked once it runs, unless it is not there any more', async () => {
  const { host, aPod, asked, hidden } = await rig();
  const [uid, gone] = [await aPod('web'), await aPod('web-2')];
  host.onMade(uid);
  host.onMade(gone);
  host.onMade('of somebody else');
  await until('both are known', () => asked.length === 2);
  hidden.add(gone);

  expect((await host.find(uid))?.pid).toBe(process.pid);
  expect(asked).toEqual([uid, gone]);
  expect((await host.find(gone))?.pid).toBe(process.pid);
  expect(asked).toEqual([uid, gone, gone]);
});

test('the runtime is not asked about pods that have ended', async () => {
  const { host, aPod, asked } = await rig();
  await aPod('done', 'Succeeded');
  await aPod('failed', 'Failed');

  expect([await host.list(), asked]).toEqual([[], []]);
});

test('a pod whose description nobody wrote for it has no container to restore into', async () => {
  const { host, aPod } = await rig();

  const found = await Promise.all(
    ['{', '{"container":{},"name":"other.web"}', `"${'x'.repeat(70_000)}"`].map((text, i) => aPod(`p${i}`, 'Running', text)),
  );

  expect(await Promise.all(found.map((uid) => host.find(uid)))).toEqual([undefined, undefined, undefined]);
});

test('of a pod that comes it is asked once whether it will be restored, where its own probe can tell when it is ready', async () => {
  const { host, aPod, coming } = await rig();
  const readinessGates = [{ conditionType: GATE }];
  const app = { name: 'app', command: ['/rekindle/slot', 'app'], readinessProbe: { tcpSocket: { port: 80 } } };
  const parking = { ...app, env: [{ name: MODE_VARIABLE, value: 'on-demand' }] };
  const uid = await aPod('known', 'Pending', '{"container":{}}', { readinessGates, containers: [app] });
  const strange = await aPod('strange', 'Pending', '{"container":{}}', { readinessGates, containers: [app] });
  await aPod('free', 'Pending', '{"container":{}}', { containers: [app] });
  await aPod('unprobed', 'Pending', '{"container":{}}', { readinessGates });
  await aPod('parking', 'Pending', '{"container":{}}', { readinessGates, containers: [parking] });
  await aPod('garbled', 'Pending', '{', { readinessGates, containers: [app] });

  expect(coming.map(({ name }) => name)).toEqual(['known', 'strange']);
  // Its gate is being opened, whatever the API server has told by now.
  expect((await host.find(uid))?.pod?.held).toBe(false);
  expect((await host.find(strange))?.pod?.held).toBe(true);
});

test('a pod that our gate holds and nobody can decide about is told of once, with what is wrong', async () => {
  const { host, aPod, undescribed, asked } = await rig();
  const held = { readinessGates: [{ conditionType: GATE }] };
  await aPod('garbled', 'Running', '{', held);
  await aPod('greedy', 'Running', '{"container":{"warmup":{"request":{"port":80},"count":1000000000}}}', held);
  await aPod('bare', 'Running', 'none', held);
  await aPod('handmade', 'Pending', '[]', { ...held, containers: [{ name: 'app', command: ['app'] }] });
  await aPod('free', 'Running', '{');
  await aPod('left', 'Running', 'none', { containers: [{ name: 'app', command: ['app'] }] });

  await host.list();
  await host.list();

  expect(undescribed).toEqual([
    expect.stringMatching(/^garbled of shop\.garbled: its annotation rekindle\.dev\/workload is not valid: .* is not JSON/),
    expect.stringMatching(/^greedy of shop\.greedy: .* container\.warmup\.count, which is 1000000000, but must be/),
    'bare of shop.bare: it has no annotation rekindle.dev/workload',
    expect.stringMatching(/^handmade of shop\.handmade: .* is a list/),
  ]);
  expect(asked).toEqual([]);
});

test('a process that has the number of another is not that one', () => {
  const own = taskOf(process.pid);

  expect(own && isAlive(own)).toBe(true);
  expect(own && isAlive({ ...own, startTick: own.startTick - 1 })).toBe(false);
});
