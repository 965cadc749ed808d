import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { V1Container, V1Pod, V1PodSpec, V1VolumeMount } from '@kubernetes/client-node';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { describeVolumes, resolveInside, volumesOf, whyFilled } from '../../../src/cluster/volumes.ts';

const app = (...volumeMounts: readonly V1VolumeMount[]): V1Container => ({ name: 'app', volumeMounts: [...volumeMounts] });
const aPod = (container: V1Container, spec: Partial<V1PodSpec> = {}): V1Pod => ({ spec: { containers: [container], ...spec } });
const scratch = { volumes: [{ name: 'scratch', emptyDir: {} }] };
const kindOf = (container: V1Container, spec: Partial<V1PodSpec>) => describeVolumes(aPod(container, spec), container)[0]?.kind;

describe('an emptyDir of one container alone is private', () => {
  const mount = { name: 'scratch', mountPath: '/scratch' };

  test('on disk and in memory', () => {
    const container = app(mount, { name: 'memory', mountPath: '/memory/' });
    const volumes = [
      { name: 'scratch', emptyDir: {} },
      { name: 'memory', emptyDir: { medium: 'Memory' } },
    ];

    expect(describeVolumes(aPod(container, { volumes }), container)).toEqual([
      { at: '/scratch', kind: 'private' },
      { at: '/memory', kind: 'private' },
    ]);
  });

  test("of the pod's fsGroup, where it has one", () => {
    const spec = { ...scratch, securityContext: { fsGroup: 0 } };

    expect(describeVolumes(aPod(app(mount), spec), app(mount))).toEqual([{ at: '/scratch', kind: 'private', group: 0 }]);
  });

  const other = { name: 'other', volumeMounts: [{ name: 'scratch', mountPath: '/elsewhere' }] };
  test.each<[string, V1Container, Partial<V1PodSpec>]>([
    ['another container mounts it', app(mount), { ...scratch, containers: [app(mount), other] }],
    ['an init container could have written to it', app(mount), { ...scratch, initContainers: [other] }],
    ['a sidecar mounts it', app(mount), { ...scratch, initContainers: [{ ...other, restartPolicy: 'Always' }] }],
    ['a debugger mounts it', app(mount), { ...scratch, ephemeralContainers: [other] }],
    ['it is mounted twice', app(mount, { name: 'scratch', mountPath: '/again' }), scratch],
    ['only a part of it is mounted', app({ ...mount, subPath: 'part' }), scratch],
    ['only a part of it is mounted, by name of the pod', app({ ...mount, subPathExpr: '$(POD_NAME)' }), scratch],
    ['it cannot be written', app({ ...mount, readOnly: true }), scratch],
    ['it is made of huge pages', app(mount), { volumes: [{ name: 'scratch', emptyDir: { medium: 'HugePages-2Mi' } }] }],
    ['it is no emptyDir', app(mount), { volumes: [{ name: 'scratch', persistentVolumeClaim: { claimName: 'data' } }] }],
    ['it is on the node', app(mount), { volumes: [{ name: 'scratch', hostPath: { path: '/data' } }] }],
    ['it dies with the pod but is a persistent volume', app(mount), { volumes: [{ name: 'scratch', ephemeral: {} }] }],
  ])('not where %s', (_, container, spec) => {
    expect(kindOf(container, spec)).toBe('shared');
  });
});

test('tokens and what a pod is called do not tell two pods apart, configuration does', () => {
  const token = { projected: { sources: [{ serviceAccountToken: { path: 'token' } }, { configMap: { name: 'kube-root-ca.crt' } }] } };
  const volumes = [
    { name: 'token', ...token },
    { name: 'about', downwardAPI: { items: [] } },
    { name: 'config', configMap: { name: 'config' } },
    { name: 'both', projected: { sources: [{ configMap: { name: 'config' } }] } },
  ];
  const container = app(...volumes.map(({ name }) => ({ name, mountPath: `/${name}`, readOnly: true })));

  expect(describeVolumes(aPod(container, { volumes }), container)).toEqual([
    { at: '/token', kind: 'shared', perInstance: true },
    { at: '/about', kind: 'shared', perInstance: true },
    { at: '/config', kind: 'shared' },
    { at: '/both', kind: 'shared' },
  ]);
});

test('what the kubelet did not write for the pod has the name that the pod says, and the part of it, and may be elsewhere', () => {
  const volumes = [
    { name: 'claim', persistentVolumeClaim: { claimName: 'models', readOnly: true } },
    { name: 'export', nfs: { server: 'files', path: '/models' } },
    { name: 'config', configMap: { name: 'config' } },
    { name: 'slot', image: { reference: 'slot' } },
  ];
  const mounts = [
    { name: 'claim', mountPath: '/a' },
    { name: 'claim', mountPath: '/b', subPath: 'part' },
    { name: 'export', mountPath: '/c' },
  ];
  const container = app(...mounts, { name: 'config', mountPath: '/d' }, { name: 'slot', mountPath: '/e' });

  const described = describeVolumes(aPod(container, { volumes }), container).map(({ identity, elsewhere }) => [identity, elsewhere]);

  expect(described).toEqual([
    ['{"persistentVolumeClaim":{"claimName":"models","readOnly":true}}', true],
    ['{"persistentVolumeClaim":{"claimName":"models","readOnly":true},"subPath":"part"}', true],
    ['{"nfs":{"server":"files","path":"/models"}}', true],
    [undefined, undefined],
    ['{"image":{"reference":"slot"}}', undefined],
  ]);
});

describe('in the container', () => {
  let root: string;
  beforeEach(() => {
    root = mkdtempSync(path.join(tmpdir(), 'rekindle-volumes-'));
  });
  afterEach(() => rmSync(root, { recursive: true }));

  test('links in the image lead to where a volume really is, and never out of it', () => {
    mkdirSync(path.join(root, 'var'));
    symlinkSync('/run', path.join(root, 'var/run'));
    symlinkSync('../../../../../etc', path.join(root, 'out'));
    symlinkSync('loop', path.join(root, 'loop'));

    expect(resolveInside(root, '/var/run/secrets/token', [])).toBe('/run/secrets/token');
    expect(resolveInside(root, '/out/passwd', [])).toBe('/etc/passwd');
    expect(resolveInside(root, '/loop/x', [])).toBe('/loop/x');
    expect(resolveInside(root, '/not/there', [])).toBe('/not/there');
  });

  test('what a server has is not looked at: it may not answer', () => {
    mkdirSync(path.join(root, 'nfs'));
    symlinkSync('/etc', path.join(root, 'nfs/link'));
    symlinkSync('/etc', path.join(root, 'nfsx'));

    expect(resolveInside(root, '/nfs/link/x', ['/nfs'])).toBe('/nfs/link/x');
    expect(resolveInside(root, '/nfsx/x', ['/nfs'])).toBe('/etc/x');
    expect(resolveInside(root, '/nfs/link/x', [])).toBe('/etc/x');
  });

  test('a volume is said to be where it really is', () => {
    mkdirSync(path.join(root, 'run'));
    symlinkSync(path.join(root, 'run'), path.join(root, 'link'));
    const container = app({ name: 'scratch', mountPath: path.join(root, 'link/scratch') });

    const [volume] = volumesOf(aPod(container, scratch), container, process.pid, []);

    expect(volume).toEqual({ at: path.join(root, 'run/scratch'), kind: 'private' });
  });

  test('an emptyDir that holds files before the application runs is a reason, which names it; an empty one and the places of others are none', () => {
    mkdirSync(path.join(root, 'scratch/config'), { recursive: true });
    const container = app(
      { name: 'scratch', mountPath: path.join(root, 'scratch') },
      { name: 'config', mountPath: path.join(root, 'scratch/config') },
    );
    const pod = aPod(container, { volumes: [...scratch.volumes, { name: 'config', configMap: { name: 'config' } }] });

    expect(whyFilled(pod, container, process.pid, [])).toBeUndefined();
    writeFileSync(path.join(root, 'scratch/made-by-init'), '');

    expect(whyFilled(pod, container, process.pid, [])).toMatch(/^its emptyDir scratch at .*\/scratch already holds files/);
    expect(whyFilled(pod, container, 2 ** 22 + 1, [])).toBeUndefined();
  });

  test("what is in other volumes, and in the slot's own, is no reason", () => {
    writeFileSync(path.join(root, 'slot'), '');
    const container = app({ name: 'rekindle', mountPath: root }, { name: 'data', mountPath: root });
    const volumes = [
      { name: 'rekindle', emptyDir: {} },
      { name: 'data', hostPath: { path: '/data' } },
    ];

    expect(whyFilled(aPod(container, { volumes }), container, process.pid, [])).toBeUndefined();
  });
});
