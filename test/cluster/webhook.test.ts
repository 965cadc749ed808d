import { randomUUID } from 'node:crypto';
import type { V1Pod } from '@kubernetes/client-node';
import { beforeAll, describe, expect, test } from 'vitest';
import { inject } from '../../src/cluster/webhook/inject.ts';
import { NO_SURROUNDINGS } from '../../src/cluster/webhook/on-demand.ts';
import { parsePolicyProperties } from '../../src/workloads/configmap.ts';
import { parseDescription } from '../../src/workloads/description.ts';
import { APPS, foreign, installed, kubectl } from './fixture/cluster.ts';
import { openInjector } from './fixture/injector.ts';
import { aNamespace } from './fixture/namespace.ts';
import { scaledOut } from './fixture/snapshots.ts';
import { aDeployment, asKind, aWho, PATIENT, PORT, propertiesOf, talkProperties, WHO_COMMAND } from './fixture/workloads.ts';

const space = aNamespace({ 'pod-security.kubernetes.io/warn': 'restricted' });
const SLEEP = ['sleep', '3600'];

beforeAll(() => installed());

/** The one pod of a Deployment, as the API server keeps it. */
const podOf = (name: string): Promise<V1Pod> => space.until(`the pod of ${name}`, async () => (await space.podsOf(`app=${name}`))[0]);
const appOf = (pod: V1Pod) => pod.spec?.containers.find(({ name }) => name === 'app');
const describedIn = (pod: V1Pod) => parseDescription(pod.metadata?.annotations?.['rekindle.dev/workload'] ?? '', 'the pod');
const environmentOf = (pod: V1Pod) => Object.fromEntries((appOf(pod)?.env ?? []).map(({ name, value }) => [name, value]));

describe('a pod with the label', () => {
  test('is a slot that carries its command, described in an annotation, with the policy of its ConfigMap', async () => {
    await space.apply(talkProperties('talk'), aDeployment({ name: 'plain', properties: 'talk', command: SLEEP }));

    const pod = await podOf('plain');

    expect(appOf(pod)).toMatchObject({
      command: ['/rekindle/slot', ...SLEEP],
      readinessProbe: { periodSeconds: 1, failureThreshold: 15 },
      securityContext: { seccompProfile: { type: 'RuntimeDefault' } },
    });
    expect(environmentOf(pod)).toMatchObject({ REKINDLE_AGENT: 'tcp:$(REKINDLE_HOST_IP):7654', REKINDLE_CONTAINER: 'app' });
    expect(pod.spec?.readinessGates).toEqual([{ conditionType: 'rekindle.dev/ready' }]);
    expect(describedIn(pod)).toMatchObject({
      checkpoint: { name: 'checkpoint', directory: 'demo' },
      container: { ports: [PORT], readiness: `curl -s -f -o /dev/null localhost:${PORT}/healthz` },
    });
  });

  test('that names no command carries what its image runs, as a node or the registry knows', async () => {
    await space.apply(aDeployment({ name: 'silent' }));

    const pod = await podOf('silent');

    expect(appOf(pod)).toMatchObject({ command: ['/rekindle/slot'], args: ['/app/node/start'] });
    await space.untilReady('app=silent');
  });

  test('works in a namespace of the restricted level, also where the slot has to be copied', async () => {
    const restricted = {
      allowPrivilegeEscalation: false,
      runAsNonRoot: true,
      runAsUser: 1000,
      capabilities: { drop: ['ALL'] },
      seccompProfile: { type: 'RuntimeDefault' },
    };
    const pod = {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name: 'copied', namespace: space.name, labels: { app: 'copied' } },
      spec: { containers: [{ name: 'app', image: APPS, command: SLEEP, securityContext: restricted }] },
    };
    const { spec: ofPlain } = await podOf('plain');
    const slotImage = ofPlain?.volumes?.find(({ name }) => name === 'rekindle')?.image?.reference ?? '';
    await kubectl(['label', 'namespace', space.name, 'pod-security.kubernetes.io/enforce=restricted']);
    try {
      const policy = parsePolicyProperties('', '');
      const files = { slotImage, imageVolumes: false };
      const copied = inject({ pod, policy, image: undefined, surroundings: NO_SURROUNDINGS, files, minorVersion: 30 });
      if (copied.outcome === 'left') throw new Error(copied.reason);
      // Nobody of rekindle's looks after it.
      await space.apply({ ...copied.pod, spec: { ...copied.pod.spec, readinessGates: [] } });
      await space.apply(
        aDeployment({ name: 'mounted', command: SLEEP, container: { securityContext: restricted, readinessProbe: undefined } }),
      );

      const mounted = await podOf('mounted');
      const [ready] = await space.untilReady('app=copied');

      expect(appOf(mounted)?.command?.[0]).toBe('/rekindle/slot');
      expect(ready?.spec?.initContainers?.map(({ name }) => name)).toEqual(['rekindle-slot']);
      expect(await space.kubectl('exec', 'copied', '--', 'ls', '/rekindle')).toContain('entropy.so');
    } finally {
      await kubectl(['label', 'namespace', space.name, 'pod-security.kubernetes.io/enforce-']);
    }
  });
});

describe('left as it was, with the reason as an event on its owner, is', () => {
  test('a pod that cannot be restored; who applies its Deployment is warned, and not denied', async () => {
    const deployment = aDeployment({ name: 'shared', command: SLEEP, pod: { shareProcessNamespace: true } });

    const asErrors = ['-n', space.name, 'apply', '-f', '-', '--dry-run=server', '--warnings-as-errors'];
    const said = await kubectl(asErrors, { input: JSON.stringify(deployment) }).catch(String);
    await space.apply(deployment);
    const pod = await podOf('shared');

    expect(said).toContain('Warning: rekindle: its pods will be left as they are: shareProcessNamespace is set');
    expect(appOf(pod)?.command).toEqual(SLEEP);
    expect(pod.spec?.readinessGates).toBeUndefined();
    expect(await space.untilEvent('shared', 'NotRestorable: ')).toContain('shareProcessNamespace');
  });

  test.each(['StatefulSet', 'DaemonSet'] as const)('what a %s makes: who applies it is warned', async (kind) => {
    const object = asKind(kind, aDeployment({ name: 'owned', command: SLEEP, pod: { hostPID: true } }));
    const asErrors = ['-n', space.name, 'apply', '-f', '-', '--dry-run=server', '--warnings-as-errors'];

    const said = await kubectl(asErrors, { input: JSON.stringify(object) }).catch(String);

    expect(said).toContain('Warning: rekindle: its pods will be left as they are: hostPID is set');
  });

  test('a pod whose ConfigMap is not there, or says what makes no sense', async () => {
    const wrong = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'wrong' }, data: { 'cr-properties': 'cr.checkpoint.nmae=x' } };
    await space.apply(
      wrong,
      aDeployment({ name: 'without', properties: 'nothing', command: SLEEP }),
      aDeployment({ name: 'garbled', properties: 'wrong', command: SLEEP }),
    );

    expect(await space.untilEvent('without', 'NotRestorable: ')).toContain(`there is no ConfigMap ${space.name}/nothing`);
    expect(await space.untilEvent('garbled', 'NotRestorable: ')).toContain('did you mean `cr.checkpoint.name`?');
    expect(appOf(await podOf('without'))?.command).toEqual(SLEEP);
    expect(appOf(await podOf('garbled'))?.command).toEqual(SLEEP);
  });

  test.each(['kube-system', 'rekindle'])('a pod of the namespace %s', async (namespace) => {
    const { spec } = aDeployment({ name: 'never', command: SLEEP }) as { spec: { template: { metadata: object; spec: object } } };
    const pod = { apiVersion: 'v1', kind: 'Pod', ...spec.template, metadata: { ...spec.template.metadata, name: 'never' } };

    const dry = ['-n', namespace, 'create', '-f', '-', '--dry-run=server', '-o', 'json'];
    const made = JSON.parse(await kubectl(dry, { input: JSON.stringify(pod) })) as V1Pod;

    expect(appOf(made)?.command).toEqual(SLEEP);
    expect(made.spec?.readinessGates).toBeUndefined();
  });

  test('a pod without the label', async () => {
    await space.apply(aDeployment({ name: 'other', command: SLEEP, enabled: false }));

    const pod = await podOf('other');

    expect(appOf(pod)?.command).toEqual(SLEEP);
    expect(Object.keys(pod.metadata?.annotations ?? {})).toEqual([]);
  });
});

describe.skipIf(foreign)('a sidecar injector', () => {
  test.each(['a-first', 'z-last'])('%s and the webhook leave each other what they wrote, and pods are restored', {
    timeout: 400_000,
  }, async (configuration) => {
    const name = `sidecar-${configuration}`;
    await using _injector = await openInjector(space.kube, { configuration, namespace: space.name, app: name });
    await space.apply(
      propertiesOf('ignoring', [...PATIENT, 'cr.restore.identity=ignore']),
      aWho(name, { properties: 'ignoring', annotations: { 'rekindle.dev/container': 'app' } }),
    );

    const pod = await podOf(name);

    expect(pod.spec?.containers.map((container) => container.name).sort()).toEqual(['app', 'injected']);
    expect(appOf(pod)?.command).toEqual(['/rekindle/slot', ...WHO_COMMAND]);
    expect(pod.spec?.containers.find((container) => container.name === 'injected')?.command).toEqual(SLEEP);
    const variables = (appOf(pod)?.env ?? []).map((variable) => variable.name);
    expect(new Set(variables).size).toBe(variables.length);
    expect(environmentOf(pod)).toMatchObject({ INJECTED: 'yes', REKINDLE_CONTAINER: 'app' });
    expect(describedIn(pod).container.instanceEnv).toEqual({ INJECTED_IP: 'address' });
    expect(pod.spec?.volumes?.filter((volume) => volume.name === 'rekindle')).toHaveLength(1);
    expect((await scaledOut(space, name, 2)).clones).toHaveLength(1);
  });
});

describe('pods that are to park', () => {
  const requests = { cpu: '10m', memory: '32Mi' };
  const onDemand = (name: string) =>
    aDeployment({ name, command: SLEEP, annotations: { 'rekindle.dev/mode': 'on-demand' }, container: { resources: { requests } } });

  test('have a slot that knows it, and where to answer probes', async () => {
    await space.apply(onDemand('parking'));

    expect(environmentOf(await podOf('parking'))).toMatchObject({ REKINDLE_MODE: 'on-demand', REKINDLE_PARKED_PORTS: String(PORT) });
    expect((await space.eventsOf('parking')).filter((event) => event.startsWith('RestoreLimited'))).toEqual([]);
  });

  test('do not where an autoscaler looks at their use, and their owner is told', async () => {
    const target = { type: 'Utilization', averageUtilization: 50 };
    const autoscaler = {
      apiVersion: 'autoscaling/v2',
      kind: 'HorizontalPodAutoscaler',
      metadata: { name: 'by-use' },
      spec: {
        scaleTargetRef: { apiVersion: 'apps/v1', kind: 'Deployment', name: 'scaled' },
        maxReplicas: 2,
        metrics: [{ type: 'Resource', resource: { name: 'cpu', target } }],
      },
    };

    await space.apply(autoscaler, onDemand('scaled'));

    expect(await space.untilEvent('scaled', 'RestoreLimited: ')).toContain('HorizontalPodAutoscaler by-use');
    expect(environmentOf(await podOf('scaled'))).not.toHaveProperty('REKINDLE_MODE');
    expect(appOf(await podOf('scaled'))?.command?.[0]).toBe('/rekindle/slot');
  });

  test('are told of a Service that finds them parked', async () => {
    const service = {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name: 'blind' },
      spec: { selector: { app: 'seen' }, ports: [{ port: 80 }] },
    };
    await space.apply(service);
    const asErrors = ['-n', space.name, 'apply', '-f', '-', '--dry-run=server', '--warnings-as-errors'];

    const said = await kubectl(asErrors, { input: JSON.stringify(onDemand('seen')) }).catch(String);
    await space.apply(onDemand('seen'));

    expect(said).toContain('Service blind selects parked pods too');
    expect(await space.untilEvent('seen', 'RestoreLimited: ')).toContain('add rekindle.dev/state: live to its selector');
  });

  test('count against a quota, and their owner is told what that means', async () => {
    const quota = { apiVersion: 'v1', kind: 'ResourceQuota', metadata: { name: 'team' }, spec: { hard: { 'requests.cpu': '50' } } };
    await space.apply(quota);
    try {
      await space.apply(onDemand('counted'));

      expect(await space.untilEvent('counted', 'RestoreLimited: ')).toContain('ResourceQuota team');
    } finally {
      await space.kubectl('delete', 'resourcequota', 'team');
    }
  });
});

test('a pod of a Job is a slot that starts cold, unless the policy says otherwise', async () => {
  const job = (name: string, annotations: object) => ({
    apiVersion: 'batch/v1',
    kind: 'Job',
    metadata: { name },
    spec: {
      template: {
        metadata: { labels: { app: name, 'rekindle.dev/enabled': 'true' }, annotations },
        spec: { restartPolicy: 'Never', containers: [{ name: 'app', image: APPS, command: ['true'] }] },
      },
    },
  });
  const allowed = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'jobs' }, data: { 'cr-properties': 'cr.restore.jobs=true' } };

  await space.apply(allowed, job('once', {}), job('again', { 'rekindle.dev/properties': 'jobs' }));

  expect(describedIn(await podOf('once')).restore.cold).toContain('Job once');
  expect(describedIn(await podOf('again')).restore.cold).toBeUndefined();
  for (const name of ['once', 'again']) await space.kubectl('wait', '--for=condition=complete', `job/${name}`, '--timeout=60s');
});

test('a dry run tells nobody', async () => {
  const owner = { apiVersion: 'apps/v1', kind: 'ReplicaSet', name: 'dry', uid: randomUUID(), controller: true };
  const pod = (spec: object, container: object) =>
    JSON.stringify({
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { generateName: 'dry-', namespace: space.name, labels: { 'rekindle.dev/enabled': 'true' }, ownerReferences: [owner] },
      spec: { ...spec, containers: [{ name: 'app', image: APPS, command: SLEEP, ...container }] },
    });

  await kubectl(['create', '-f', '-', '--dry-run=server'], { input: pod({ shareProcessNamespace: true }, {}) });
  await kubectl(['create', '-f', '-'], { input: pod({}, { stdin: true }) });
  await space.untilEvent('dry', 'NotRestorable: ');

  expect(await space.eventsOf('dry')).toEqual([expect.stringContaining('stdin')]);
});

test('a gate that nobody decides about opens after its deadline', async () => {
  const workload = JSON.stringify({ ...describedIn(await podOf('plain')), checkpoint: { gateDeadlineSeconds: 2 } });
  const pod = {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name: 'gated',
      namespace: space.name,
      labels: { app: 'gated', 'rekindle.dev/enabled': 'true' },
      annotations: { 'rekindle.dev/workload': workload },
    },
    // Refused, and so unknown to agents.
    spec: {
      shareProcessNamespace: true,
      readinessGates: [{ conditionType: 'rekindle.dev/ready' }],
      containers: [{ name: 'app', image: APPS, command: SLEEP }],
    },
  };

  await space.apply(pod);
  const [ready] = await space.untilReady('app=gated', 1, 20_000);

  const condition = ready?.status?.conditions?.find(({ type }) => type === 'rekindle.dev/ready');
  expect(condition).toMatchObject({ status: 'True', reason: 'DeadlinePassed' });
});

test('a gate of a pod whose description somebody garbled opens at once, and an event says what is wrong', async () => {
  const pod = {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name: 'scrambled',
      namespace: space.name,
      labels: { app: 'scrambled', 'rekindle.dev/enabled': 'true' },
      annotations: { 'rekindle.dev/workload': '{' },
    },
    // Refused, so that the webhook leaves what somebody wrote.
    spec: {
      shareProcessNamespace: true,
      readinessGates: [{ conditionType: 'rekindle.dev/ready' }],
      containers: [{ name: 'app', image: APPS, command: SLEEP }],
    },
  };

  await space.apply(pod);
  // The deadline is thirty.
  const [ready] = await space.untilReady('app=scrambled', 1, 20_000);

  const condition = ready?.status?.conditions?.find(({ type }) => type === 'rekindle.dev/ready');
  expect(condition).toMatchObject({ status: 'True', reason: 'ColdStarted', message: expect.stringContaining('is not JSON') });
  expect(await space.untilEvent('scrambled', 'ColdStarted: ')).toContain('rekindle.dev/workload is not valid');
});
