import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { exec, mustExec } from '../../../src/lib/exec.ts';
import { aFolder, aStore, fill, never, publish, someFacts } from './builders.ts';

const WRITER = join(import.meta.dirname, 'writer.ts');

/** A process that publishes without end, once its first snapshot is there. */
async function aWriter(dir: string): Promise<ChildProcess> {
  const child = spawn(process.execPath, [WRITER, dir], { stdio: ['ignore', 'pipe', 'inherit'] });
  if (child.stdout !== null) await once(child.stdout, 'data');
  return child;
}

async function kill(child: ChildProcess): Promise<void> {
  const gone = once(child, 'exit');
  child.kill('SIGKILL');
  await gone;
}

describe('whole or not at all', () => {
  test('a writer killed at any moment leaves only whole snapshots after the next start', async () => {
    await using folder = await aFolder();
    let halves = 0;

    for (let round = 0; round < 12; round++) {
      const child = await aWriter(folder.path);
      // Not a wait for something: the moment of death is what varies.
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 120));
      await kill(child);

      const left = (await readdir(folder.path)).filter((name) => name.startsWith('.'));
      const opened = await aStore(folder.path).open(never);

      halves += left.length;
      expect(opened.corrupt).toEqual([]);
      expect([...opened.swept].sort()).toEqual(left.sort());
      expect((await readdir(folder.path)).sort()).toEqual(opened.intact.map(({ digest }) => digest).sort());
    }
    expect(halves, 'no round hit a half-written snapshot: the test checked nothing').toBeGreaterThan(0);
  });

  test('a second process that opens the store leaves the drafts of the first alone', async () => {
    await using folder = await aFolder();
    const child = await aWriter(folder.path);
    try {
      for (let round = 0; round < 5; round++) {
        const opened = await aStore(folder.path).open(never);
        expect(opened).toMatchObject({ corrupt: [], swept: [] });
      }
      const before = (await readdir(folder.path)).filter((name) => !name.startsWith('.')).length;
      await expect
        .poll(async () => (await readdir(folder.path)).filter((name) => !name.startsWith('.')).length, { timeout: 20_000 })
        .toBeGreaterThan(before);
    } finally {
      await kill(child);
    }
  });

  test('half-written things of another boot, of a reused process id and half-removed ones are swept', async () => {
    await using folder = await aFolder();
    const names = [
      `.partial-${process.pid}-1-00000000-ab`,
      `.partial-1-1-${'f'.repeat(8)}-ab`,
      '.partial-what',
      '.removed-x',
      '.corrupt-y',
    ];
    for (const name of names) await mkdir(join(folder.path, name, 'files'), { recursive: true });
    await writeFile(Buffer.concat([Buffer.from(`${folder.path}/.removed-x/files/`), Buffer.from([0xff])]), '');
    await mkdir(join(folder.path, 'lost+found'));

    const opened = await aStore(folder.path).open(never);

    expect([...opened.swept].sort()).toEqual(names.sort());
    expect(await readdir(folder.path)).toEqual(['lost+found']);
  });
});

const isRoot = process.geteuid?.() === 0;

describe.skipIf(!isRoot)(`a full disk${isRoot ? '' : ' (skipped: mounting a small tmpfs needs root)'}`, () => {
  async function aSmallDisk(): Promise<{ path: string } & AsyncDisposable> {
    const folder = await aFolder();
    await mustExec(exec, 'mount', ['-t', 'tmpfs', '-o', 'size=2m', 'rekindle-test', folder.path]);
    return {
      path: folder.path,
      [Symbol.asyncDispose]: async () => {
        await mustExec(exec, 'umount', [folder.path]);
        await folder[Symbol.asyncDispose]();
      },
    };
  }

  test('ends sealing with disk_full and numbers, leaves nothing behind, and harms no other snapshot', async () => {
    await using disk = await aSmallDisk();
    const dir = join(disk.path, 'store');
    const store = aStore(dir);
    const kept = await publish(store);
    await using draft = await store.begin();
    await fill(draft, 'y');
    // Fills every last page outside the draft, so that the manifest finds no room.
    await writeFile(join(disk.path, 'ballast'), Buffer.alloc(4 * 1024 * 1024)).catch(() => undefined);
    expect(await store.freeBytes()).toBe(0);

    await expect(draft.seal(someFacts(), never)).rejects.toMatchObject({
      code: 'disk_full',
      message: expect.stringMatching(/\d MiB free now/),
    });

    expect(await readdir(dir)).toEqual([kept.digest]);
    await store.verify(kept.digest, never);
  });

  test('is noticed before an import begins, and when it fills up during one', async () => {
    await using elsewhere = await aFolder();
    await using disk = await aSmallDisk();
    const source = aStore(elsewhere.path);
    const snapshot = await publish(source);
    const dir = join(disk.path, 'store');
    const store = aStore(dir);
    await store.open(never);
    await writeFile(join(disk.path, 'ballast'), Buffer.alloc(1_600_000));

    await expect(store.ensureRoom(1024 * 1024)).rejects.toMatchObject({
      code: 'disk_full',
      message: expect.stringContaining('1.0 MiB does not fit'),
    });
    await expect(store.importDirectory(snapshot.dir, never)).rejects.toMatchObject({ code: 'disk_full' });
    // Room by the sum of sizes, but not for the blocks that small files and folders take.
    Object.defineProperty(store, 'ensureRoom', { value: async () => undefined });
    await expect(store.importDirectory(snapshot.dir, never)).rejects.toMatchObject({
      code: 'disk_full',
      message: expect.stringContaining('filled the disk'),
    });

    expect(await readdir(dir)).toEqual([]);
  });
});
