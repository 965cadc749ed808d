import { chmod, lchown, mkdir, mkdtemp, rm, symlink, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../../../src/lib/clock.ts';
import { exec, mustExec } from '../../../src/lib/exec.ts';
import { silentLog } from '../../../src/lib/log.ts';
import type { SnapshotFacts } from '../../../src/snapshots/manifest.ts';
import type { Snapshot } from '../../../src/snapshots/shelf.ts';
import { type SnapshotDraft, SnapshotStore } from '../../../src/snapshots/store.ts';

export const never = new AbortController().signal;

export const machine = { arch: 'x86_64', cpuFeatures: ['avx', 'sse2'], kernel: '6.18.1', criu: '4.2.1' };

export function someFacts(changes: Partial<SnapshotFacts> = {}): SnapshotFacts {
  return {
    workload: 'web',
    specHash: 'spec-1',
    createdAt: '2026-01-02T03:04:05.678Z',
    class: machine,
    imageDigest: `sha256:${'a'.repeat(64)}`,
    stdio: { stdout: 'pipe:[123]', stderr: null },
    mounts: [{ at: '/dev/shm', type: 'tmpfs', options: ['rw', 'nosuid'] }],
    volumes: [{ at: '/data', dir: 'data' }],
    netns: 4026531840,
    addresses: ['10.0.0.2'],
    freezeMs: 70.5,
    pages: 100,
    memoryBytes: 409600,
    origin: { node: 'here' },
    ...changes,
  };
}

/** A new folder that is removed at the end. */
export async function aFolder(): Promise<{ path: string } & AsyncDisposable> {
  const path = await mkdtemp(join(tmpdir(), 'rekindle-snapshots-'));
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
}

export function aStore(dir: string): SnapshotStore {
  return new SnapshotStore({ dir, log: silentLog, clock: systemClock, exec });
}

/** Images of 2 sizes and a tree with every kind of entry. The same `salt` gives the same snapshot. */
export async function fill(draft: { imagesDir: string; filesDir: string }, salt = 'x'): Promise<void> {
  const when = new Date('2026-01-01T00:00:00.123Z');
  const { imagesDir, filesDir } = draft;
  await writeFile(join(imagesDir, 'core-1.img'), `core ${salt}`);
  await writeFile(join(imagesDir, 'pages-1.img'), Buffer.alloc(700_000, salt));
  await mkdir(join(filesDir, 'root/etc'), { recursive: true });
  await mkdir(join(filesDir, 'data'));
  await writeFile(join(filesDir, 'root/etc/motd'), `hello ${salt}`);
  await writeFile(join(filesDir, 'root/etc/empty'), '');
  await writeFile(join(filesDir, 'root/naïve "name"\n'), 'odd');
  await writeFile(join(filesDir, 'root/suid'), 'owned');
  await lchown(join(filesDir, 'root/suid'), 1234, 5678);
  await chmod(join(filesDir, 'root/suid'), 0o4755);
  await symlink('/etc/passwd', join(filesDir, 'root/link'));
  await mustExec(exec, 'mkfifo', [join(filesDir, 'data/fifo')]);
  await mustExec(exec, 'touch', ['-h', '-d', when.toISOString(), join(filesDir, 'root/link'), join(filesDir, 'data/fifo')]);
  for (const path of [
    'images/core-1.img',
    'images/pages-1.img',
    'files/root/etc/motd',
    'files/root/etc/empty',
    'files/root/naïve "name"\n',
    'files/root/suid',
  ]) {
    await utimes(join(imagesDir, '..', path), when, when);
  }
  for (const path of ['root/etc', 'root', 'data']) await utimes(join(filesDir, path), when, when);
}

/** Paths, within a snapshot, of every file that `fill` writes, and of the manifest. */
export const FILLED = [
  'images/core-1.img',
  'images/pages-1.img',
  'files/root/etc/motd',
  'files/root/naïve "name"\n',
  'files/root/suid',
  'manifest.json',
];

export async function publish(store: SnapshotStore, changes: Partial<SnapshotFacts> = {}, salt = 'x'): Promise<Snapshot> {
  await using draft: SnapshotDraft = await store.begin();
  await fill(draft, salt);
  await draft.seal(someFacts(changes), never);
  return await draft.publish(never);
}
