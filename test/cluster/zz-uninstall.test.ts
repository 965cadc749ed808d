import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import type { V1Pod } from '@kubernetes/client-node';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { DEPLOYMENTS } from '../../src/cluster/kinds.ts';
import { exec, mustExec } from '../../src/lib/exec.ts';
import { START_ANNOTATION, STATE_LABEL } from '../../src/workloads/kubernetes.ts';
import { applyManifests, foreign, installed, kubeconfig, kubectl, overlayForRedis } from './fixture/cluster.ts';
import { aNamespace, isReady } from './fixture/namespace.ts';
import { parkingProperties } from './fixture/parking.ts';
import { aDeployment, PORT, talkProperties, WHO_COMMAND, type Who } from './fixture/workloads.ts';

/** The last file of all: each test takes rekindle away, and it is installed again before the next and at the end. */
const ROOT = join(import.meta.dirname, '..', '..');
const TEST_OVERLAY = join(ROOT, 'manifests', 'overlays', 'test');
const space = aNamespace();
const GATEWAY = '/api/v1/namespaces/rekindle/services/rekindle-gateway:http/proxy';
const OWN = { cpu: '20m', memory: '64Mi' };

const nameOf = (pod: V1Pod) => pod.metadata?.name ?? '';
const startOf = (pod: V1Pod) => pod.metadata?.annotations?.[START_ANNOTATION] ?? '';

const restartsOf = (pods: readonly V1Pod[]) =>
  [...pods].sort((a, b) => (nameOf(a) < nameOf(b) ? -1 : 1)).map((pod) => pod.status?.containerStatuses?.[0]?.restartCount ?? -1);

/** As a Service would, once it has chosen the pod. */
async function ask(pod: V1Pod): Promise<Who> {
  return JSON.parse(await space.kubectl('get', '--raw', `/api/v1/namespaces/${space.name}/pods/${nameOf(pod)}:${PORT}/proxy/`)) as Who;
}

/** Every object of any kind that bears our name, or a finalizer of ours; what the tests and users have themselves is not among them. */
async function leftovers(): Promise<string[]> {
  const kinds = (await kubectl(['api-resources', '--verbs=list', '-o', 'name'])).trim().split('\n');
  const named = kinds.filter((kind) => !/^(events|pods\.metrics|nodes\.metrics|componentstatuses)/.test(kind)).join(',');
  const list = JSON.parse(await kubectl(['get', named, '-A', '-o', 'json', '--ignore-not-found'])) as {
    items: { kind: string; metadata: { name: string; namespace?: string; finalizers?: string[]; labels?: Record<string, string> } }[];
  };
  expect(list.items.length).toBeGreaterThan(20);
  const isOurs = ({ metadata }: (typeof list.items)[number]) =>
    metadata.namespace === 'rekindle' ||
    metadata.name.includes('rekindle') ||
    metadata.labels?.['app.kubernetes.io/part-of'] === 'rekindle' ||
    metadata.finalizers?.some((one) => one.includes('rekindle')) ||
    /external\.metrics/.test(metadata.name);
  return list.items.filter(isOurs).map(({ kind, metadata }) => `${kind} ${metadata.namespace ?? ''}/${metadata.name}`);
}

/** What is in rekindle's directories of each node, and that these are still the node's own: what was mounted there before is not rekindle's to take away. */
async function onNodes(): Promise<string[]> {
  const names = (await mustExec(exec, join(ROOT, 'test/cluster/cluster'), ['nodes'], { env: {}, timeoutMs: 10_000 })).stdout
    .trim()
    .split(/\s+/);
  const found = names.map(async (name) => {
    const look = [
      'node',
      name,
      'sh',
      '-c',
      `find /var/lib/rekindle /run/rekindle -mindepth 1 2>/dev/null; mountpoint -q /var/lib/rekindle || echo the mount of /var/lib/rekindle is gone`,
    ];
    return (await mustExec(exec, join(ROOT, 'test/cluster/cluster'), look, { env: {}, timeoutMs: 10_000 })).stdout;
  });
  expect(names.length).toBeGreaterThan(0);
  return (await Promise.all(found)).flatMap((text) => text.split('\n')).filter((line) => line !== '');
}

async function snapshotIsOnAllNodes(workload: string): Promise<void> {
  const all = (
    await space.kube.list(
      { apiVersion: 'v1', kind: 'Node', path: 'api/v1', plural: 'nodes', namespaced: false },
      {},
      AbortSignal.timeout(5_000),
    )
  ).length;
  await space.until(`the snapshot of ${workload} on every node`, async () => {
    const snapshots = JSON.parse(await kubectl(['get', '--raw', `${GATEWAY}/api/snapshots`])) as { workload: string; nodes: string[] }[];
    return snapshots.some((one) => one.workload === `${space.name}.${workload}` && one.nodes.length === all);
  });
}

/** Two live pods of `who`, at least one of them restored. */
async function livePods(): Promise<readonly V1Pod[]> {
  await space.kubectl('delete', 'deployment', 'who', '--ignore-not-found', '--wait=true');
  await space.apply(talkProperties('who'), aDeployment({ name: 'who', properties: 'who', command: WHO_COMMAND }));
  await space.untilReady('app=who');
  await snapshotIsOnAllNodes('who');
  await space.kubectl('scale', 'deployment/who', '--replicas=2');
  await space.untilReady('app=who', 2);
  return space.until('a restored pod', async () => {
    const pods = await space.podsOf('app=who');
    return pods.some((pod) => startOf(pod).startsWith('restored')) && pods;
  });
}

async function goOn(before: readonly V1Pod[], told: readonly Who[]): Promise<void> {
  const after = await space.podsOf('app=who');
  const now = await Promise.all(after.map(ask));
  expect(after.map(nameOf).sort()).toEqual(before.map(nameOf).sort());
  expect(after.every(isReady)).toBe(true);
  // The same processes, that remember.
  expect(now.map(({ born }) => born)).toEqual(told.map(({ born }) => born));
  expect(now.every(({ n }, i) => n > (told[i]?.n ?? 0))).toBe(true);
  expect(restartsOf(after)).toEqual(after.map(() => 0));
}

/** Its container ends, and is started again by the kubelet without any of rekindle's roles. */
async function startsAgainAlone(pod: V1Pod): Promise<void> {
  const { born } = await ask(pod);
  await space.kubectl('get', '--raw', `/api/v1/namespaces/${space.name}/pods/${nameOf(pod)}:${PORT}/proxy/exit`).catch(() => undefined);
  const again = await space.until('the container again', async () => {
    const found = (await space.podsOf('app=who')).find((one) => nameOf(one) === nameOf(pod));
    return found?.status?.containerStatuses?.[0]?.restartCount === 1 && isReady(found) && found;
  });
  const who = await ask(again);
  expect(who.born).toBeGreaterThan(born);
  // Process 1 itself: nothing of ours is left in between.
  expect(who.pid).toBe(1);
}

/** Two parked pods, with a Service that finds those that are live. How often each was started: the seed's container is made anew when it parks. */
async function parkedPods(): Promise<readonly number[]> {
  await space.kubectl('delete', 'deployment', 'park', '--ignore-not-found', '--wait=true');
  await space.apply(
    {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name: 'park' },
      spec: { selector: { app: 'park', [STATE_LABEL]: 'live' }, ports: [{ port: PORT }] },
    },
    parkingProperties('park', 5),
    aDeployment({
      name: 'park',
      properties: 'park',
      replicas: 2,
      command: WHO_COMMAND,
      annotations: { 'rekindle.dev/mode': 'on-demand' },
      container: { resources: { requests: OWN } },
    }),
  );
  // Its seed starts cold, and parks when it is idle.
  await snapshotIsOnAllNodes('park');
  return space.until('two parked and small pods', async () => {
    const pods = await space.podsOf('app=park');
    const isSmall = (pod: V1Pod) => pod.spec?.containers[0]?.resources?.requests?.cpu === '1m';
    return (
      pods.length === 2 &&
      pods.every((pod) => pod.metadata?.labels?.[STATE_LABEL] === 'parked' && isReady(pod) && isSmall(pod)) &&
      restartsOf(pods)
    );
  });
}

async function parkedPodsRun(restarts: readonly number[]): Promise<void> {
  const pods = await space.untilReady('app=park', 2);
  const who = await Promise.all(pods.map(ask));
  expect(who.map(({ host }) => host)).toEqual(pods.map(nameOf));
  expect(pods.map((pod) => pod.metadata?.labels?.[STATE_LABEL])).toEqual(['live', 'live']);
  expect(pods.map((pod) => pod.spec?.containers[0]?.resources?.requests)).toEqual([OWN, OWN]);
  expect(restartsOf(pods)).toEqual(restarts);
  const slices = await space.kubectl(
    'get',
    'endpointslices',
    '-l',
    'kubernetes.io/service-name=park',
    '-o',
    'jsonpath={.items[*].endpoints[*].addresses[*]}',
  );
  expect(slices.split(' ').sort()).toEqual(pods.map((pod) => pod.status?.podIP).sort());
}

/** Installs rekindle anew, with a Redis of one's own. */
async function withRedisByUrl() {
  const password = randomUUID();
  const command = ['redis-server', '--requirepass', password, '--save', '', '--dir', '/tmp'];
  const ask = (...args: string[]) =>
    space.kubectl('exec', 'deployment/redis', '--', 'redis-cli', '-a', password, '--no-auth-warning', ...args);
  await kubectl(['delete', '-k', TEST_OVERLAY, '--timeout=120s'], { timeoutMs: 150_000 });
  await space.apply(aDeployment({ name: 'redis', enabled: false, command, container: { readinessProbe: { tcpSocket: { port: 6379 } } } }), {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name: 'redis' },
    spec: { selector: { app: 'redis' }, ports: [{ port: 6379 }] },
  });
  await space.untilReady('app=redis');
  await applyManifests(await overlayForRedis(`redis://:${password}@redis.${space.name}.svc:6379`));
  await installed(120_000, 'existing');
  return { keys: async () => (await ask('keys', '*')).split('\n').filter((key) => key !== '') };
}

function cli(...args: readonly string[]) {
  const env = { PATH: process.env.PATH ?? '', HOME: process.env.HOME ?? '/root', KUBECONFIG: kubeconfig };
  return exec(join(ROOT, '.build/node'), [join(ROOT, 'src/cli.ts'), ...args], { env, timeoutMs: 240_000 });
}

describe.runIf(!foreign || process.env.REKINDLE_TEST_UNINSTALL !== undefined)('rekindle goes', { timeout: 400_000 }, () => {
  const again = async () => {
    await applyManifests();
    await installed();
  };
  beforeAll(again);
  beforeEach(again, 200_000);
  afterAll(again, 200_000);

  test('by a bare `kubectl delete -k`: no object or finalizer stays, live pods serve on and start again cold', async () => {
    const pods = await livePods();
    const told = await Promise.all(pods.map(ask));

    await kubectl(['delete', '-k', TEST_OVERLAY, '--timeout=120s'], { timeoutMs: 150_000 });
    const left = await leftovers();

    expect(left).toEqual([]);
    await goOn(pods, told);
    await startsAgainAlone(pods.find((pod) => startOf(pod).startsWith('restored')) as V1Pod);
    // New ones are ordinary pods.
    await space.kubectl('scale', 'deployment/who', '--replicas=3');
    const all = await space.untilReady('app=who', 3);
    expect(all.filter((pod) => pod.spec?.readinessGates === undefined)).toHaveLength(1);
  });

  test('by `rekindle uninstall`: parked pods are started in place, nodes clean, and nothing is left', async () => {
    // Here it has a Redis by URL, which stays.
    const redis = foreign ? undefined : await withRedisByUrl();
    const pods = await livePods();
    const told = await Promise.all(pods.map(ask));
    const restarts = await parkedPods();

    const asked = await cli('uninstall');
    const done = await cli('uninstall', '--yes', '--json');
    const left = await leftovers();

    expect([asked.status, asked.stderr]).toEqual([2, expect.stringContaining('--yes')]);
    expect(done).toMatchObject({ status: 0 });
    const { nodes, notes, requests } = JSON.parse(done.stdout) as { nodes: string[]; notes: string[]; requests: number };
    expect(nodes).not.toEqual([]);
    expect(requests).toBeGreaterThanOrEqual(2);
    expect(notes).toContainEqual(expect.stringContaining(`Service ${space.name}/park selects ${STATE_LABEL}`));
    expect(left).toEqual([]);
    if (redis !== undefined) {
      const keys = await redis.keys();
      expect(keys.length).toBeGreaterThan(0);
      expect(keys.filter((key) => !key.startsWith('{rekindle}:'))).toEqual([]);
      expect(notes).toContainEqual(expect.stringContaining('your own Redis keeps a few keys, which begin with {rekindle}:'));
    }
    if (!foreign) expect(await onNodes()).toEqual([]);
    await goOn(pods, told);
    await parkedPodsRun(restarts);
    await startsAgainAlone(pods.find((pod) => startOf(pod).startsWith('restored')) as V1Pod);
    // There is nothing left to do, and that is no error.
    expect(await cli('uninstall', '--yes')).toMatchObject({ status: 0 });
  });

  test('by the Job, which goes with its own rights and namespace; pods whose gate was shut become Ready', async () => {
    const pods = await livePods();
    const told = await Promise.all(pods.map(ask));
    const restarts = await parkedPods();
    // A seed that is not ready for long: its gate is shut.
    const slow = [
      'sh',
      '-c',
      `touch /tmp/up; exec node -e "setTimeout(() => require('node:http').createServer((q, r) => r.end()).listen(${PORT}), 20000)"`,
    ];
    await space.apply(aDeployment({ name: 'slow', command: slow }));
    await space.until('the seed', async () =>
      (await space.podsOf('app=slow')).some((pod) => pod.metadata?.labels?.[STATE_LABEL] === 'seed'),
    );

    await kubectl(['apply', '-k', join(ROOT, 'manifests', 'overlays', 'test-uninstall')]);
    await kubectl(['wait', '--for=delete', 'namespace/rekindle', '--timeout=180s'], { timeoutMs: 200_000 });
    const left = await space.until('everything to be gone', async () => (await leftovers()).length === 0 && 'nothing', 30_000);

    expect(left).toBe('nothing');
    if (!foreign) expect(await onNodes()).toEqual([]);
    await goOn(pods, told);
    await parkedPodsRun(restarts);
    await space.untilReady('app=slow');
    expect(
      (await space.kube.get(DEPLOYMENTS, { name: 'slow', namespace: space.name }, AbortSignal.timeout(5_000)))?.status?.readyReplicas,
    ).toBe(1);
  });
});
