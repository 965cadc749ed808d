import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { parseAllDocuments } from 'yaml';
import {
  API_SERVICES,
  CLUSTER_ROLES,
  DAEMON_SETS,
  DEPLOYMENTS,
  MUTATING_WEBHOOKS,
  NAMESPACES,
  NODES,
  PODS,
  SERVICES,
  STATEFUL_SETS,
} from '../../../src/cluster/kinds.ts';
import { OUTSIDE, Uninstall, type UninstallOptions } from '../../../src/cluster/uninstall.ts';
import { monotonicClock as clock } from '../../../src/lib/clock.ts';
import { FakeCluster } from '../../fixtures/fake-cluster.ts';
import { aPod } from '../../fixtures/pods.ts';

const signal = AbortSignal.timeout(60_000);
const READY = { conditions: [{ type: 'Ready', status: 'True' }] };
const GATED = { readinessGates: [{ conditionType: 'rekindle.dev/ready' }] };
const MANIFESTS = join(import.meta.dirname, '..', '..', '..', 'manifests');

type Manifest = { kind: string; metadata: { name: string; namespace?: string } };

const documents = (path: string) => parseAllDocuments(readFileSync(join(MANIFESTS, path), 'utf8')).map((one) => one.toJS() as Manifest);

/** A cluster with rekindle on two nodes, whose agents retire as soon as they are asked, unless one is `stuck` or its node `away`. */
async function aCluster({ stuck = [] as string[], away = [] as string[] } = {}) {
  const cluster = new FakeCluster();
  await cluster.create(NAMESPACES, { metadata: { name: 'rekindle' } }, signal);
  await cluster.create(MUTATING_WEBHOOKS, { metadata: { name: 'rekindle' } }, signal);
  await cluster.create(CLUSTER_ROLES, { metadata: { name: 'rekindle-agent' } }, signal);
  for (const name of ['node1', 'node2'])
    await cluster.create(NODES, { metadata: { name }, ...(away.includes(name) ? {} : { status: READY }) }, signal);
  const at = { namespace: 'rekindle' };
  for (const role of ['scaler', 'gateway'])
    await cluster.create(DEPLOYMENTS, { metadata: { name: `rekindle-${role}`, ...at }, spec: { selector: {}, template: {} } }, signal);
  await cluster.create(STATEFUL_SETS, { metadata: { name: 'rekindle-redis', ...at } }, signal);
  const labels = { 'app.kubernetes.io/name': 'rekindle-agent' };
  const agent = (node: string, args: string[]) => ({
    metadata: { name: `agent-${node}-${args.length}`, ...at, labels },
    spec: { nodeName: node, containers: [{ name: 'agent', args }] },
    ...(stuck.includes(node) && args.length > 1 ? {} : { status: READY }),
  });
  for (const node of ['node1', 'node2']) await cluster.create(PODS, agent(node, ['agent']), signal);
  await cluster.create(
    DAEMON_SETS,
    {
      metadata: { name: 'rekindle-agent', ...at },
      spec: { selector: {}, template: { spec: { containers: [{ name: 'agent', args: ['agent'] }] } } },
      status: { desiredNumberScheduled: 2, currentNumberScheduled: 2, numberMisscheduled: 0, numberReady: 2 },
    },
    signal,
  );
  const acted = async () => {
    const set = await cluster.get(DAEMON_SETS, { name: 'rekindle-agent', ...at }, signal);
    for (const pod of await cluster.list(PODS, at, signal)) await cluster.remove(PODS, { name: pod.metadata?.name ?? '', ...at }, signal);
    const args = set?.spec?.template.spec?.containers[0]?.args ?? [];
    if (set !== undefined)
      for (const node of ['node1', 'node2']) if (!away.includes(node)) await cluster.create(PODS, agent(node, args), signal);
    if (set !== undefined) for (const node of away) await cluster.create(PODS, agent(node, ['agent']), signal);
  };
  cluster.follow(DAEMON_SETS, {}, (set) => set && void acted(), signal);
  await Promise.resolve();
  cluster.deeds.length = 0;
  return cluster;
}

async function uninstalled(cluster: FakeCluster, options: Partial<UninstallOptions> = {}) {
  const said: string[] = [];
  const all = {
    namespace: 'rekindle',
    keepSnapshots: false,
    redisPrefix: '{rekindle}:',
    nodesMs: 5_000,
    waitForNamespace: true,
    ...options,
  };
  const result = await new Uninstall({ cluster, clock, say: (line) => said.push(line) }, all).run(signal);
  return { ...result, said };
}

test('everything that the manifests put outside of the namespace is removed', () => {
  const base = readdirSync(join(MANIFESTS, 'base')).filter((name) => name.endsWith('.yaml') && !/kustomization|image-names/.test(name));
  const all = [...base.map((name) => `base/${name}`), 'overlays/external-metrics/apiservice.yaml'].flatMap(documents);
  const known = new Map(OUTSIDE.map(({ kind, name, namespace }) => [`${kind.kind} ${namespace ?? ''}/${name}`, kind]));
  const CLUSTER_WIDE = /^(Cluster|Validating|Mutating|APIService|PriorityClass|CustomResource|Namespace$)/;
  const outside = all.filter(
    ({ kind, metadata }) =>
      kind !== 'Namespace' && (CLUSTER_WIDE.test(kind) || (metadata.namespace !== undefined && metadata.namespace !== 'rekindle')),
  );

  expect(outside.length).toBeGreaterThan(10);
  expect(
    outside.map(({ kind, metadata }) => `${kind} ${metadata.namespace ?? ''}/${metadata.name}`).filter((one) => !known.has(one)),
  ).toEqual([]);
});

test("the Job may remove what is to be removed, and nothing of others'", () => {
  const role = documents('uninstall/job.yaml').find(({ kind }) => kind === 'ClusterRole') as unknown as {
    rules: { resources: string[]; resourceNames?: string[]; verbs: string[] }[];
  };
  const may = (plural: string, name: string) =>
    role.rules.some(
      ({ resources, resourceNames, verbs }) => resources.includes(plural) && verbs.includes('delete') && resourceNames?.includes(name),
    );

  expect(OUTSIDE.filter(({ kind, name }) => !may(kind.plural, name)).map(({ name }) => name)).toEqual([]);
  expect(role.rules.filter(({ verbs, resourceNames }) => verbs.includes('delete') && resourceNames === undefined)).toEqual([]);
});

test('injection stops first, gates open and requests are back before slots start, the namespace goes last', async () => {
  const cluster = await aCluster();
  const shut = aPod({ name: 'seed', state: 'seed' });
  await cluster.create(PODS, { ...shut, spec: { ...shut.spec, ...GATED, containers: shut.spec?.containers ?? [] } }, signal);
  const small = { cpu: '1m', memory: '4Mi' };
  await cluster.create(PODS, aPod({ name: 'parked', mode: 'on-demand', state: 'live', declared: { cpu: '1' }, requests: small }), signal);
  cluster.deeds.length = 0;

  const result = await uninstalled(cluster);

  const steps = [
    'remove mutatingwebhookconfigurations rekindle',
    'remove deployments rekindle/rekindle-scaler',
    'patch status of pods shop/seed',
  ];
  steps.push('patch resize of pods shop/parked', 'patch daemonsets rekindle/rekindle-agent', 'remove daemonsets rekindle/rekindle-agent');
  steps.push('remove deployments rekindle/rekindle-gateway', 'remove clusterroles rekindle-agent', 'remove namespaces rekindle');
  expect(cluster.deeds.filter((deed) => steps.includes(deed))).toEqual(steps);
  expect(result).toMatchObject({ gates: 1, requests: 1, nodes: ['node1', 'node2'], notes: [] });
  const pod = await cluster.get(PODS, { name: 'parked', namespace: 'shop' }, signal);
  expect(pod?.spec?.containers[0]?.resources?.requests).toEqual({ cpu: '1', memory: '4Mi' });
});

test('run again when all of it is gone, it does nothing and succeeds', async () => {
  const cluster = await aCluster();
  await uninstalled(cluster);
  cluster.deeds.length = 0;

  const again = await uninstalled(cluster);

  expect(cluster.deeds).toEqual([]);
  expect(again.notes).toEqual([expect.stringContaining('no DaemonSet of agents')]);
});

test('a node whose agent does not retire in time is named, and nothing is removed that it needs', async () => {
  const cluster = await aCluster({ stuck: ['node2'] });

  await expect(uninstalled(cluster, { nodesMs: 50 })).rejects.toMatchObject({ code: 'timeout', message: expect.stringContaining('node2') });

  expect(await cluster.get(NAMESPACES, { name: 'rekindle' }, signal)).toBeDefined();
  expect(await cluster.get(CLUSTER_ROLES, { name: 'rekindle-agent' }, signal)).toBeDefined();
});

test('a node that is away holds nothing up, and is told', async () => {
  const result = await uninstalled(await aCluster({ away: ['node2'] }));

  expect(result.nodes).toEqual(['node1']);
  expect(result.notes).toEqual([expect.stringContaining('node2 is not ready')]);
});

test("external metrics of somebody else's stay; a Service that selects live pods is told about", async () => {
  const cluster = await aCluster();
  const name = 'v1beta1.external.metrics.k8s.io';
  const spec = { groupPriorityMinimum: 1, versionPriority: 1, service: { name: 'keda', namespace: 'keda' } };
  await cluster.create(API_SERVICES, { metadata: { name }, spec }, signal);
  await cluster.create(
    SERVICES,
    { metadata: { name: 'web', namespace: 'shop' }, spec: { selector: { 'rekindle.dev/state': 'live' } } },
    signal,
  );

  const { notes } = await uninstalled(cluster);

  expect(await cluster.get(API_SERVICES, { name }, signal)).toBeDefined();
  expect(notes).toEqual([expect.stringMatching(/Service shop\/web selects rekindle.dev\/state/)]);
});

test("a Redis of one's own keeps what is in it, and that is told", async () => {
  const cluster = await aCluster();
  await cluster.remove(STATEFUL_SETS, { name: 'rekindle-redis', namespace: 'rekindle' }, signal);

  const { notes } = await uninstalled(cluster);

  expect(notes).toEqual([expect.stringContaining('begin with {rekindle}:')]);
});
