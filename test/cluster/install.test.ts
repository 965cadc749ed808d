import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { KubernetesObject } from '@kubernetes/client-node';
import { beforeAll, describe, expect, test } from 'vitest';
import { parseAllDocuments } from 'yaml';
import { DAEMON_SETS, DEPLOYMENTS, MUTATING_WEBHOOKS } from '../../src/cluster/kinds.ts';
import { exec, mustExec } from '../../src/lib/exec.ts';
import { applyManifests, foreign, installed, kubectl } from './fixture/cluster.ts';
import { isReady, Namespace } from './fixture/namespace.ts';

const rekindle = new Namespace('rekindle', {});
const MANIFESTS = join(import.meta.dirname, '../../manifests');
const VERSION = (JSON.parse(readFileSync(join(import.meta.dirname, '../../package.json'), 'utf8')) as { version: string }).version;

/** As buildah writes sizes. */
function megabytesOf(size: string): number {
  const [, number, unit] = /^([\d.]+) ([KMG]?B)$/.exec(size) ?? [];
  return Number(number) * ({ B: 1e-6, KB: 1e-3, MB: 1, GB: 1e3 }[unit ?? ''] ?? Number.NaN);
}

const signal = () => AbortSignal.timeout(10_000);

// Sizes are as they are and a fifth more: what makes an image larger is to be noticed.
test.skipIf(foreign).each([
  ['rekindle', 'gateway', 335],
  ['rekindle-agent', 'checkpoints', 400],
  ['rekindle-slot', 'first process', 0.15],
  ['rekindle-redis', 'Redis', 110],
])('the image %s is small, and its labels say what it is', async (name, what, megabytes) => {
  const run = async (...args: string[]) => JSON.parse((await mustExec(exec, 'buildah', args, { timeoutMs: 30_000 })).stdout);
  const [{ size }] = (await run('images', '--json', `localhost/${name}:test`)) as [{ size: string }];
  const { OCIv1 } = (await run('inspect', '--type', 'image', `localhost/${name}:test`)) as {
    OCIv1: { config: { User?: string; Labels: Record<string, string> } };
  };
  const label = (key: string) => OCIv1.config.Labels[`org.opencontainers.image.${key}`];

  expect(megabytesOf(size)).toBeLessThan(megabytes);
  expect(label('title')).toBe(name);
  expect(label('description')).toMatch(new RegExp(what, 'i'));
  expect(label('licenses')).toBe('Apache-2.0');
  expect(label('version')).toBe(VERSION);
  // The agent alone has to be root.
  expect(OCIv1.config.User ?? 'root').toBe(name === 'rekindle-agent' ? 'root' : '65532:65532');
});

describe('kubectl apply -k', () => {
  beforeAll(() => installed());

  test('brings up every role', async () => {
    const nodes = (await kubectl(['get', 'nodes', '-o', 'name'])).trim().split('\n');
    const agents = await rekindle.podsOf('app.kubernetes.io/name=rekindle-agent');

    expect(agents.map((pod) => pod.spec?.nodeName).sort()).toEqual(nodes.map((node) => node.replace('node/', '')).sort());
    for (const role of ['gateway', 'scaler']) {
      const pods = await rekindle.podsOf(`app.kubernetes.io/name=rekindle-${role}`);
      expect(pods.filter(isReady)).toHaveLength(2);
    }
    expect((await rekindle.podsOf('app.kubernetes.io/name=rekindle-redis')).filter(isReady)).toHaveLength(1);
  });

  test('gives the API server the certificate authority of the webhook', async () => {
    const configuration = await rekindle.kube.get(MUTATING_WEBHOOKS, { name: 'rekindle' }, signal());

    const authorities = configuration?.webhooks?.map(({ clientConfig }) => atob(clientConfig.caBundle ?? ''));
    expect(authorities).toEqual([expect.stringContaining('BEGIN CERTIFICATE'), expect.stringContaining('BEGIN CERTIFICATE')]);
  });

  test('a second time changes nothing: no pod is replaced, and the webhook keeps its authority', async () => {
    const look = async () => ({
      pods: (await rekindle.podsOf('app.kubernetes.io/name')).map((pod) => pod.metadata?.uid).sort(),
      daemonSets: (await rekindle.kube.list(DAEMON_SETS, { namespace: 'rekindle' }, signal())).map((set) => set.metadata?.generation),
      deployments: (await rekindle.kube.list(DEPLOYMENTS, { namespace: 'rekindle' }, signal())).map((one) => one.spec),
      webhooks: (await rekindle.kube.get(MUTATING_WEBHOOKS, { name: 'rekindle' }, signal()))?.webhooks,
    });
    const before = await look();

    await applyManifests();

    expect(await look()).toEqual(before);
  });

  /** Of an overlay, as it would be applied. */
  const rendered = async (overlay: string) => {
    const text = await kubectl(['kustomize', join(MANIFESTS, 'overlays', overlay)]);
    return { text, objects: parseAllDocuments(text).map((one) => one.toJS() as KubernetesObject & { spec?: { replicas?: number } }) };
  };

  test.each([
    ['one-node', { Deployment: 2, PodDisruptionBudget: 0, StatefulSet: 1 }],
    ['existing-redis', { Deployment: 2, PodDisruptionBudget: 2, StatefulSet: 0 }],
  ])('of the overlay %s would be accepted', async (overlay, counts) => {
    const { text, objects } = await rendered(overlay);

    const said = await kubectl(['apply', '--dry-run=server', '-f', '-'], { input: text });

    for (const [kind, count] of Object.entries(counts)) expect(objects.filter((one) => one.kind === kind)).toHaveLength(count);
    expect(said.trim().split('\n')).toHaveLength(objects.length);
    const replicas = objects.flatMap(({ kind, spec }) => (kind === 'Deployment' ? [spec?.replicas] : []));
    expect(replicas).toEqual(overlay === 'one-node' ? [1, 1] : [2, 2]);
  });

  // The kinds that they add are those of operators which are not here.
  test.each([
    ['keda', ['ScaledObject']],
    ['prometheus-operator', ['PodMonitor', 'PrometheusRule']],
  ])('of the overlay %s is complete', async (overlay, kinds) => {
    const { objects } = await rendered(overlay);

    expect(objects.map(({ kind }) => kind)).toEqual(expect.arrayContaining(kinds));
  });
});
