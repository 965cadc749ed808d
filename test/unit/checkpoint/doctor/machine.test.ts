import { describe, expect, test } from 'vitest';
import {
  clock,
  criuCheck,
  criuVersionFinding,
  gpu,
  hugePages,
  kernelVersion,
  memoryMerging,
} from '../../../../src/checkpoint/doctor/kernel.ts';
import { subnetFinding } from '../../../../src/checkpoint/doctor/network.ts';
import { capabilityFindings, openFilesLimit, ownFilter, securityModules, tracing } from '../../../../src/checkpoint/doctor/rights.ts';
import { freeDisk, memory } from '../../../../src/checkpoint/doctor/storage.ts';
import { nodeVersion, programFinding, runtimeFinding, versionIn } from '../../../../src/checkpoint/doctor/tools.ts';
import { wouldLoad } from '../../../../src/checkpoint/doctor/trial.ts';
import { factsText } from '../../../../src/commands/doctor.ts';
import { examine, ok } from '../../../../src/lib/fact.ts';

test('what cannot be found out is a fact, and the others are still told, in order', async () => {
  const facts = await examine('group', {
    broken: () => {
      throw new Error('no such file');
    },
    sound: async () => ok('sound', 'yes'),
  });

  expect(facts).toEqual([
    { group: 'group', name: 'broken', level: 'warn', says: 'could not be found out: no such file' },
    { group: 'group', name: 'sound', level: 'ok', says: 'yes' },
  ]);
});

describe('rights', () => {
  test('a missing CAP_SYS_RESOURCE is a warning, any other that matters a failure', () => {
    const all = capabilityFindings('CapEff:\t000001ffffffffff\n');
    const noResource = capabilityFindings('CapEff:\t000001fffeffffff\n');
    const docker = capabilityFindings('CapEff:\t00000000a80425fb\n');

    expect(all.map(({ level }) => level)).toEqual(['ok']);
    expect(noResource.map(({ name, level }) => `${level} ${name}`)).toEqual(['ok capabilities', 'warn CAP_SYS_RESOURCE']);
    expect(docker.filter(({ level }) => level === 'fail').map(({ name }) => name)).toEqual([
      'CAP_SYS_ADMIN',
      'CAP_SYS_PTRACE',
      'CAP_NET_ADMIN',
    ]);
  });

  test('a filter of our own, few files, forbidden tracing and security modules are told', () => {
    expect(ownFilter('Seccomp:\t2\n').level).toBe('warn');
    expect(ownFilter('Seccomp:\t0\n').level).toBe('ok');
    expect(openFilesLimit('Max open files            256                  512                  files\n').level).toBe('warn');
    expect(openFilesLimit('Max open files            1024                 unlimited            files\n').level).toBe('ok');
    expect(tracing('3\n').level).toBe('fail');
    expect(tracing('1\n').level).toBe('ok');
    expect(securityModules({ apparmor: 'Y\n', selinuxEnforce: '1' }).says).toContain('AppArmor and SELinux (enforcing)');
    expect(securityModules({ apparmor: '', selinuxEnforce: undefined }).level).toBe('ok');
  });
});

describe('kernel and CRIU', () => {
  test('old kernels and CRIUs fail, newer ones do not', () => {
    expect(['4.19.0-27-amd64', '5.8.0', '5.9.0', '6.1.0-37-amd64', '6.18.44'].map((version) => kernelVersion(version).level)).toEqual([
      'fail',
      'fail',
      'ok',
      'ok',
      'ok',
    ]);
    expect(['3.17.1', '4.1.1', '4.2', '4.2.1', '5.0'].map((version) => criuVersionFinding(version).level)).toEqual([
      'fail',
      'fail',
      'ok',
      'ok',
      'ok',
    ]);
  });

  test('of a failed criu check the first complaints are told, without the harmless one', () => {
    const output = [
      "Warn  (criu/kerndat.c:1): Can't setup RLIMIT_NOFILE for self",
      'Error (criu/cr-check.c:774): System is not fully capable',
      'Error (criu/cr-check.c:900): Kernel too old',
      'three',
    ].join('\n');

    const finding = criuCheck(1, output);

    expect(finding.level).toBe('fail');
    expect(finding.says).toBe('Error (criu/cr-check.c:774): System is not fully capable; Error (criu/cr-check.c:900): Kernel too old');
    expect(criuCheck(0, 'Looks good.').level).toBe('ok');
    expect(criuCheck(1, '').says).toContain('said nothing');
  });

  test('memory merging needs KSM and Linux 6.4', () => {
    expect(memoryMerging('6.18.44', '1\n').level).toBe('ok');
    expect(memoryMerging('6.18.44', '0\n').remedy).toContain('ksm/run');
    expect(memoryMerging('6.1.0', '0\n').level).toBe('warn');
    expect(memoryMerging('6.18.44', undefined).level).toBe('warn');
  });

  test('huge pages, GPUs and an impossible clock are told', () => {
    expect(hugePages('[always] madvise never\n').level).toBe('ok');
    expect(hugePages('always [madvise] never\n').says).toContain('only madvise');
    expect(hugePages(undefined).level).toBe('warn');
    expect(gpu(['null', 'nvidia0', 'nvidiactl']).says).toContain('/dev/nvidia0, /dev/nvidiactl');
    expect(gpu(['null', 'kvm']).level).toBe('ok');
    expect(clock(0, 'tsc\n').level).toBe('warn');
  });

  test('a module that is on the disk but not loaded would be loaded by trying it', () => {
    const dep = 'kernel/fs/overlayfs/overlay.ko.xz:\nkernel/net/bridge/bridge.ko: kernel/net/llc/llc.ko\n';

    expect(wouldLoad('overlay', '', dep)).toBe(true);
    expect(wouldLoad('bridge', 'bridge 311296 0 - Live 0x0\n', dep)).toBe(false);
    expect(wouldLoad('veth', '', dep)).toBe(false);
  });
});

describe('programs, disk and network', () => {
  test('versions are read from what programs print', () => {
    expect(versionIn('crun version 1.28\ncommit: 54f16ffbefcd')).toBe('1.28');
    expect(versionIn('runc version 1.3.6+ds1\ncommit: 1.3.6+ds1-1')).toBe('1.3.6+ds1');
    expect(versionIn('Redis server v=7.0.15 sha=00000000:0')).toBe('7.0.15');
    expect(versionIn('nothing')).toBe('?');
  });

  test('one runtime is enough, unless the other was asked for', () => {
    expect(runtimeFinding(undefined, '1.28', undefined).says).toBe('crun 1.28');
    expect(runtimeFinding(undefined, undefined, '1.3').says).toBe('runc 1.3');
    expect(runtimeFinding('runc', '1.28', undefined).level).toBe('fail');
    expect(runtimeFinding(undefined, undefined, undefined).level).toBe('fail');
  });

  test('a missing program says what does not work without it', () => {
    expect(programFinding('umoci', undefined, { level: 'warn', without: 'no images' })).toMatchObject({
      level: 'warn',
      says: 'not installed: no images',
    });
    expect(nodeVersion('22.1.0', 2).level).toBe('fail');
  });

  test('little disk warns, none fails; little memory warns', () => {
    expect([200 * 1024 ** 3, 1024 ** 3, 1024].map((bytes) => freeDisk('/state', bytes).level)).toEqual(['ok', 'warn', 'fail']);
    expect(memory('MemTotal:       24684096 kB\nMemAvailable:   23908484 kB\n').says).toBe('22.8 GiB of 23.5 GiB available');
    expect(memory('MemTotal:       24684096 kB\nMemAvailable:   100000 kB\n').level).toBe('warn');
    expect(memory('').level).toBe('warn');
  });

  test('a subnet that another interface is in is told; our own bridge is not another', () => {
    const addresses = [
      { name: 'lo', address: '127.0.0.1' },
      { name: 'eth0', address: '10.88.0.3' },
      { name: 'rekindle0', address: '10.87.0.1' },
    ];

    expect(subnetFinding('10.87.0.0/16', 'rekindle0', addresses).level).toBe('ok');
    expect(subnetFinding('10.0.0.0/8', 'rekindle0', addresses).says).toContain('10.88.0.3 of interface eth0');
    expect(subnetFinding('10.87.0.0', 'rekindle0', addresses).level).toBe('fail');
  });
});

describe('the text for people', () => {
  const facts = [
    { group: 'one', ...ok('short', 'fine') },
    { group: 'one', name: 'longer name', level: 'warn', says: 'hm', remedy: 'do this' },
    { group: 'two', name: 'third', level: 'fail', says: 'no' },
  ] as const;

  test('is grouped and aligned, without colour unless asked, and ends with a verdict', () => {
    const text = factsText(facts, { subject: 'This machine', deed: 'checkpoint and restore', colour: false });

    expect(text.split('\n')).toEqual([
      'one',
      '  ✓ short        fine',
      '  ! longer name  hm',
      '                 → do this',
      '',
      'two',
      '  ✗ third  no',
      '',
      'This machine cannot checkpoint and restore: two: third (1 warning besides)',
      '',
    ]);
  });

  test('has colours where they are wanted, and a verdict on the workload', () => {
    const web = { subject: 'Workload web', deed: 'be checkpointed' };
    expect(factsText(facts, { ...web, colour: true })).toContain('\u001b[31m✗');
    expect(factsText(facts.slice(0, 1), { ...web, colour: false })).toContain('\nWorkload web can be checkpointed.\n');
  });
});
