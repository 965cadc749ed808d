import type { V1Volume } from '@kubernetes/client-node';
import { describe, expect, test } from 'vitest';
import type { Pod, PodContainer, PodSpec } from '../../../../src/cluster/kinds.ts';
import { imageOfInterest, inject } from '../../../../src/cluster/webhook/inject.ts';
import { anInjection, aPod, injected } from './builders.ts';

describe('a slot', () => {
  test('carries the whole command of its container', () => {
    const { container } = injected(aPod({ command: ['python3', '-m', 'app'], args: ['--port', '80'] }));

    expect(container.command).toEqual(['/rekindle/slot', 'python3', '-m', 'app']);
    expect(container.args).toEqual(['--port', '80']);
  });

  test('carries what the image would have run, with the dollars that Kubernetes would take away', () => {
    const image = { entrypoint: ['/bin/sh', '-c', 'echo $$ $(HOME)'], cmd: ['$x'] };

    const { container } = injected(aPod({ command: [] }), { image });

    expect(container.command).toEqual(['/rekindle/slot', '/bin/sh', '-c', 'echo $$$$ $$(HOME)']);
    expect(container.args).toEqual(['$$x']);
  });

  test('takes arguments of the pod instead of those of the image', () => {
    const { container } = injected(aPod({ command: [], args: ['serve'] }), { image: { entrypoint: ['/app'], cmd: ['help'] } });

    expect([container.command, container.args]).toEqual([['/rekindle/slot', '/app'], ['serve']]);
  });

  test('keeps everything else of the pod: users, hooks, sidecars, init containers, volumes', () => {
    const container: Partial<PodContainer> = {
      securityContext: { runAsUser: 7, readOnlyRootFilesystem: true, capabilities: { drop: ['ALL'] } },
      lifecycle: { preStop: { exec: { command: ['sleep', '1'] } } },
      envFrom: [{ secretRef: { name: 's' } }],
      volumeMounts: [{ name: 'data', mountPath: '/data' }],
      resources: { limits: { cpu: '1' } },
    };
    const spec: Partial<PodSpec> = {
      initContainers: [
        { name: 'first', image: 'i' },
        { name: 'proxy', image: 'p', restartPolicy: 'Always' },
      ],
      volumes: [{ name: 'data', emptyDir: {} }],
      securityContext: { fsGroup: 9 },
      serviceAccountName: 'web',
      readinessGates: [{ conditionType: 'lb/ready' }],
    };

    const slot = injected(aPod(container, spec));

    expect(slot.container).toMatchObject({ ...container, volumeMounts: expect.arrayContaining(container.volumeMounts ?? []) });
    expect(slot.container.securityContext?.seccompProfile).toEqual({ type: 'RuntimeDefault' });
    expect(slot.spec).toMatchObject({ initContainers: spec.initContainers, securityContext: { fsGroup: 9 }, serviceAccountName: 'web' });
    expect(slot.spec.readinessGates).toEqual([{ conditionType: 'lb/ready' }, { conditionType: 'rekindle.dev/ready' }]);
    expect(slot.spec.volumes).toEqual([{ name: 'data', emptyDir: {} }, expect.objectContaining({ name: 'rekindle' })]);
    expect(slot.pod.metadata?.labels).toMatchObject({ app: 'web', 'rekindle.dev/state': 'waiting' });
  });

  test('is told where its agent is and who it is, before what the user says', () => {
    const { container } = injected(aPod({ env: [{ name: 'MODE', value: 'fast' }] }));

    expect(container.env?.map(({ name, value, valueFrom }) => [name, value ?? valueFrom?.fieldRef?.fieldPath])).toEqual([
      ['REKINDLE_HOST_IP', 'status.hostIP'],
      ['REKINDLE_AGENT', 'tcp:$(REKINDLE_HOST_IP):7654'],
      ['REKINDLE_POD_UID', 'metadata.uid'],
      ['REKINDLE_CONTAINER', 'app'],
      ['REKINDLE_RESTORE_MS', '25000'],
      ['REKINDLE_PRELOAD', '1'],
      ['MODE', 'fast'],
    ]);
  });

  test('comes from an image volume where there are such, else from an init container that fits the restricted level', () => {
    const withVolume = injected(aPod());
    const without = injected(aPod({}, { initContainers: [{ name: 'first', image: 'i' }] }), {
      files: { slotImage: 'example.org/slot:1', imageVolumes: false },
    });

    expect(withVolume.spec.volumes).toEqual([{ name: 'rekindle', image: { reference: 'example.org/slot:1', pullPolicy: 'IfNotPresent' } }]);
    expect(withVolume.spec.initContainers).toBeUndefined();
    expect(without.spec.volumes).toEqual([{ name: 'rekindle', emptyDir: {} }]);
    expect(without.spec.initContainers?.map(({ name }) => name)).toEqual(['rekindle-slot', 'first']);
    expect(without.spec.initContainers?.[0]).toMatchObject({
      command: ['/slot', '--install', '/rekindle'],
      securityContext: { runAsNonRoot: true, allowPrivilegeEscalation: false, capabilities: { drop: ['ALL'] } },
    });
    for (const { container } of [withVolume, without])
      expect(container.volumeMounts).toEqual([{ name: 'rekindle', mountPath: '/rekindle', readOnly: true }]);
  });

  test('has a seccomp profile of its own only where nobody chose one', () => {
    const ofPod = injected(aPod({}, { securityContext: { seccompProfile: { type: 'Localhost', localhostProfile: 'p' } } }));
    const unconfined = injected(aPod({ securityContext: { seccompProfile: { type: 'Unconfined' } } }));

    expect(ofPod.container.securityContext).toBeUndefined();
    expect(unconfined.container.securityContext).toEqual({ seccompProfile: { type: 'Unconfined' } });
    expect(unconfined.warnings).toEqual([expect.stringContaining('Unconfined')]);
    expect(unconfined.description.container.seccomp).toBe('unconfined');
  });

  test('stays as it is in a second pass, and gets back what another webhook took', () => {
    const pod = aPod({ readinessProbe: { tcpSocket: { port: 80 }, periodSeconds: 5 }, env: [{ name: 'A', value: 'b' }] });
    const first = injected(pod).pod;
    const spec = first.spec as PodSpec;
    const sidecar = { name: 'proxy', image: 'p' };
    const changed: Pod = {
      ...first,
      metadata: { ...first.metadata, annotations: { ...first.metadata?.annotations, 'rekindle.dev/container': 'app' } },
      spec: { ...spec, readinessGates: [], containers: [sidecar, ...spec.containers.map(({ env: _, ...rest }) => ({ ...rest, env: [] }))] },
    };

    const second = injected(first).pod;
    const repaired = injected(changed);

    expect(second).toEqual(first);
    expect(repaired.spec.containers[0]).toEqual(sidecar);
    expect(repaired.container.env?.map(({ name }) => name)).toContain('REKINDLE_AGENT');
    expect(repaired.container.readinessProbe).toMatchObject({ periodSeconds: 1, failureThreshold: 15 });
    expect(repaired.spec.readinessGates).toEqual([{ conditionType: 'rekindle.dev/ready' }]);
  });
});

describe('of several containers', () => {
  test('the slot of an earlier pass is the slot, although a sidecar has come and nobody names one', () => {
    const { pod, spec } = injected(aPod());
    const joined = injected({ ...pod, spec: { ...spec, readinessGates: [], containers: [{ name: 'proxy' }, ...spec.containers] } });

    expect(joined.container.name).toBe('app');
    expect(joined.spec.readinessGates).toEqual([{ conditionType: 'rekindle.dev/ready' }]);
  });

  const two = (annotations: Record<string, string>) =>
    aPod({}, { containers: [{ name: 'proxy' }, { name: 'app', command: ['app'] }] }, annotations);

  test.each([
    ['rekindle.dev/container', 'app'],
    ['kubectl.kubernetes.io/default-container', 'app'],
  ])('the one that annotation %s names is the slot', (annotation, name) => {
    const { container, spec } = injected(two({ [annotation]: name }));

    expect(container.name).toBe('app');
    expect(spec.containers[0]).toEqual({ name: 'proxy' });
  });

  test.each([
    [{}, 'it has several containers (proxy, app): name the one to restore by the annotation rekindle.dev/container'],
    [{ 'rekindle.dev/container': 'ap' }, 'annotation rekindle.dev/container names ap, but its containers are proxy, app'],
  ])('none is taken without one: %j', (annotations, reason) => {
    expect(inject(anInjection(two(annotations as Record<string, string>)))).toEqual({ outcome: 'left', reason });
  });
});

describe('left as it was is', () => {
  const cases: [string, Partial<PodSpec>, Partial<PodContainer>][] = [
    ['hostNetwork', { hostNetwork: true }, {}],
    ['hostPID', { hostPID: true }, {}],
    ['hostIPC', { hostIPC: true }, {}],
    ['shareProcessNamespace', { shareProcessNamespace: true }, {}],
    ['hostUsers', { hostUsers: false }, {}],
    ['runtimeClassName', { runtimeClassName: 'gvisor' }, {}],
    ['Windows', { os: { name: 'windows' } }, {}],
    ['privileged', {}, { securityContext: { privileged: true } }],
    ['procMount', {}, { securityContext: { procMount: 'Unmasked' } }],
    ['tty', {}, { tty: true }],
    ['stdin', {}, { stdin: true }],
    ['the device /dev/xvda', {}, { volumeDevices: [{ name: 'd', devicePath: '/dev/xvda' }] }],
    ['the device nvidia.com/gpu', {}, { resources: { limits: { 'nvidia.com/gpu': '1' } } }],
    ['the device claimed', {}, { resources: { claims: [{ name: 'claimed' }] } }],
    ['mountPropagation', {}, { volumeMounts: [{ name: 'd', mountPath: '/d', mountPropagation: 'HostToContainer' }] }],
    ['/rekindle is where', {}, { volumeMounts: [{ name: 'd', mountPath: '/rekindle/etc' }] }],
    ['its volume rekindle', { volumes: [{ name: 'rekindle', hostPath: { path: '/' } }] }, {}],
    ['its volume rekindle', { volumes: [{ name: 'rekindle', emptyDir: {} }] }, {}],
    ['names no command', {}, { command: [] }],
    ['runs /rekindle/slot already', {}, { command: ['/rekindle/slot', 'x'] }],
  ];

  test.each(cases)('a pod that cannot be one: %s', (word, spec, container) => {
    const result = inject(anInjection(aPod(container, spec)));

    expect(result).toEqual({ outcome: 'left', reason: expect.stringContaining(word) });
  });

  test('a pod of a Kubernetes that is too old', () => {
    expect(inject(anInjection(aPod(), { minorVersion: 29 }))).toEqual({ outcome: 'left', reason: 'Kubernetes 1.29 is older than 1.30' });
  });

  test('a pod whose image names no command either', () => {
    const result = inject(anInjection(aPod({ command: [] }), { image: { entrypoint: [], cmd: [] } }));

    expect(result).toEqual({ outcome: 'left', reason: 'neither container app nor its image shop/web:1 names a command' });
  });

  test('a pod with a policy that it cannot follow', () => {
    const pod = aPod({ securityContext: { readOnlyRootFilesystem: true } });

    const result = inject(anInjection(pod, { properties: 'cr.restore.identity=file' }));

    expect(result).toEqual({
      outcome: 'left',
      reason: expect.stringContaining('restore.identityFile is /tmp/rekindle-identity, which is on'),
    });
  });
});

describe('always cold, with the reason, is', () => {
  const job = aPod();
  const ofJob: Pod = {
    ...job,
    metadata: { ...job.metadata, ownerReferences: [{ apiVersion: 'batch/v1', kind: 'Job', name: 'migrate', uid: 'j', controller: true }] },
  };
  const mounting = (source: Omit<V1Volume, 'name'>) =>
    aPod({ volumeMounts: [{ name: 'd', mountPath: '/data' }] }, { volumes: [{ name: 'd', ...source }] });

  test.each([
    ['a pod of a Job', ofJob, 'cr.restore.jobs=true'],
    [
      'a pod with a writable persistent volume',
      mounting({ persistentVolumeClaim: { claimName: 'c' } }),
      'cr.restore.persistentVolumes=true',
    ],
    ['one with a claim of its own', mounting({ ephemeral: {} }), 'cr.restore.persistentVolumes=true'],
    ['one with an export', mounting({ nfs: { server: 's', path: '/' } }), 'cr.restore.persistentVolumes=true'],
    ["one with a directory of its node's", mounting({ hostPath: { path: '/srv' } }), 'cr.restore.persistentVolumes=true'],
  ])('%s, unless the policy allows clones', (_, pod, properties) => {
    expect(injected(pod).description.restore.cold).toContain(properties);
    expect(injected(pod).warnings).toEqual([expect.stringContaining('pods start cold: ')]);
    expect(injected(pod, { properties }).description.restore.cold).toBeUndefined();
  });

  test.each<Omit<V1Volume, 'name'>>([
    { emptyDir: {} },
    { configMap: { name: 'c' } },
    { secret: { secretName: 's' } },
    { projected: { sources: [] } },
    { downwardAPI: {} },
    { image: { reference: 'data:1' } },
    { nfs: { server: 's', path: '/', readOnly: true } },
  ])('not one with the volume %j', (source) => {
    expect(injected(mounting(source)).description.restore.cold).toBeUndefined();
  });

  test.each([
    [{ readOnly: true }, {}],
    [{}, { readOnly: true }],
  ])('not one whose persistent volume is only read: mount %j, claim %j', (mount, source) => {
    const pod = aPod(
      { volumeMounts: [{ name: 'd', mountPath: '/data', ...mount }] },
      { volumes: [{ name: 'd', persistentVolumeClaim: { claimName: 'c', ...source } }] },
    );

    expect(injected(pod).description.restore.cold).toBeUndefined();
  });

  test('one whose arguments are made of what differs per pod', () => {
    const env = [{ name: 'POD', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } }];

    expect(injected(aPod({ env, args: ['--name=$(POD)'] })).description.restore.cold).toBe(
      'its arguments hold $(POD), which differs per pod',
    );
    expect(injected(aPod({ env, args: ['--name=$$(POD)'] })).description.restore.cold).toBeUndefined();
  });
});

test('state that a pod would lose with its container is not promised, and that is told', () => {
  const { description, warnings } = injected(aPod(), { properties: 'cr.pool.stateful=true' });

  expect(description.pool.stateful).toBe(false);
  expect(warnings).toEqual([expect.stringContaining('cr.pool.stateful does nothing here')]);
});

test('an image has to be known only where the pod does not say what it runs', () => {
  expect(imageOfInterest(aPod())).toBeUndefined();
  expect(imageOfInterest(aPod({ command: [], args: ['x'], imagePullPolicy: 'Always' }))).toEqual({
    reference: 'shop/web:1',
    pullPolicy: 'Always',
  });
});
