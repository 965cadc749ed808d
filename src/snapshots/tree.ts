import { createHash } from 'node:crypto';
import { constants, type Stats } from 'node:fs';
import { type FileHandle, lstat, open, readdir, readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { MAX_ENTRIES, type ManifestEntry } from './manifest.ts';

/** Looking at the two trees of a snapshot's directory, `images/` and `files/`, as they lie on the disk. */

export const TREES = ['images', 'files'] as const;

/** Small enough that hashing one piece (about 0.15 ms) does not delay whatever else the agent does. */
const CHUNK_BYTES = 256 * 1024;
const PARALLEL_FILES = 4;

type Of<Entry, Lost extends string> = Entry extends unknown ? Omit<Entry, Lost> : never;
/** An entry as `lstat` shows it: everything but the content. */
export type FoundEntry = Of<ManifestEntry, 'sha256'>;
/** `stats` were taken before the content was read, so that a later change shows. */
export type Found = { readonly entry: FoundEntry; readonly stats: Stats };

/** Something that cannot be in a snapshot: a name that is not UTF-8, a socket, a device, too many entries. */
export class BadTree extends Error {}

/** Called with the number of bytes just read; may wait, to read slower. */
export type Paced = (bytes: number) => Promise<void> | undefined;
export type ReadOptions = { readonly signal: AbortSignal; readonly paced?: Paced; readonly sync?: boolean };

/** Every entry below images/ and files/, sorted by path, and the stats of those two themselves. Throws {@link BadTree}. */
export async function walk(dir: string, signal: AbortSignal): Promise<{ roots: readonly Stats[]; found: readonly Found[] }> {
  const found: Found[] = [];
  const roots: Stats[] = [];
  const directories: string[] = [...TREES];
  for (const tree of TREES) {
    const stats = await lstat(join(dir, tree));
    if (!stats.isDirectory()) throw new BadTree(`${tree} is no directory`);
    roots.push(stats);
  }
  for (let at = directories.pop(); at !== undefined; at = directories.pop()) {
    signal.throwIfAborted();
    for (const name of await readdir(join(dir, at), { encoding: 'buffer' })) {
      const path = `${at}/${utf8(name, at)}`;
      const one = await look(dir, path);
      if (one.entry.type === 'dir') directories.push(path);
      if (found.push(one) > MAX_ENTRIES) throw new BadTree(`more than ${MAX_ENTRIES} files`);
    }
  }
  found.sort((a, b) => (a.entry.path < b.entry.path ? -1 : 1));
  return { roots, found };
}

function utf8(bytes: Buffer, at: string): string {
  const text = bytes.toString('utf8');
  if (!Buffer.from(text, 'utf8').equals(bytes)) {
    throw new BadTree(`a name in ${at} is not UTF-8 (${JSON.stringify(bytes.toString('latin1'))}), which a manifest cannot hold`);
  }
  return text;
}

async function look(dir: string, path: string): Promise<Found> {
  const stats = await lstat(join(dir, path));
  const common = { path, mode: stats.mode & 0o7777, uid: stats.uid, gid: stats.gid, mtimeMs: Math.round(stats.mtimeMs) };
  if (stats.isFile()) return { entry: { type: 'file', ...common, size: stats.size }, stats };
  if (stats.isDirectory()) return { entry: { type: 'dir', ...common }, stats };
  if (stats.isFIFO()) return { entry: { type: 'fifo', ...common }, stats };
  if (stats.isSymbolicLink()) {
    const target = utf8(await readlink(join(dir, path), { encoding: 'buffer' }), `the symlink ${path}`);
    return { entry: { type: 'symlink', ...common, target }, stats };
  }
  throw new BadTree(`${path} is a socket or a device`);
}

/** The SHA-256 of every file found, by path; with `sync`, each is on the disk before it counts. Throws {@link BadTree} when one changes meanwhile. */
export async function hashAll(dir: string, found: readonly Found[], options: ReadOptions): Promise<ReadonlyMap<string, string>> {
  const sums = new Map<string, string>();
  const files = found.filter(({ entry }) => entry.type === 'file').values();
  const worker = async (): Promise<void> => {
    for (const { entry, stats } of files) sums.set(entry.path, await hashFile(dir, entry.path, stats, options));
  };
  const workers = await Promise.allSettled(Array.from({ length: PARALLEL_FILES }, worker));
  for (const one of workers) if (one.status === 'rejected') throw one.reason;
  return sums;
}

async function hashFile(dir: string, path: string, before: Stats, options: ReadOptions): Promise<string> {
  await using file = await open(join(dir, path), constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  const hash = createHash('sha256');
  await readThrough(file, options, (chunk) => {
    hash.update(chunk);
  });
  if (options.sync === true) await file.sync();
  const after = await file.stat();
  if (after.ino !== before.ino || after.size !== before.size || after.ctimeMs !== before.ctimeMs)
    throw new BadTree(`${path} changed while it was read`);
  return hash.digest('hex');
}

/** Reads to the end, chunk by chunk; a chunk is only valid until the consumer's promise resolves. */
export async function readThrough(file: FileHandle, options: ReadOptions, consume: (chunk: Buffer) => Promise<void> | void): Promise<void> {
  const buffer = Buffer.allocUnsafe(CHUNK_BYTES);
  for (;;) {
    options.signal.throwIfAborted();
    const { bytesRead } = await file.read(buffer, 0, CHUNK_BYTES);
    if (bytesRead === 0) return;
    await consume(buffer.subarray(0, bytesRead));
    await options.paced?.(bytesRead);
  }
}

/** Puts what was created, renamed or removed in a directory on the disk. */
export async function syncDirectory(dir: string): Promise<void> {
  await using handle = await open(dir, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
  await handle.sync();
}

export async function syncDirectories(dir: string, found: readonly Found[]): Promise<void> {
  for (const { entry } of found) if (entry.type === 'dir') await syncDirectory(join(dir, entry.path));
  for (const tree of TREES) await syncDirectory(join(dir, tree));
}
