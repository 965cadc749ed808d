import { mkdir, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { exec, mustExec } from '../../../src/lib/exec.ts';
import type { Manifest, ManifestEntry } from '../../../src/snapshots/manifest.ts';
import { aFolder, aStore, fill, never, publish, someFacts } from './builders.ts';

type Change = (manifest: Manifest) => Manifest;
const file = (path: string): ManifestEntry => ({
  type: 'file',
  path,
  mode: 0o600,
  uid: 0,
  gid: 0,
  mtimeMs: 0,
  size: 0,
  sha256: 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',
});
const link = (path: string, target: string): ManifestEntry => ({ type: 'symlink', path, mode: 0o777, uid: 0, gid: 0, mtimeMs: 0, target });
const withEntries =
  (...more: ManifestEntry[]): Change =>
  (manifest) => ({ ...manifest, files: [...manifest.files, ...more].sort((a, b) => (a.path < b.path ? -1 : 1)) });

describe('importing', () => {
  test('a copied snapshot has the same digest, owners, modes, times, links and fifos', async () => {
    await using from = await aFolder();
    await using to = await aFolder();
    const original = await publish(aStore(from.path));
    const store = aStore(to.path);

    const copy = await store.importDirectory(original.dir, never);

    expect(copy.digest).toBe(original.digest);
    expect(copy.manifest).toEqual(original.manifest);
    await store.verify(copy.digest, never);
    expect(await readdir(to.path)).toEqual([copy.digest]);
  });

  test('times before 1970 and with fractions of a millisecond survive a copy', async () => {
    await using from = await aFolder();
    await using to = await aFolder();
    const source = aStore(from.path);
    await using draft = await source.begin();
    await fill(draft);
    for (const [i, time] of [
      '1969-12-31T23:59:58.7654321Z',
      '1901-12-14T00:00:00.0009Z',
      '2026-01-01T00:00:00.123499999Z',
      '2026-01-01T00:00:00.9996Z',
    ].entries()) {
      await writeFile(join(draft.filesDir, `root/t${i}`), '');
      await mustExec(exec, 'touch', ['-d', time, join(draft.filesDir, `root/t${i}`)]);
    }
    await draft.seal(someFacts(), never);
    const original = await draft.publish(never);

    const copy = await aStore(to.path).importDirectory(original.dir, never);

    expect(copy.digest).toBe(original.digest);
  });

  test.each<[string, Change]>([
    ['../', withEntries(file('files/../../escaped'))],
    ['an absolute path', withEntries(file('/tmp/escaped'))],
    ['a path outside the trees', withEntries(file('manifest.json'))],
    ['an empty segment', withEntries(file('files//escaped'))],
    ['a NUL', withEntries(file('files/root/a\0b'))],
    ['half a surrogate pair', withEntries(file('files/root/\ud800'))],
    ['a name of 256 bytes', withEntries(file(`files/root/${'é'.repeat(128)}`))],
    ['a symlink as a folder', withEntries(link('files/out', '/tmp'), file('files/out/escaped'))],
    ['the same path twice', withEntries(file('files/root/suid'))],
    ['a symlink among the images', withEntries(link('images/pages-2.img', '/etc/shadow'))],
    ['a tree itself as an entry', withEntries(link('files', '/tmp'))],
    ['a wrong sum', (manifest) => ({ ...manifest, totalBytes: 1 })],
    ['a volume that leads elsewhere', (manifest) => ({ ...manifest, volumes: [{ at: '/data', dir: '..' }] })],
    ['a date that is none', (manifest) => ({ ...manifest, createdAt: '2026-99-01T00:00:00Z' })],
  ])('a manifest with %s is refused and nothing is written', async (_what, change) => {
    await using from = await aFolder();
    await using to = await aFolder();
    const original = await publish(aStore(from.path));
    await writeFile(join(original.dir, 'manifest.json'), JSON.stringify(change(original.manifest)));

    await expect(aStore(to.path).importDirectory(original.dir, never)).rejects.toMatchObject({
      code: 'snapshot_corrupt',
      message: expect.stringContaining('manifest is wrong'),
    });
    expect(await readdir(to.path)).toEqual([]);
  });

  test.each<[string, (dir: string) => Promise<void>]>([
    ['content that differs', (dir) => writeFile(join(dir, 'images/core-1.img'), 'core y')],
    ['a file that is longer', (dir) => writeFile(join(dir, 'images/core-1.img'), 'core x and more')],
    ['a file that is missing', (dir) => rm(join(dir, 'files/root/suid'))],
    [
      'a symlink to the same content',
      async (dir) => {
        await writeFile(join(dir, 'copy'), 'core x');
        await rm(join(dir, 'images/core-1.img'));
        await symlink(join(dir, 'copy'), join(dir, 'images/core-1.img'));
      },
    ],
    [
      'a fifo that would hang a reader',
      async (dir) => {
        await rm(join(dir, 'images/core-1.img'));
        await mustExec(exec, 'mkfifo', [join(dir, 'images/core-1.img')]);
      },
    ],
    [
      'a truncated manifest',
      async (dir) => writeFile(join(dir, 'manifest.json'), (await readFile(join(dir, 'manifest.json'))).subarray(0, 300)),
    ],
  ])('a source with %s is refused and nothing is kept', async (_what, damage) => {
    await using from = await aFolder();
    await using to = await aFolder();
    const original = await publish(aStore(from.path));
    await damage(original.dir);

    await expect(aStore(to.path).importDirectory(original.dir, never)).rejects.toMatchObject({ code: 'snapshot_corrupt' });
    expect(await readdir(to.path)).toEqual([]);
  });

  test('what the manifest does not list is not copied', async () => {
    await using from = await aFolder();
    await using to = await aFolder();
    const original = await publish(aStore(from.path));
    await mkdir(join(original.dir, 'more'));

    const copy = await aStore(to.path).importDirectory(original.dir, never);

    expect((await readdir(copy.dir)).sort()).toEqual(['files', 'images', 'manifest.json']);
  });

  test('a folder that is no snapshot is not found', async () => {
    await using from = await aFolder();
    await using to = await aFolder();

    await expect(aStore(to.path).importDirectory(from.path, never)).rejects.toMatchObject({ code: 'not_found' });
  });
});
