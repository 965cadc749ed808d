import fc from 'fast-check';
import { expect, test } from 'vitest';
import { parseRekindleFile } from '../../../src/workloads/file.ts';
import { policyFactsOf, type SpecFacts, specHash, withoutPerPodNames } from '../../../src/workloads/spec-hash.ts';

const key = Buffer.from('a key of this machine');

function policy(extra = '') {
  const [spec] = parseRekindleFile(`workloads: {web: {container: {image: "docker://x", readiness: "true"${extra}}}}`, 'rekindle.yaml');
  if (!spec) throw new Error('no workload');
  return policyFactsOf(spec);
}

function facts(changes: Partial<SpecFacts> = {}): SpecFacts {
  return {
    namespace: 'shop',
    workload: 'web',
    serviceAccount: 'default',
    imageDigest: 'sha256:1',
    argv: ['node', 'server.js'],
    workdir: '/',
    env: { A: '1', B: '2', C: '3' },
    configDigests: { '/etc/app': 'sha256:2' },
    mounts: [
      { at: '/data', kind: 'private', fileSystem: 'ext4', options: ['rw', 'nosuid'] },
      { at: '/etc/app', kind: 'shared', fileSystem: 'tmpfs', options: ['ro'] },
    ],
    uid: 1000,
    gid: 1000,
    groups: [1, 2],
    capabilities: { CapEff: '0' },
    noNewPrivileges: true,
    seccomp: 'default',
    lsmLabel: '',
    readOnlyRoot: false,
    sysctls: {},
    policy: policy(),
    ...changes,
  };
}

test('the order of variables, mounts, options and groups does not matter', () => {
  const shuffled = <T>(list: readonly T[]) => fc.shuffledSubarray([...list], { minLength: list.length });
  const base = facts();

  fc.assert(
    fc.property(
      shuffled(Object.entries(base.env)),
      shuffled(base.mounts),
      shuffled(['rw', 'nosuid']),
      shuffled(Object.entries(base)),
      (env, mounts, options, order) => {
        const same = {
          ...Object.fromEntries(order),
          ...facts({ env: Object.fromEntries(env), groups: [2, 1], mounts: mounts.map((m) => (m.at === '/data' ? { ...m, options } : m)) }),
        };

        expect(specHash(key, same)).toBe(specHash(key, base));
      },
    ),
  );
});

test.each<[string, Partial<SpecFacts>]>([
  ['namespace', { namespace: 'other' }],
  ['service account', { serviceAccount: 'other' }],
  ['image', { imageDigest: 'sha256:3' }],
  ['order of arguments', { argv: ['server.js', 'node'] }],
  ['working directory', { workdir: '/app' }],
  ['variable', { env: { A: '1', B: '2', C: '4' } }],
  ['configuration', { configDigests: { '/etc/app': 'sha256:4' } }],
  ['mount option', { mounts: facts().mounts.map((mount) => ({ ...mount, options: ['ro'] })) }],
  ['number of mounts', { mounts: facts().mounts.slice(1) }],
  ['user', { uid: 0 }],
  ['group', { gid: 0 }],
  ['groups', { groups: [1] }],
  ['capabilities', { capabilities: { CapEff: '400' } }],
  ['no new privileges', { noNewPrivileges: false }],
  ['seccomp', { seccomp: 'unconfined' }],
  ['LSM label', { lsmLabel: 'cri-containerd' }],
  ['read-only root', { readOnlyRoot: true }],
  ['sysctls', { sysctls: { 'net.core.somaxconn': '1' } }],
  ['memory limit', { memoryBytes: 1 }],
  ['CPU limit', { cpus: 0.5 }],
  ['process limit', { pids: 10 }],
  ['warm-up', { policy: policy(', warmup: "curl x"') }],
])('another %s is another hash', (_what, change) => {
  expect(specHash(key, facts(change))).not.toBe(specHash(key, facts()));
});

test('any change of a variable is another hash, and so is another key', () => {
  const env = fc.dictionary(fc.string(), fc.string(), { noNullPrototype: true });

  fc.assert(
    fc.property(env, env, (a, b) => {
      const equal = JSON.stringify(Object.entries(a).sort()) === JSON.stringify(Object.entries(b).sort());

      expect(specHash(key, facts({ env: a })) === specHash(key, facts({ env: b }))).toBe(equal);
    }),
  );
  expect(specHash(Buffer.from('other'), facts())).not.toBe(specHash(key, facts()));
  expect(specHash(key, facts())).toMatch(/^[0-9a-f]{64}$/);
});

test('names that differ per pod do not count', () => {
  const own = { PATH: '/bin', DB_PORT: '5432', CACHE_SERVICE_HOST: 'cache', CACHE_SERVICE_PORT: '1' };
  const link = {
    WEB_SERVICE_HOST: '10.0.0.1',
    WEB_SERVICE_PORT: '80',
    WEB_SERVICE_PORT_HTTP: '80',
    WEB_PORT: 'tcp://10.0.0.1:80',
    WEB_PORT_80_TCP: 'tcp://10.0.0.1:80',
    WEB_PORT_80_TCP_ADDR: '10.0.0.1',
    V6_SERVICE_HOST: 'fd00::1',
    V6_SERVICE_PORT: '80',
    V6_PORT: 'tcp://[fd00::1]:80',
  };
  const perPod = {
    HOSTNAME: 'web-1',
    REKINDLE_POD_UID: 'u',
    REKINDLE_CONTAINER: 'c',
    REKINDLE_AGENT: 'tcp:10.0.0.2:7654',
    MY_IP: '10.1.1.1',
  };

  expect(withoutPerPodNames({ ...own, ...link, ...perPod }, ['MY_IP'])).toEqual(own);
});
