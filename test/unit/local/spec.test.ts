import { expect, test } from 'vitest';
import { seccompProfile } from '../../../src/local/seccomp.ts';
import { commandOf, type ImageDefaults, ociSpec, type SpecInput } from '../../../src/local/spec.ts';
import type { ContainerSpec } from '../../../src/workloads/workload.ts';

const IMAGE: ImageDefaults = {
  entrypoint: ['/entry'],
  cmd: ['serve'],
  env: ['COLOUR=blue', 'PATH=/image/bin'],
  workdir: '/srv',
  user: undefined,
};

function aContainer(overrides: Partial<ContainerSpec> = {}): ContainerSpec {
  return {
    env: {},
    instanceEnv: {},
    readOnlyRoot: false,
    noNewPrivileges: true,
    seccomp: 'default',
    preload: false,
    volumes: [],
    ports: [],
    ...overrides,
  };
}

function anInput(container: Partial<ContainerSpec> = {}, overrides: Partial<SpecInput> = {}): SpecInput {
  return {
    uid: 'the-uid',
    name: 'web-1',
    workloadName: 'web',
    container: aContainer(container),
    restoreDeadlineSeconds: 10,
    image: IMAGE,
    user: { uid: 0, gid: 0, additionalGids: [], home: '/root' },
    address: '10.87.0.2',
    rootDir: '/state/root',
    netns: '/run/netns/x',
    cgroupVersion: 1,
    architecture: 'x64',
    slotDir: '/run/slot',
    etcDir: '/state/etc',
    volumes: [],
    ...overrides,
  };
}

test('the slot carries the whole command: the workload’s, else the image’s', () => {
  expect(ociSpec(anInput()).process.args).toEqual(['/rekindle/slot', '/entry', 'serve']);
  expect(ociSpec(anInput({ command: ['mine'] })).process.args).toEqual(['/rekindle/slot', 'mine']);
  expect(commandOf(aContainer(), { ...IMAGE, entrypoint: [], cmd: [] })).toEqual([]);
});

test('the workload’s environment goes before the image’s, and neither may speak for another container', () => {
  const { env } = ociSpec(anInput({ env: { COLOUR: 'red', REKINDLE_POD_UID: 'another' }, instanceEnv: { ME: 'name' } })).process;

  expect(env).toEqual(
    expect.arrayContaining([
      'COLOUR=red',
      'PATH=/image/bin',
      'HOME=/root',
      'ME=web-1',
      'REKINDLE_POD_UID=the-uid',
      'REKINDLE_CONTAINER=web',
    ]),
  );
  expect(new Set(env.map((entry) => entry.split('=')[0])).size).toBe(env.length);
});

test('the slot waits for a restore longer than its deadline and what follows a failure', () => {
  expect(ociSpec(anInput({}, { restoreDeadlineSeconds: 60.5 })).process.env).toContain('REKINDLE_RESTORE_MS=75500');
});

test('preloaded libraries come before the user’s', () => {
  const { env } = ociSpec(anInput({ preload: true, env: { LD_PRELOAD: '/a.so' } })).process;

  expect(env).toContain('LD_PRELOAD=/rekindle/entropy.so /a.so');
  expect(env).toContain('NODE_OPTIONS=--require=/rekindle/random-uuid.cjs');
});

test('root holds the usual capabilities, another user none but as a bound', () => {
  const asRoot = ociSpec(anInput()).process.capabilities;
  const asAnna = ociSpec(anInput({}, { user: { uid: 5, gid: 5, additionalGids: [], home: '/' } })).process.capabilities;

  expect(asRoot.effective).toContain('CAP_CHOWN');
  expect(asRoot.effective).not.toContain('CAP_SYS_ADMIN');
  expect(asAnna).toEqual({ bounding: asRoot.bounding, effective: [], permitted: [], inheritable: [], ambient: [] });
});

test('a cgroup namespace only on version 2', () => {
  const types = (version: 1 | 2) => ociSpec(anInput({}, { cgroupVersion: version })).linux.namespaces.map((namespace) => namespace.type);

  expect(types(1)).toEqual(['network', 'pid', 'mount', 'uts', 'ipc']);
  expect(types(2)).toContain('cgroup');
});

test('limits are given only where the workload has some', () => {
  expect(ociSpec(anInput()).linux.resources).toEqual({ devices: [{ allow: false, access: 'rwm' }] });
  expect(ociSpec(anInput({ memoryMiB: 64, cpus: 0.001, pids: 9 })).linux.resources).toMatchObject({
    memory: { limit: 67_108_864 },
    cpu: { quota: 1_000 },
    pids: { limit: 9 },
  });
});

test('outer volumes are mounted before those that lie in them', () => {
  const volumes = ['/a/b/c', '/a', '/a/b'].map((at) => ({ at, source: `/on-disk${at}`, readOnly: false }));

  const order = ociSpec(anInput({}, { volumes }))
    .mounts.map((mount) => mount.destination)
    .filter((at) => at.startsWith('/a'));

  expect(order).toEqual(['/a', '/a/b', '/a/b/c']);
});

test('io_uring is refused even to those who may do everything else', () => {
  const names = (capabilities: string[]) => seccompProfile(capabilities, 'x64').syscalls.flatMap((rule) => rule.names);

  expect(names(['CAP_SYS_ADMIN', 'CAP_BPF'])).toContain('io_uring_setup');
  expect(names(['CAP_SYS_ADMIN'])).not.toContain('mount');
  expect(names([])).toEqual(expect.arrayContaining(['mount', 'bpf', 'unshare', 'clone', 'clone3', 'keyctl']));
  expect(names([])).not.toContain('ptrace');
});

test('unconfined has no filter', () => {
  expect(ociSpec(anInput({ seccomp: 'unconfined' })).linux.seccomp).toBeUndefined();
});
