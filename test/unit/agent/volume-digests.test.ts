import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { VolumeReader } from '../../../src/agent/volume-digests.ts';
import { type Files, filesAnywhere, filesHere } from '../../../src/agent/volume-files.ts';
import type { Mount } from '../../../src/checkpoint/mountinfo.ts';
import type { Container, HostVolume } from '../../../src/workloads/host.ts';
import { aWorkloadTruth } from '../../fixtures/truths.ts';

/** A read-only volume of this process, and what is told of it. */
function aVolume({ type = 'tmpfs', pid = process.pid, ...more }: { type?: string; pid?: number } & Partial<HostVolume> = {}) {
  const parent = mkdtempSync(join(tmpdir(), 'rekindle-spec-'));
  onTestFinished(() => rmSync(parent, { recursive: true, force: true }));
  const at = join(parent, 'config');
  mkdirSync(at);
  const { name, spec } = aWorkloadTruth();
  const container: Container = {
    ...{ uid: 'u', name: 'web-1', workload: { name, ...spec }, pid, restarts: 0, addresses: [], imageDigest: '' },
    ...{ volumes: [{ at, kind: 'shared', ...more }], createdAtMs: 0 },
  };
  const mount = (place: string): Mount => ({ at: place, type, options: ['ro'], superOptions: [], mountId: 1 });
  const read = (reader = new VolumeReader({ files: filesAnywhere }), others: readonly string[] = []) =>
    reader.read(container, [mount(at), ...others.map((place) => mount(join(at, place)))]);
  const digest = async (others: readonly string[] = []) => {
    const found = await read(undefined, others);
    if ('unreadable' in found) throw new Error(found.unreadable);
    return found.digests[at];
  };
  return { parent, at, read, digest };
}

test('the same configuration is the same, whichever directory the kubelet wrote it into', async () => {
  const [one, other] = [aVolume(), aVolume()];
  for (const [{ at }, dir] of [
    [one, '..2026_01_01'],
    [other, '..2026_02_02'],
  ] as const) {
    mkdirSync(join(at, dir));
    writeFileSync(join(at, dir, 'settings'), 'colour=red');
    symlinkSync(dir, join(at, '..data'));
  }
  const before = await other.digest();
  writeFileSync(join(other.at, '..2026_02_02', 'settings'), 'colour=blue');

  expect(before).toMatch(/^[0-9a-f]{64}$/);
  expect(before).toBe(await one.digest());
  expect(await other.digest()).not.toBe(before);
});

test('a name that leads out of the volume is not followed', async () => {
  const { parent, at, digest } = aVolume();
  writeFileSync(join(at, 'settings'), 'colour=red');
  symlinkSync('..', join(at, '..data'));
  const before = await digest();
  writeFileSync(join(parent, 'outside'), 'changed');

  expect(await digest()).toBe(before);
});

test('what is mounted further down is none of the volume', async () => {
  const { at, digest } = aVolume();
  mkdirSync(join(at, 'inner'));
  const before = await digest(['inner']);
  writeFileSync(join(at, 'inner', 'file'), 'changed');

  expect(await digest(['inner'])).toBe(before);
  expect(await digest()).not.toBe(before);
});

test.each<[string, (at: string) => void]>([
  ['many files', (at) => Array.from({ length: 250 }, (_, i) => writeFileSync(join(at, `${i}`), ''))],
  ['a large one', (at) => writeFileSync(join(at, 'model'), Buffer.alloc(1024 * 1024 + 1))],
  ['several that are large together', (at) => ['a', 'b', 'c'].map((name) => writeFileSync(join(at, name), Buffer.alloc(400_000)))],
])('data, that is %s, counts by what it is called, as far as anybody says', async (_, fill) => {
  const [nameless, models, others] = [aVolume(), aVolume({ identity: 'claim models' }), aVolume({ identity: 'claim others' })];
  for (const { at } of [nameless, models, others]) fill(at);

  expect(await nameless.digest()).toBeUndefined();
  expect(await models.digest()).toBe('data claim models');
  expect(await others.digest()).not.toBe(await models.digest());
});

test('a server that hangs is not waited for, has two threads at most, and keeps nobody from what is here', async () => {
  const answers = Promise.withResolvers<void>();
  let waiting = 0;
  const hangs: Files = {
    ...filesAnywhere,
    lstat: async (path) => {
      waiting += 1;
      await answers.promise;
      return filesAnywhere.lstat(path);
    },
  };
  const [reader, volumes] = [new VolumeReader({ files: hangs }), Array.from({ length: 4 }, () => aVolume({ type: 'nfs4' }))];

  const read = await Promise.all(volumes.map((volume) => volume.read(reader)));

  for (const [i, found] of read.entries())
    expect(found).toEqual({
      unreadable: `its volume at ${volumes[i]?.at} could not be read within 1000 ms: nobody knows whether a snapshot fits`,
    });
  expect(waiting).toBe(2);
  answers.resolve();
  expect(await volumes[0]?.read(reader)).toHaveProperty('digests');
  expect(await aVolume().digest()).toBeDefined();
});

test('a local volume is read although those of a server hang', async () => {
  const [hung, here] = [aVolume({ type: 'ext4', elsewhere: true }), aVolume({ type: 'ext4' })];
  const reader = new VolumeReader({ files: { ...filesAnywhere, lstat: () => new Promise(() => undefined) } });
  const hanging = [hung.read(reader), hung.read(reader), hung.read(reader)];

  expect(await here.read(reader)).toHaveProperty('digests');
  expect(await Promise.all(hanging)).toHaveLength(3);
});

test('a volume is the same whether it is read here or may be elsewhere', async () => {
  const [here, elsewhere] = [aVolume(), aVolume({ type: 'nfs4' })];
  for (const { at } of [here, elsewhere]) {
    mkdirSync(join(at, 'dir'));
    writeFileSync(join(at, 'dir', 'large'), Buffer.alloc(200_000, 'x'));
    writeFileSync(join(at, 'empty'), '');
    symlinkSync('empty', join(at, 'link'));
    execFileSync('mkfifo', [join(at, 'pipe')]);
  }

  expect(await elsewhere.digest()).toBe(await here.digest());
});

test.each([
  ['here', filesHere],
  ['elsewhere', filesAnywhere],
])('no more is read of files %s than is asked for, nothing of a pipe, and no link is followed', async (_, files) => {
  const { at } = aVolume();
  writeFileSync(join(at, 'file'), 'content');
  symlinkSync('file', join(at, 'link'));
  execFileSync('mkfifo', [join(at, 'pipe')]);

  expect((await files.content(join(at, 'file'), 3)).toString()).toBe('cont');
  expect((await files.content(join(at, 'file'), 100)).toString()).toBe('content');
  expect(await files.content(join(at, 'pipe'), 100)).toHaveLength(0);
  await expect(files.content(join(at, 'link'), 100)).rejects.toMatchObject({ code: 'ELOOP' });
  expect(await files.names(at, 1)).toHaveLength(2);
  expect((await files.names(at, 9)).sort()).toEqual(['file', 'link', 'pipe']);
});

test('what cannot be read is said, unless the container is gone', async () => {
  const stale: Files = { ...filesAnywhere, lstat: () => Promise.reject(Object.assign(new Error('stale'), { code: 'ESTALE' })) };

  expect(await aVolume({ type: 'nfs' }).read(new VolumeReader({ files: stale }))).toMatchObject({
    unreadable: expect.stringContaining('(ESTALE)'),
  });
  await expect(aVolume({ pid: 2 ** 22 + 1 }).read()).rejects.toMatchObject({ code: 'ENOENT' });
});
