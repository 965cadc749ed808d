import type { V1APIService, V1MutatingWebhookConfiguration } from '@kubernetes/client-node';
import { describe, expect, test } from 'vitest';
import { makeAuthority, makeServing } from '../../../src/cluster/authority.ts';
import { optedIn } from '../../../src/cluster/doctor/pods.ts';
import { admissionPolicies, podSecurity, rightsOf } from '../../../src/cluster/doctor/rights.ts';
import { agents, redis, role, versions } from '../../../src/cluster/doctor/roles.ts';
import { askedInVain, externalMetrics } from '../../../src/cluster/doctor/scaling.ts';
import { kubernetesVersion, nodeFindings, resizing, slotFiles, unproven } from '../../../src/cluster/doctor/versions.ts';
import { answer, configuration, rehearsedPod, serving } from '../../../src/cluster/doctor/webhook.ts';
import { examineCluster } from '../../../src/cluster/doctor.ts';
import { type Kind, NAMESPACES, type Node, type Pod } from '../../../src/cluster/kinds.ts';
import { FakeCluster } from '../../fixtures/fake-cluster.ts';

const signal = new AbortController().signal;

/** An authority that lives for ten days, as caBundle, and a certificate of it, as a Secret holds it. */
async function authority(): Promise<{ readonly bundle: string; readonly served: string }> {
  const [now, life] = [Date.now(), 10 * 86_400_000];
  const own = await makeAuthority('rekindle', now, life);
  const served = await makeServing(own, ['rekindle-webhook.rekindle.svc'], now, life);
  return { bundle: Buffer.from(own.cert).toString('base64'), served: Buffer.from(served.cert).toString('base64') };
}

const INFO = {
  kubeletVersion: 'v1.36.3',
  kernelVersion: '6.8.0',
  containerRuntimeVersion: 'containerd://2.1.9',
  architecture: 'amd64',
  osImage: 'Flatcar',
};
const aNode = (name: string, info: Partial<typeof INFO> = {}, labels: Record<string, string> = {}): Node => ({
  metadata: { name, labels },
  status: {
    nodeInfo: {
      ...INFO,
      ...info,
      bootID: '',
      kubeProxyVersion: '',
      machineID: '',
      operatingSystem: 'linux',
      systemUUID: '',
    },
  },
});
const aPod = (spec: Partial<NonNullable<Pod['spec']>>, conditions: readonly string[] = [], createdMs = 0): Pod => ({
  metadata: { name: 'web-1', namespace: 'shop', creationTimestamp: new Date(createdMs) },
  spec: { containers: [{ name: 'app', image: 'app:1' }], ...spec },
  status: { phase: 'Running', conditions: conditions.map((type) => ({ type, status: 'True' })) },
});
const SLOT = { containers: [{ name: 'app', command: ['/rekindle/slot', 'app'] }] };

describe('versions', () => {
  test('a cluster before 1.30 cannot restore, one before 1.33 cannot park', () => {
    expect(kubernetesVersion(29)).toMatchObject({ level: 'fail', says: /1\.30/ });
    expect(kubernetesVersion(30)).toMatchObject({ level: 'warn', says: /1\.33/ });
    expect(kubernetesVersion(33)).toMatchObject({ level: 'ok' });
  });

  test('without image volumes on every node the slot is copied, which works', () => {
    expect(slotFiles(36, [aNode('a')])).toMatchObject({ level: 'ok', says: 'as an image volume' });
    expect(slotFiles(36, [aNode('a'), aNode('b', { containerRuntimeVersion: 'containerd://1.7.1' })])).toMatchObject({
      level: 'ok',
      says: /init container.*1\.35/,
    });
  });

  test('in-place resize that somebody turned off is told, with what that costs', () => {
    expect(resizing(36, { resources: [{ name: 'pods/resize' }] })).toMatchObject({ level: 'ok' });
    expect(resizing(36, { resources: [{ name: 'pods' }] })).toMatchObject({ level: 'warn', remedy: /InPlacePodVerticalScaling/ });
  });

  test('nodes that are too old, or have another runtime, are named', () => {
    const nodes = [
      aNode('good'),
      aNode('old', { kernelVersion: '4.18.0', kubeletVersion: 'v1.29.1' }),
      aNode('docker', { containerRuntimeVersion: 'docker://28.0' }),
    ];

    expect(nodeFindings(nodes).map(({ name, level, says }) => [name, level, says])).toEqual([
      ['nodes', 'ok', expect.stringMatching(/^3 with Linux/)],
      ['kernel', 'fail', expect.stringContaining('on old:')],
      ['kubelet', 'fail', expect.stringContaining('on old')],
      ['container runtime', 'fail', expect.stringContaining('on docker:')],
    ]);
    expect(nodeFindings([])).toMatchObject([{ level: 'fail' }]);
  });

  test('what was never tried is called unproven', () => {
    const nodes = [
      aNode('crio', { containerRuntimeVersion: 'cri-o://1.34.0', osImage: 'Red Hat Enterprise Linux CoreOS 9' }),
      aNode('gke', { osImage: 'Container-Optimized OS from Google' }, { 'cloud.google.com/gke-nodepool': 'a' }),
      aNode('arm', { architecture: 'arm64' }),
    ];

    const found = Object.fromEntries(unproven(nodes).map(({ name, level, says }) => [name, `${level} ${says}`]));

    expect(found).toMatchObject({
      'cgroup v2': expect.stringMatching(/^warn unproven/),
      SELinux: expect.stringMatching(/^warn .*crio: unproven/),
      AppArmor: expect.stringMatching(/^warn .*gke: unproven/),
      'CRI-O': expect.stringMatching(/^warn .*crio: unproven/),
      GKE: expect.stringMatching(/^warn .*gke: unproven/),
      'other CPUs': expect.stringMatching(/^warn .*arm: unproven/),
    });
  });
});

describe('roles', () => {
  const agentOn = (nodeName: string, ready: boolean): Pod => aPod({ nodeName }, ready ? ['Ready'] : []);

  test('nodes without a ready agent are named, with why', () => {
    const nodes = [aNode('a'), aNode('b'), aNode('c')];
    const waiting: Pod = {
      ...agentOn('b', false),
      status: {
        containerStatuses: [
          {
            name: 'agent',
            image: '',
            imageID: '',
            ready: false,
            restartCount: 0,
            state: { waiting: { reason: 'ImagePullBackOff', message: 'no such image' } },
          },
        ],
      },
    };

    expect(
      agents(
        nodes,
        nodes.map(({ metadata }) => agentOn(metadata?.name ?? '', true)),
        'rekindle',
      ),
    ).toMatchObject({ level: 'ok' });
    const some = agents(nodes, [agentOn('a', true), waiting], 'rekindle');
    expect(some).toMatchObject({ level: 'warn', says: /2 of 3 nodes \(b, c\): ImagePullBackOff: no such image; there is no pod/ });
    expect(agents(nodes, [waiting], 'rekindle')).toMatchObject({ level: 'fail' });
    expect(agents(nodes, [], 'rekindle')).toMatchObject({ level: 'fail' });
  });

  test('a role that is away fails, one that is short of replicas does not', () => {
    expect(role('Deployment', 'gateway', undefined, 'nothing works')).toMatchObject({ level: 'fail', says: /nothing works/ });
    expect(role('Deployment', 'gateway', { spec: { replicas: 2 }, status: {} }, 'nothing works')).toMatchObject({ level: 'fail' });
    expect(role('Deployment', 'gateway', { spec: { replicas: 2 }, status: { readyReplicas: 1 } }, '')).toMatchObject({ level: 'warn' });
    expect(role('Deployment', 'gateway', { spec: { replicas: 2 }, status: { readyReplicas: 2 } }, '')).toMatchObject({ level: 'ok' });
  });

  test("a Redis of one's own is known by the roles that reach it", () => {
    const up = { name: 'gateway', level: 'ok', says: '' } as const;

    expect(redis(undefined, [up])).toMatchObject({ level: 'ok', says: /your own/ });
    expect(redis(undefined, [{ ...up, level: 'fail' }])).toMatchObject({ level: 'warn' });
    expect(redis({ status: { readyReplicas: 0 } }, [up])).toMatchObject({ level: 'fail' });
  });

  test('several versions at once are an upgrade that has not ended', () => {
    const of = (image: string) => aPod({ containers: [{ name: 'x', image }] });

    expect(versions([of('10.0.0.1:5000/rekindle:0.1.0'), of('r/rekindle-agent:0.1.0@sha256:1')])).toMatchObject({
      level: 'ok',
      says: '0.1.0',
    });
    expect(versions([of('rekindle:0.1.0'), of('rekindle-agent:0.2.0')])).toMatchObject({ level: 'warn', says: /0\.1\.0, 0\.2\.0/ });
  });
});

describe('the webhook', () => {
  const webhooks = (caBundle: string, failurePolicy = 'Ignore'): V1MutatingWebhookConfiguration => ({
    webhooks: [{ name: 'pods', failurePolicy, clientConfig: { caBundle }, admissionReviewVersions: [], sideEffects: 'None' }],
  });
  const levels = (found: V1MutatingWebhookConfiguration | undefined, at = Date.now()) =>
    configuration(found, at).map(({ name, level }) => `${name} ${level}`);

  test('without a configuration, or with one that trusts nobody, no pod becomes a slot', async () => {
    const ca = await authority();

    expect(levels(undefined)).toEqual(['configuration fail']);
    expect(levels(webhooks(''))).toEqual(['configuration ok', 'caBundle fail']);
    expect(levels(webhooks('bm90IGEgY2VydGlmaWNhdGU='))).toEqual(['configuration ok', 'caBundle fail']);
    expect(levels(webhooks(ca.bundle))).toEqual(['configuration ok', 'caBundle ok']);
    expect(levels(webhooks(ca.bundle), Date.now() + 9.5 * 86_400_000)).toEqual(['configuration ok', 'caBundle warn']);
    expect(levels(webhooks(ca.bundle), Date.now() + 30 * 86_400_000)).toEqual(['configuration ok', 'caBundle fail']);
    expect(levels(webhooks(ca.bundle, 'Fail'))).toEqual(['configuration warn', 'caBundle ok']);
  });

  test('a certificate that another authority made is found out', async () => {
    const [ca, other] = await Promise.all([authority(), authority()]);
    const secret = { data: { 'tls.crt': ca.served } };

    expect(serving(webhooks(ca.bundle), secret)).toMatchObject({ level: 'ok' });
    expect(serving(webhooks(other.bundle), secret)).toMatchObject({ level: 'fail', says: /not made by the authority/ });
    expect(serving(webhooks(ca.bundle), undefined)).toMatchObject({ level: 'fail' });
  });

  test('it answers if a rehearsed pod becomes a slot', () => {
    expect(answer(rehearsedPod('default'))).toMatchObject({ level: 'fail', remedy: /rekindle-webhook/ });
    expect(answer(aPod(SLOT))).toMatchObject({ level: 'ok' });
  });
});

describe('scaling', () => {
  const served = (name: string, available?: string): V1APIService => ({
    spec: {
      service: { namespace: name === 'rekindle-scaler' ? 'rekindle' : 'keda', name },
      group: '',
      version: '',
      groupPriorityMinimum: 1,
      versionPriority: 1,
    },
    ...(available === undefined ? {} : { status: { conditions: [{ type: 'Available', status: available, message: 'no endpoints' }] } }),
  });

  test("another's external metrics are left alone, ours must be available", () => {
    expect(externalMetrics(undefined, 'rekindle')).toMatchObject({ level: 'ok', remedy: /external-metrics/ });
    expect(externalMetrics(served('keda-metrics'), 'rekindle')).toMatchObject({
      level: 'ok',
      says: /keda\/keda-metrics.*leaves that alone/,
    });
    expect(externalMetrics(served('rekindle-scaler', 'True'), 'rekindle')).toMatchObject({ level: 'ok' });
    expect(externalMetrics(served('rekindle-scaler', 'False'), 'rekindle')).toMatchObject({ level: 'fail', says: /no endpoints/ });
  });

  test('autoscalers that ask for metrics nobody serves are named', () => {
    const asking = {
      metadata: { name: 'web', namespace: 'shop' },
      spec: { metrics: [{ external: { metric: { name: 'rekindle_invocations' } } }] },
    };

    expect(askedInVain(undefined, [asking])).toMatchObject([{ level: 'warn', says: /shop\/web/ }]);
    expect(askedInVain(served('rekindle-scaler'), [asking])).toEqual([]);
  });
});

describe('rights', () => {
  /** Answers reviews by what the account may. */
  class Reviewing extends FakeCluster {
    may: (right: { readonly verb: string; readonly resource: string; readonly subresource?: string }) => boolean = () => true;
    override async create<T>(_kind: Kind<T>, object: T): Promise<T> {
      const { resourceAttributes } = (object as { spec: { resourceAttributes: { verb: string; resource: string } } }).spec;
      return { ...object, status: { allowed: this.may(resourceAttributes) } };
    }
  }

  test('too little is a failure, too much a warning', async () => {
    const cluster = new Reviewing();
    const look = () => rightsOf(cluster, 'rekindle', 'rekindle-agent', signal);

    expect(await look()).toMatchObject({ level: 'warn', says: /get secrets/ });
    cluster.may = ({ verb, resource, subresource }) => subresource === 'status' || verb === 'watch' || resource === 'events';
    expect(await look()).toMatchObject({ level: 'ok' });
    cluster.may = ({ verb }) => verb === 'watch';
    expect(await look()).toMatchObject({ level: 'fail', says: /may not patch pods\/status, create events/ });
  });

  test('a namespace that does not let the agent be privileged is a failure, with what to do', async () => {
    const cluster = new FakeCluster();
    const look = () => podSecurity(cluster, 'rekindle', signal);

    expect(await look()).toMatchObject({ level: 'fail', says: /not installed/ });
    await cluster.create(
      NAMESPACES,
      { metadata: { name: 'rekindle', labels: { 'pod-security.kubernetes.io/enforce': 'baseline' } } },
      signal,
    );
    expect(await look()).toMatchObject({ level: 'fail', remedy: /kubectl label ns rekindle/ });
  });

  test('a policy that is missing is a warning, with what could be done without it', () => {
    expect(admissionPolicies({}, {})).toMatchObject({ level: 'ok' });
    expect(admissionPolicies(undefined, {})).toMatchObject({ level: 'warn', says: 'missing: an agent could write the status of any pod' });
    expect(admissionPolicies({}, undefined)).toMatchObject({ level: 'warn', says: 'missing: the scaler could resize any pod' });
  });
});

describe('pods', () => {
  const now = 10 * 60_000;

  test('those that are no slots are named', () => {
    expect(optedIn([aPod(SLOT), aPod({})], now)).toMatchObject([{ level: 'warn', says: '1 of 2 that opted in are no slots: shop/web-1' }]);
    expect(optedIn([aPod(SLOT)], now)).toMatchObject([{ level: 'ok' }]);
    expect(optedIn([], now)).toMatchObject([{ level: 'ok', says: /none has opted in/ }]);
  });

  test('gates that stay shut while the containers are ready are told, young ones and open ones are not', () => {
    const gated = { ...SLOT, readinessGates: [{ conditionType: 'rekindle.dev/ready' }] };
    const shut = aPod(gated, ['ContainersReady']);

    expect(optedIn([shut], now)).toMatchObject([{}, { name: 'gates', level: 'warn' }]);
    expect(optedIn([aPod(gated, ['ContainersReady'], now - 20_000)], now)).toHaveLength(1);
    expect(optedIn([aPod(gated, ['ContainersReady', 'rekindle.dev/ready'])], now)).toHaveLength(1);
    expect(optedIn([aPod(gated)], now)).toHaveLength(1);
  });
});

test('a cluster without rekindle says what is missing, and nothing is made in it', async () => {
  const cluster = new FakeCluster();
  cluster.paths.set('/api/v1', { resources: [] });

  const facts = await examineCluster({ cluster, namespace: 'rekindle', nowMs: Date.now() }, signal);

  const failed = facts.filter(({ level }) => level === 'fail').map(({ group, name }) => `${group}: ${name}`);
  expect(failed).toEqual(
    expect.arrayContaining(['rekindle: agents', 'rekindle: gateway', 'webhook: configuration', 'webhook: answer', 'rights: pod security']),
  );
  expect(cluster.deeds.filter((deed) => !/dryRun|subjectaccessreviews/.test(deed))).toEqual([]);
});

test('an API server that is away is an error, not a list of guesses', async () => {
  const cluster = new FakeCluster();
  cluster.up = false;

  await expect(examineCluster({ cluster, namespace: 'rekindle', nowMs: 0 }, signal)).rejects.toMatchObject({ code: 'cluster_unavailable' });
});
