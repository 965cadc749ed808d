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
    Kube.open({ clock: systemClock, log: silentLog }, join(dir, 'agent.conf')).patch(
      PODS,
      { name, namespace: namespace.name, subresource: 'status' },
      what,
      'strategic',
      AbortSignal.timeout(10_000),
    );

  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'rekindle-rights-'));
    const [agent, other] = await rekindle.podsOf('app.kubernetes.io/name=rekindle-agent');
    const name = agent?.metadata?.name ?? '';
    node = agent?.spec?.nodeName ?? '';
    elsewhere = other?.spec?.nodeName;
    const bound = ['--bound-object-kind=Pod', `--bound-object-name=${name}`, `--bound-object-uid=${agent?.metadata?.uid}`];
    const token = (await rekindle.kubectl('create', 'token', 'rekindle-agent', ...bound)).trim();
    const config = JSON.parse(await kubectl(['config', 'view', '--minify', '--raw', '-o', 'json']));
    config.users = [{ name: config.users[0].name, user: { token } }];
    await writeFile(join(dir, 'agent.conf'), JSON.stringify(config));
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
    ['an annotation of others', { metadata: { annotations: { owner: 'me' } } }, /no annotation but its own/],
    [
      'what the webhook said of the workload',
      { metadata: { annotations: { 'rekindle.dev/workload': '{"evil":1}' } } },
      /no annotation but its own/,
    ],
    ['a condition of the kubelet', { status: { conditions: [{ type: 'Ready', status: 'False' }] } }, /no condition but its own/],
    ['the phase', { status: { phase: 'Failed' } }, /nothing of a status but its own conditions/],
    [
      'the addresses',
      { status: { podIPs: [{ $patch: 'replace' }, { ip: '10.90.1.250' }], podIP: '10.90.1.250' } },
      /nothing of a status but its own conditions/,
    ],
  ])('%s is not to be changed', async (_, what, said) => {
    await expect(patch('here', what)).rejects.toThrow(said);
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
