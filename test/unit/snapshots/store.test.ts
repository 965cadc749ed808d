import { chmod, lstat, mkdir, open, readdir, readFile, rename, rm, truncate, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { digestOf } from '../../../src/snapshots/directory.ts';
import { aFolder, aStore, FILLED, fill, machine, never, publish, someFacts } from './builders.ts';

/** Turns one bit in the middle of a file. With `keepTimes` size and mtime stay as they were, as far as a writer can arrange that. */
async function flipBit(path: string): Promise<void> {
  const before = await lstat(path);
  await using file = await open(path, 'r+');
  const at = Math.floor(before.size / 2);
  const { buffer } = await file.read(Buffer.alloc(1), 0, 1, at);
  await file.write(Buffer.from([(buffer[0] ?? 0) ^ 1]), 0, 1, at);
  await utimes(path, before.atime, before.mtime);
}

describe('publishing', () => {
  test('a published snapshot has the digest of its manifest as name, is root’s alone, and passes every check', async () => {
    await using folder = await aFolder();
    const dir = join(folder.path, 'store');
    const store = aStore(dir);

    const snapshot = await publish(store);

    expect(snapshot.digest).toBe(digestOf(await readFile(join(snapshot.dir, 'manifest.json'))));
    expect((await lstat(dir)).mode & 0o7777).toBe(0o700);
    expect((await lstat(snapshot.dir)).mode & 0o7777).toBe(0o700);
    expect(snapshot.manifest.files.map((entry) => entry.type).sort()).toEqual([
      'dir',
      'dir',
      'dir',
      'fifo',
      'file',
      'file',
      'file',
      'file',
      'file',
      'file',
      'symlink',
    ]);
    expect(await store.list()).toEqual([snapshot]);
    await store.verify(snapshot.digest, never);
    await store.checkCheap(snapshot.digest, never);
    expect(await readdir(dir)).toEqual([snapshot.digest]);
  });

  test('a draft that is not published leaves nothing behind, sealed or not', async () => {
    await using folder = await aFolder();
    const store = aStore(folder.path);
    {
      await using draft = await store.begin();
      await fill(draft);
    }
    {
      await using draft = await store.begin();
      await fill(draft);
      await draft.seal(someFacts(), never);
    }

    expect(await readdir(folder.path)).toEqual([]);
  });

  test('the same content published several times at once is one snapshot', async () => {
    await using folder = await aFolder();
    const stores = [aStore(folder.path), aStore(folder.path), aStore(folder.path)];

    const snapshots = await Promise.all(stores.map((store) => publish(store)));

    expect(new Set(snapshots.map(({ digest }) => digest)).size).toBe(1);
    expect(await readdir(folder.path)).toEqual([snapshots[0]?.digest]);
  });

  test('a draft disposed while it is being published is published whole', async () => {
    await using folder = await aFolder();
    const store = aStore(folder.path);
    const draft = await store.begin();
    await fill(draft);
    await draft.seal(someFacts(), never);

    const publishing = draft.publish(never);
    await draft[Symbol.asyncDispose]();

    const { digest } = await publishing;
    await store.verify(digest, never);
    expect(await readdir(folder.path)).toEqual([digest]);
  });

  test('a corrupt snapshot in the place of a new one gives way to it', async () => {
    await using folder = await aFolder();
    const store = aStore(folder.path);
    const first = await publish(store);
    await flipBit(join(first.dir, 'images/pages-1.img'));

    const second = await publish(store);

    expect(second.digest).toBe(first.digest);
    await store.verify(second.digest, never);
    expect(await readdir(folder.path)).toEqual([second.digest]);
  });

  test('what a trial restore changed in a sealed draft keeps it from being published', async () => {
    await using folder = await aFolder();
    const store = aStore(folder.path);
    await using draft = await store.begin();
    await fill(draft);
    await draft.seal(someFacts(), never);
    await writeFile(join(draft.imagesDir, 'restore.log'), 'left by criu');

    await expect(draft.publish(never)).rejects.toMatchObject({
      code: 'snapshot_corrupt',
      message: expect.stringContaining('images/restore.log'),
    });
    expect(await readdir(folder.path)).toEqual([]);
  });

  test('a file name that is not UTF-8 refuses the dump, says which, and leaves nothing behind', async () => {
    await using folder = await aFolder();
    const store = aStore(folder.path);
    await using draft = await store.begin();
    await fill(draft);
    await writeFile(Buffer.concat([Buffer.from(`${draft.filesDir}/root/latin-`), Buffer.from([0xe9])]), '');

    await expect(draft.seal(someFacts(), never)).rejects.toMatchObject({
      code: 'dump_refused',
      message: expect.stringMatching(/files\/root.*latin-é/),
    });
    expect(await readdir(folder.path)).toEqual([]);
  });

  test('wrong facts are our own defect, not a corrupt snapshot', async () => {
    await using folder = await aFolder();
    const store = aStore(folder.path);
    await using draft = await store.begin();
    await fill(draft);

    await expect(draft.seal(someFacts({ volumes: [{ at: '/x', dir: 'elsewhere' }] }), never)).rejects.toMatchObject({ code: 'internal' });
  });

  test('an abort while sealing removes the draft', async () => {
    await using folder = await aFolder();
    const store = aStore(folder.path);
    await using draft = await store.begin();
    await fill(draft);

    await expect(draft.seal(someFacts(), AbortSignal.abort(new Error('stopping')))).rejects.toThrow('stopping');
    expect(await readdir(folder.path)).toEqual([]);
  });
});

describe('checking', () => {
  test.each(
    FILLED,
  )('one flipped bit in %j is found by the next whole verification, by the next cheap check and at the next start', async (path) => {
    await using folder = await aFolder();
    for (const how of ['verify', 'checkCheap', 'open'] as const) {
      const store = aStore(folder.path);
      const { digest, dir } = await publish(store);
      await flipBit(join(dir, path));

      if (how === 'open') {
        const opened = await aStore(folder.path).open(never);
        expect(opened).toMatchObject({ intact: [], corrupt: [{ digest, problem: expect.stringContaining(path) }] });
      } else {
        await expect(store[how](digest, never)).rejects.toMatchObject({ code: 'snapshot_corrupt', message: expect.stringContaining(path) });
      }

      expect(await readdir(folder.path)).toEqual([]);
      expect(await store.list()).toEqual([]);
    }
  });

  test.each<[string, (dir: string) => Promise<void>, string]>([
    ['a missing file', (dir) => rm(join(dir, 'images/core-1.img')), 'images/core-1.img'],
    ['an added image', (dir) => writeFile(join(dir, 'images/more.img'), ''), 'images/more.img'],
    ['an added file', (dir) => writeFile(join(dir, 'files/root/more'), ''), 'files/root/more'],
    ['an added set-user-id bit', (dir) => chmod(join(dir, 'files/root/etc/motd'), 0o4755), 'files/root/etc/motd'],
    [
      'a file made a directory',
      async (dir) => {
        await rm(join(dir, 'files/root/suid'));
        await mkdir(join(dir, 'files/root/suid'));
      },
      'files/root/suid',
    ],
    ['a missing images folder', (dir) => rm(join(dir, 'images'), { recursive: true }), 'images'],
    ['a truncated manifest', (dir) => truncate(join(dir, 'manifest.json'), 100), 'manifest.json'],
    ['a missing manifest', (dir) => rm(join(dir, 'manifest.json')), 'manifest.json'],
  ])('%s is found by the cheap check', async (_what, damage, named) => {
    await using folder = await aFolder();
    const store = aStore(folder.path);
    const { digest, dir } = await publish(store);
    await damage(dir);

    await expect(store.checkCheap(digest, never)).rejects.toMatchObject({
      code: 'snapshot_corrupt',
      message: expect.stringContaining(named),
    });
  });

  test('files that were touched but hold what they held pass, and the next check is cheap again', async () => {
    await using folder = await aFolder();
    const store = aStore(folder.path);
    const { digest, dir } = await publish(store);
    await chmod(join(dir, 'images/core-1.img'), 0o600);

    await store.checkCheap(digest, never);
    const aborted = AbortSignal.abort(new Error('a whole verification'));

    await store.checkCheap(digest, aborted);
  });

  test('a snapshot under another name than its digest is corrupt', async () => {
    await using folder = await aFolder();
    const { digest, dir } = await publish(aStore(folder.path));
    const other = digest.replace(/^./, (digit) => (digit === '0' ? '1' : '0'));
    await rename(dir, join(folder.path, other));

    const opened = await aStore(folder.path).open(never);

    expect(opened).toMatchObject({ intact: [], corrupt: [{ digest: other, problem: expect.stringContaining(digest) }] });
  });

  test('a snapshot of a later schema is left alone', async () => {
    await using folder = await aFolder();
    const bytes = Buffer.from(JSON.stringify({ schema: 2 }));
    await mkdir(join(folder.path, digestOf(bytes)));
    await writeFile(join(folder.path, digestOf(bytes), 'manifest.json'), bytes);
    const store = aStore(folder.path);

    expect(await store.open(never)).toMatchObject({ intact: [], corrupt: [], foreign: [digestOf(bytes)] });
    expect(await store.list()).toEqual([]);
  });

  test('the background pass removes what is corrupt and keeps to its rate', async () => {
    await using folder = await aFolder();
    const store = aStore(folder.path);
    const good = await publish(store, { specHash: 'good' });
    const bad = await publish(store, { specHash: 'bad' });
    await flipBit(join(bad.dir, 'files/root/suid'));

    const started = performance.now();
    const next = await store.verifier({ bytesPerSecond: 7_000_000, everyMs: 5 }).reconcile(never);

    expect(next).toEqual({ requeueAfterMs: 5 });
    expect(performance.now() - started).toBeGreaterThan((good.manifest.totalBytes / 7_000_000) * 1000);
    expect((await store.list()).map(({ digest }) => digest)).toEqual([good.digest]);
  });

  test('a snapshot removed during its verification is gone, not corrupt', async () => {
    await using folder = await aFolder();
    const store = aStore(folder.path);
    const { digest } = await publish(store);
    const pace = async (): Promise<void> => {
      await aStore(folder.path)
        .remove(digest)
        .catch(() => undefined);
    };

    await expect(store.verify(digest, never, pace)).rejects.toMatchObject({ code: 'not_found' });
  });
});

describe('finding and removing', () => {
  test('the newest snapshot that fits is found; not one of another machine, another spec hash or in quarantine', async () => {
    await using folder = await aFolder();
    const store = aStore(folder.path);
    const old = await publish(store, { createdAt: '2026-01-01T00:00:00Z' });
    const fresh = await publish(store, { createdAt: '2026-01-02T00:00:00Z' });
    await publish(store, { createdAt: '2026-01-03T00:00:00Z', class: { ...machine, cpuFeatures: ['avx512f'] } });
    await publish(store, { createdAt: '2026-01-04T00:00:00Z', specHash: 'spec-2' });

    expect((await store.find('spec-1', machine))?.digest).toBe(fresh.digest);
    await store.quarantine(fresh.digest, 'three restores failed');
    expect((await store.find('spec-1', machine))?.digest).toBe(old.digest);
    expect(aStore(folder.path).quarantined().get(fresh.digest)).toMatchObject({ reason: 'three restores failed' });
    expect(await store.find('spec-3', machine)).toBeUndefined();
  });

  test('a start of a digest is enough where it is unique, and says so where it is not', async () => {
    await using folder = await aFolder();
    const store = aStore(folder.path);
    const byFirst = new Map<string, string[]>();
    // 17 snapshots: two begin with the same digit.
    for (let i = 0; i < 17; i++) {
      const { digest } = await publish(store, { specHash: `spec-${i}` });
      byFirst.set(digest.slice(0, 1), [...(byFirst.get(digest.slice(0, 1)) ?? []), digest]);
    }
    const [shared, several] = [...byFirst].find(([, digests]) => digests.length > 1) ?? ['', []];
    const one = several[0] ?? '';

    await expect(store.get(shared)).rejects.toMatchObject({
      code: 'usage',
      message: expect.stringContaining(`${several.length} snapshots begin with ${shared}`),
    });
    await expect(store.get('')).rejects.toMatchObject({ code: 'not_found' });
    await expect(store.get('../x')).rejects.toMatchObject({ code: 'not_found' });
    expect((await store.get(one.slice(0, 40))).digest).toBe(one);
    expect((await store.get(`sha256:${one}`)).digest).toBe(one);
  });

  test('what is in use is not removed; afterwards it is, with its quarantine', async () => {
    await using folder = await aFolder();
    const store = aStore(folder.path);
    const { digest } = await publish(store);
    await store.quarantine(digest, 'failed');
    const pins = [store.pin(digest), store.pin(digest)];

    await expect(store.remove(digest)).rejects.toMatchObject({ code: 'usage', retryable: true });
    pins[0]?.[Symbol.dispose]();
    pins[0]?.[Symbol.dispose]();
    await expect(store.remove(digest)).rejects.toMatchObject({ code: 'usage' });
    pins[1]?.[Symbol.dispose]();
    await store.remove(digest);

    expect(await store.list()).toEqual([]);
    expect(store.quarantined().get(digest)).toBeUndefined();
    await expect(store.remove(digest)).rejects.toMatchObject({ code: 'not_found' });
    await expect(store.remove('../..')).rejects.toMatchObject({ code: 'usage' });
  });

  test('that one was restored is known to the next store, until it is removed', async () => {
    await using folder = await aFolder();
    const store = aStore(folder.path);
    const { digest } = await publish(store);
    expect(store.isProven(digest)).toBe(false);

    await store.prove(digest);
    await store.prove(digest);

    expect(aStore(folder.path).isProven(digest)).toBe(true);
    expect((await aStore(folder.path).open(never)).swept).toEqual([]);
    await store.remove(digest);
    expect(store.isProven(digest)).toBe(false);
  });

  test('why none fits this machine is told in words, and nothing where one does', async () => {
    await using folder = await aFolder();
    const store = aStore(folder.path);
    const { digest } = await publish(store, { class: { ...machine, kernel: '99.1' } });

    expect(await store.misfit('spec-1', machine)).toBe(
      `snapshot ${digest.slice(0, 12)} was made under kernel 99.1, this machine runs the older 6.18.1`,
    );
    expect(await store.misfit('spec-2', machine)).toBeUndefined();
    await publish(store, {}, 'y');
    expect(await store.misfit('spec-1', machine)).toBeUndefined();
  });

  test('quarantines set at once are all kept, and a damaged file counts as none', async () => {
    await using folder = await aFolder();
    const store = aStore(folder.path);
    await Promise.all(['a', 'b', 'c', 'd'].map((digest) => store.quarantine(digest, `bad ${digest}`)));

    expect(['a', 'b', 'c', 'd'].map((digest) => store.quarantined().get(digest)?.reason)).toEqual(['bad a', 'bad b', 'bad c', 'bad d']);
    await writeFile(join(folder.path, '.quarantine.json'), '{"a":');
    expect(store.quarantined().get('a')).toBeUndefined();
  });

  test('pruning keeps to each workload’s policy and leaves pinned snapshots', async () => {
    await using folder = await aFolder();
    const store = aStore(folder.path);
    const at = (day: number): { createdAt: string } => ({ createdAt: `2026-01-0${day}T00:00:00Z` });
    const oldest = await publish(store, at(1));
    const middle = await publish(store, at(2));
    const newest = await publish(store, at(3));
    const other = await publish(store, { ...at(1), workload: 'other' });
    using _held = store.pin(oldest.digest);

    const removed = await store.prune(new Map([['web', { keep: 1, live: new Set(['spec-1']) }]]));

    expect(removed).toEqual([{ digest: middle.digest, because: 'count' }]);
    expect((await store.list()).map(({ digest }) => digest).sort()).toEqual([oldest.digest, newest.digest, other.digest].sort());
  });

  test('two stores on one directory see what the other published and removed', async () => {
    await using folder = await aFolder();
    const [one, two] = [aStore(folder.path), aStore(folder.path)];
    await Promise.all([one.open(never), two.open(never)]);

    const { digest } = await publish(one);
    expect((await two.get(digest)).digest).toBe(digest);
    await two.checkCheap(digest, never);
    await two.remove(digest);

    expect(await one.list()).toEqual([]);
    await expect(one.checkCheap(digest, never)).rejects.toMatchObject({ code: 'not_found' });
  });
});
