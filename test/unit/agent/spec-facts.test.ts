import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { specFactsOf } from '../../../src/agent/spec-facts.ts';
import type { Mount } from '../../../src/checkpoint/mountinfo.ts';
import type { Container } from '../../../src/workloads/host.ts';
import { aWorkloadTruth } from '../../fixtures/truths.ts';

/** The digest of a read-only volume of this process. */
function aVolume() {
  const parent = mkdtempSync(join(tmpdir(), 'rekindle-spec-'));
  onTestFinished(() => rmSync(parent, { recursive: true, force: true }));
  const at = join(parent, 'config');
  mkdirSync(at);
  const { name, spec } = aWorkloadTruth();
  const container: Container = {
    ...{ uid: 'u', name: 'web-1', workload: { name, ...spec }, pid: process.pid, restarts: 0, addresses: [], imageDigest: '' },
    ...{ volumes: [{ at, kind: 'shared' }], createdAtMs: 0 },
  };
  const mount: Mount = { at, type: 'tmpfs', options: ['ro'], superOptions: [], mountId: 1 };
  return { parent, at, digest: () => specFactsOf(container, [mount]).configDigests[at] };
}

test('the same configuration is the same, whichever directory the kubelet wrote it into', () => {
  const [one, other] = [aVolume(), aVolume()];
  for (const [{ at }, dir] of [
    [one, '..2026_01_01'],
    [other, '..2026_02_02'],
  ] as const) {
    mkdirSync(join(at, dir));
    writeFileSync(join(at, dir, 'settings'), 'colour=red');
    symlinkSync(dir, join(at, '..data'));
  }
  const before = other.digest();
  writeFileSync(join(other.at, '..2026_02_02', 'settings'), 'colour=blue');

  expect(before).toBe(one.digest());
  expect(other.digest()).not.toBe(before);
});

test('a name that leads out of the volume is not followed', () => {
  const { parent, at, digest } = aVolume();
  writeFileSync(join(at, 'settings'), 'colour=red');
  symlinkSync('..', join(at, '..data'));
  const before = digest();
  writeFileSync(join(parent, 'outside'), 'changed');

  expect(digest()).toBe(before);
});
