import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { PODS } from '../../src/cluster/kinds.ts';
import { Kube } from '../../src/cluster/kube.ts';
import { systemClock } from '../../src/lib/clock.ts';
import { silentLog } from '../../src/lib/log.ts';
import { APPS, kubectl } from './fixture/cluster.ts';
import { aNamespace, Namespace } from './fixture/namespace.ts';

const rekindle = new Namespace('rekindle', {});
const GATE = { status: { conditions: [{ type: 'rekindle.dev/ready', status: 'True' }] } };

/** A kubeconfig for the same API server as somebody else. */
async function kubeconfigOf(token: string, path: string): Promise<string> {
  const config = JSON.parse(await kubectl(['config', 'view', '--minify', '--raw', '-o', 'json']));
  config.users = [{ name: config.users[0].name, user: { token } }];
  await writeFile(path, JSON.stringify(config));
  return path;
}

/** Changes a pod as whoever this kubeconfig is of. */
function patchAs(
  kubeconfig: string,
  { namespace, name, subresource }: { namespace: string; name: string; subresource: 'status' | 'resize' },
  what: object,
) {
  const kube = Kube.open({ clock: systemClock, log: silentLog }, kubeconfig);
  return kube.patch(PODS, { name, namespace, subresource }, what, 'strategic', AbortSignal.timeout(10_000));
}

describe('with the token of an agent', () => {
  const namespace = aNamespace({ 'pod-security.kubernetes.io/enforce': 'restricted' });
  let dir: string;
  let node: string;
  let elsewhere: string | undefined;

  const aPod = (name: string, nodeName: string, labels: Record<string, string>) => ({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, labels: { app: name, ...labels }, annotations: { 'rekindle.dev/workload': '{}' } },
    spec: {
      nodeName,
      terminationGracePeriodSeconds: 0,
      securityContext: { runAsNonRoot: true, runAsUser: 1000, seccompProfile: { type: 'RuntimeDefault' } },
      containers: [
        {
          name: 'app',
          image: APPS,
          command: ['sleep', '3600'],
          securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: ['ALL'] } },
        },
      ],
    },
  });
  const asAgent = (...args: readonly string[]) => kubectl(['--kubeconfig', join(dir, 'agent.conf'), '-n', namespace.name, ...args]);
  const patch = (name: string, what: object) =>
    patchAs(join(dir, 'agent.conf'), { namespace: namespace.name, name, subresource: 'status' }, what);

  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'rekindle-rights-'));
    const [agent, other] = await rekindle.podsOf('app.kubernetes.io/name=rekindle-agent');
    const name = agent?.metadata?.name ?? '';
    node = agent?.spec?.nodeName ?? '';
    elsewhere = other?.spec?.nodeName;
    const bound = ['--bound-object-kind=Pod', `--bound-object-name=${name}`, `--bound-object-uid=${agent?.metadata?.uid}`];
    const token = (await rekindle.kubectl('create', 'token', 'rekindle-agent', ...bound)).trim();
    await kubeconfigOf(token, join(dir, 'agent.conf'));
    const labels = { 'rekindle.dev/enabled': 'true' };
    await namespace.apply(aPod('here', node, labels), aPod('strange', node, {}), aPod('there', elsewhere ?? node, labels));
    await namespace.untilReady('app=here');
  });
  afterAll(() => rm(dir, { recursive: true, force: true }));

  test('the gate of a pod of its node is opened, and its state and how it started are told', async () => {
    await patch('here', {
      ...GATE,
      metadata: { labels: { 'rekindle.dev/state': 'live' }, annotations: { 'rekindle.dev/start': 'restored in 63 ms' } },
    });

    const [pod] = await namespace.podsOf('rekindle.dev/state=live');
    expect(pod?.metadata?.annotations).toMatchObject({ 'rekindle.dev/start': 'restored in 63 ms' });
    expect(pod?.status?.conditions).toContainEqual(expect.objectContaining({ type: 'rekindle.dev/ready', status: 'True' }));
  });

  test('a pod of another node is not to be written to', async ({ skip }) => {
    if (elsewhere === undefined) skip('needs two nodes');

    await expect(patch('there', GATE)).rejects.toThrow(/only write about pods of its own node/);
  });

  test('a pod that did not opt in is not to be written to', async () => {
    await expect(patch('strange', GATE)).rejects.toThrow(/only write about pods that opted in/);
  });

  test.each([
    ['a label by which Services select', { metadata: { labels: { app: 'stolen' } } }, /no label but/],
    ['a label that is removed', { metadata: { labels: { app: null } } }, /no label but/],
    ['an annotation of others', { metadata: { annotations: { owner: 'me' } } }, /no annotation but/],
    [
      'what the webhook said of the workload',
      { metadata: { annotations: { 'rekindle.dev/workload': '{"evil":1}' } } },
      /no annotation but/,
    ],
    ['what it asks for when it wakes', { metadata: { annotations: { 'rekindle.dev/requests': '{"cpu":"64"}' } } }, /no annotation but/],
    ['a finalizer, which would hold up its end', { metadata: { finalizers: ['example.com/mine'] } }, /neither finalizers nor owners/],
    ['a condition of the kubelet', { status: { conditions: [{ type: 'Ready', status: 'False' }] } }, /no condition but its own/],
    ['what is said of it', { status: { message: 'evicted' } }, /nothing of a status but its own conditions/],
    ['the phase', { status: { phase: 'Failed' } }, /nothing of a status but its own conditions/],
    [
      'the addresses',
      { status: { podIPs: [{ $patch: 'replace' }, { ip: '10.90.1.250' }], podIP: '10.90.1.250' } },
      /nothing of a status but its own conditions/,
    ],
  ])('%s is not to be changed', async (_, what, said) => {
    await expect(patch('here', what)).rejects.toThrow(said);
  });

  test('its owner stays whose it is', async () => {
    const owner = { apiVersion: 'v1', kind: 'ConfigMap', name: 'kube-root-ca.crt', uid: '00000000-0000-4000-8000-000000000000' };

    // The API server may pass it over, or refuse it.
    await patch('here', { metadata: { ownerReferences: [owner] } }).catch(() => undefined);

    const [pod] = await namespace.podsOf('app=here');
    expect(pod).toBeDefined();
    expect(pod?.metadata?.ownerReferences).toBeUndefined();
  });

  test.each([
    ['create', 'pods'],
    ['delete', 'pods'],
    ['patch', 'pods'],
    ['create', 'pods/exec'],
    ['create', 'pods/eviction'],
    ['patch', 'pods/resize'],
    ['get', 'secrets'],
    ['list', 'secrets'],
    ['get', 'configmaps'],
    ['create', 'serviceaccounts/token'],
    ['create', 'pods/binding'],
    ['patch', 'deployments'],
  ])('it cannot %s %s', async (verb, resource) => {
    // kubectl says `no` on stdout and ends with 1.
    await expect(asAgent('auth', 'can-i', verb, resource)).rejects.toThrow(/ended with 1 .*: no$/);
  });
});

test('no role but the agents needs more than the restricted pod security level', async () => {
  const label = 'pod-security.kubernetes.io/enforce=restricted';
  const asked = ['label', '--dry-run=server', '--overwrite', '--warnings-as-errors', 'namespace', 'rekindle', label];

  const said = await kubectl(asked).catch(String);

  expect(said.match(/Warning: rekindle-\w+/g)).toEqual(['Warning: rekindle-agent']);
});

describe('with the token of the gateways', () => {
  const namespace = aNamespace();
  let dir: string;
  const aPod = (name: string, labels: Record<string, string>) => ({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, labels: { app: name, ...labels }, annotations: { 'rekindle.dev/workload': '{}' } },
    spec: { terminationGracePeriodSeconds: 0, containers: [{ name: 'app', image: APPS, command: ['sleep', '3600'] }] },
  });
  const patch = (name: string, what: object) =>
    patchAs(join(dir, 'gateway.conf'), { namespace: namespace.name, name, subresource: 'status' }, what);

  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'rekindle-rights-'));
    await kubeconfigOf((await rekindle.kubectl('create', 'token', 'rekindle-gateway')).trim(), join(dir, 'gateway.conf'));
    await namespace.apply(aPod('opted', { 'rekindle.dev/enabled': 'true' }), aPod('strange', {}));
  });
  afterAll(() => rm(dir, { recursive: true, force: true }));

  test('gates are opened, of pods that opted in, and nothing else is written', async () => {
    await patch('opted', GATE);

    await expect(patch('strange', GATE)).rejects.toThrow(/only write about pods that opted in/);
    await expect(patch('opted', { metadata: { labels: { app: 'stolen' } } })).rejects.toThrow(/no label but/);
    await expect(patch('opted', { status: { phase: 'Failed' } })).rejects.toThrow(/nothing of a status but/);
  });
});

describe('with the token of the scaler', () => {
  const namespace = aNamespace();
  const OWN = { requests: { cpu: '20m', memory: '32Mi' }, limits: { memory: '64Mi' } };
  let dir: string;

  const aPod = (name: string, labels: Record<string, string>) => ({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, labels: { app: name, ...labels } },
    spec: {
      terminationGracePeriodSeconds: 0,
      containers: [{ name: 'app', image: APPS, command: ['sleep', '3600'], resources: OWN }],
    },
  });
  const resize = (name: string, resources: object) =>
    patchAs(
      join(dir, 'scaler.conf'),
      { namespace: namespace.name, name, subresource: 'resize' },
      { spec: { containers: [{ name: 'app', resources }] } },
    );
  const resourcesOf = async (name: string) => (await namespace.podsOf(`app=${name}`))[0]?.spec?.containers[0]?.resources;

  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'rekindle-rights-'));
    await kubeconfigOf((await rekindle.kubectl('create', 'token', 'rekindle-scaler')).trim(), join(dir, 'scaler.conf'));
    await namespace.apply(aPod('opted', { 'rekindle.dev/enabled': 'true' }), aPod('strange', {}));
    await namespace.untilReady('app in (opted,strange)', 2);
  });
  afterAll(() => rm(dir, { recursive: true, force: true }));

  test('the requests of a pod that opted in are changed', async () => {
    await resize('opted', { requests: { cpu: '10m' } });

    expect(await resourcesOf('opted')).toEqual({ ...OWN, requests: { cpu: '10m', memory: '32Mi' } });
  });

  test('a pod that did not opt in is not to be resized', async () => {
    await expect(resize('strange', { requests: { cpu: '10m' } })).rejects.toThrow(/only resize pods that opted in/);

    expect(await resourcesOf('strange')).toEqual(OWN);
  });

  test.each([
    ['a limit', { limits: { memory: '96Mi' } }],
    ['a limit beside a request', { requests: { cpu: '15m' }, limits: { memory: '96Mi' } }],
    ['a limit that there was not', { limits: { cpu: '2' } }],
  ])('%s is not to be changed', async (_, resources) => {
    await expect(resize('opted', resources)).rejects.toThrow(/nothing but the requests of containers/);

    expect((await resourcesOf('opted'))?.limits).toEqual(OWN.limits);
  });
});
