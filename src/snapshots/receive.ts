import { constants } from 'node:fs';
import { chmod, type FileHandle, lchown, lutimes, mkdir, open, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { type Exec, mustExec } from '../lib/exec.ts';
import { corrupt } from './directory.ts';
import type { Manifest, ManifestEntry } from './manifest.ts';
import { readThrough } from './tree.ts';

const FIFOS_AT_ONCE = 200;
const FILES_AT_ONCE = 4;

/** Writes the content of one file that the manifest lists into `target`, empty and open for writing; never more than its size. */
export type FileSource = (entry: Extract<ManifestEntry, { type: 'file' }>, target: FileHandle, signal: AbortSignal) => Promise<void>;

/**
 * Makes in `to` (a draft's directory, empty) what the manifest lists, reading the content of files below `from`, which nobody vouches for:
 * only plain files are opened, no more is read than the manifest says, nothing else is looked at.
 */
export function copyTree(from: string, to: string, manifest: Manifest, exec: Exec, signal: AbortSignal): Promise<void> {
  return makeTree((entry, target) => copyFile(join(from, entry.path), target, entry.size, signal), to, manifest, exec, signal);
}

/**
 * Makes in `to` what the manifest lists, with the content from `source`. That is not compared here; the draft is verified whole before it
 * counts. No path leads through a symlink of ours: `parseManifest` held that.
 */
export async function makeTree(source: FileSource, to: string, manifest: Manifest, exec: Exec, signal: AbortSignal): Promise<void> {
  const fifos = manifest.files.filter((entry) => entry.type === 'fifo').map((entry) => join(to, entry.path));
  for (const entry of manifest.files) {
    const path = join(to, entry.path);
    if (entry.type === 'dir') await mkdir(path, { mode: 0o700 });
    else if (entry.type === 'symlink') await symlink(entry.target, path);
  }
  const files = manifest.files.filter((entry) => entry.type === 'file').values();
  const worker = async (): Promise<void> => {
    for (const entry of files) {
      await using target = await open(join(to, entry.path), 'wx', 0o600);
      await source(entry, target, signal);
    }
  };
  const workers = await Promise.allSettled(Array.from({ length: FILES_AT_ONCE }, worker));
  for (const one of workers) if (one.status === 'rejected') throw one.reason;
  for (let i = 0; i < fifos.length; i += FIFOS_AT_ONCE) {
    await mustExec(exec, 'mkfifo', ['-m', '600', '--', ...fifos.slice(i, i + FIFOS_AT_ONCE)], { signal, timeoutMs: 30_000 });
  }
  // Backwards: a directory's own time must be set after everything in it exists.
  for (const entry of manifest.files.toReversed()) await setAttributes(join(to, entry.path), entry);
}

async function copyFile(from: string, target: FileHandle, size: number, signal: AbortSignal): Promise<void> {
  await using source = await open(from, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  const stats = await source.stat();
  if (!stats.isFile() || stats.size !== size) throw corrupt(from, `is no plain file of ${size} bytes`);
  let copied = 0;
  await readThrough(source, { signal }, async (chunk) => {
    copied += chunk.length;
    if (copied > size) throw corrupt(from, 'grows while it is read');
    await target.writeFile(chunk);
  });
}

async function setAttributes(path: string, entry: ManifestEntry): Promise<void> {
  await lchown(path, entry.uid, entry.gid);
  // After the owner: chown takes the set-user-id bit away.
  if (entry.type !== 'symlink') await chmod(path, entry.mode);
  // As a date: Node takes a negative number for "now".
  const time = new Date(entry.mtimeMs);
  await lutimes(path, time, time);
}
