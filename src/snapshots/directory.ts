import { hash } from 'node:crypto';
import { constants } from 'node:fs';
import { open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { errno, RekindleError } from '../lib/errors.ts';
import { Fingerprint } from './fingerprint.ts';
import { MAX_MANIFEST_BYTES, type Manifest, type ManifestEntry, parseManifest } from './manifest.ts';
import { BadTree, type Found, type FoundEntry, hashAll, type ReadOptions, syncDirectories, TREES, walk } from './tree.ts';

export const MANIFEST = 'manifest.json';

/** A snapshot's name: the SHA-256 of its manifest's exact bytes, in hex. */
export function digestOf(bytes: Uint8Array): string {
  return hash('sha256', bytes, 'hex');
}

export function corrupt(where: string, fault: string, cause?: unknown): RekindleError {
  return new RekindleError('snapshot_corrupt', `snapshot ${where}: ${fault}. It is never restored again; the next seed makes a new one`, {
    cause,
  });
}

/** The exact bytes of a manifest. `ENOENT` stays what it is: the caller knows whether that means gone or broken. */
export async function readManifestBytes(dir: string): Promise<Buffer> {
  await using file = await open(join(dir, MANIFEST), constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  const stats = await file.stat();
  if (!stats.isFile()) throw corrupt(dir, `${MANIFEST} is no plain file`);
  if (stats.size > MAX_MANIFEST_BYTES) throw corrupt(dir, `${MANIFEST} has ${stats.size} bytes, more than ${MAX_MANIFEST_BYTES}`);
  const buffer = Buffer.alloc(stats.size);
  const { bytesRead } = await file.read(buffer, 0, stats.size, 0);
  return buffer.subarray(0, bytesRead);
}

/** The manifest in `dir`, whose digest must be `digest`. Throws `snapshot_corrupt`, or `snapshot_incompatible` for another schema. */
export async function readManifest(dir: string, digest: string): Promise<Manifest> {
  const bytes = await readManifestBytes(dir).catch((error: unknown) => {
    throw isDamage(error) ? corrupt(dir, `${MANIFEST} cannot be read (${String(error)})`, error) : error;
  });
  const real = digestOf(bytes);
  if (real !== digest) throw corrupt(dir, `${MANIFEST} has digest ${real}`);
  return parseManifest(bytes, dir);
}

/** A missing or unreadable file is damage; running out of descriptors or memory is not. */
export function isDamage(error: unknown): boolean {
  return ['ENOENT', 'ENOTDIR', 'ELOOP', 'EIO', 'EISDIR', 'EUCLEAN', 'EBADMSG'].includes(errno(error) ?? '');
}

/**
 * Compares every byte and every attribute below `dir` with the manifest, and nothing may be there besides. Throws `snapshot_corrupt` naming
 * the first bad file; gives what a cheap check compares with.
 */
export async function verifyTree(dir: string, manifest: Manifest, options: ReadOptions): Promise<Fingerprint> {
  try {
    const stray = (await readdir(dir)).find((name) => name !== MANIFEST && !TREES.some((tree) => tree === name));
    if (stray !== undefined) throw corrupt(dir, `${stray} does not belong there`);
    const { roots, found } = await walk(dir, options.signal);
    const fault = whyDifferent(manifest.files, found);
    if (fault !== undefined) throw corrupt(dir, fault);
    const sums = await hashAll(dir, found, options);
    const wrong = manifest.files.find((entry) => entry.type === 'file' && sums.get(entry.path) !== entry.sha256);
    if (wrong !== undefined) throw corrupt(dir, `the content of ${wrong.path} is not what was written`);
    if (options.sync === true) await syncDirectories(dir, found);
    return new Fingerprint(roots, found);
  } catch (error) {
    if (error instanceof BadTree || isDamage(error)) throw corrupt(dir, error instanceof Error ? error.message : String(error), error);
    throw error;
  }
}

/** Both lists are sorted by path. Times come last: what was added to a directory says more than that its time is another. */
function whyDifferent(wanted: readonly ManifestEntry[], found: readonly Found[]): string | undefined {
  for (let i = 0; i < Math.max(wanted.length, found.length); i++) {
    const want = wanted[i];
    const have = found[i]?.entry;
    if (want === undefined || (have !== undefined && have.path < want.path)) return `${have?.path} does not belong there`;
    if (have === undefined || have.path > want.path) return `${want.path} is missing`;
    const attribute = differs(want, have);
    if (attribute !== undefined) return `${want.path} has another ${attribute}`;
  }
  const late = wanted.find((want, i) => want.mtimeMs !== found[i]?.entry.mtimeMs);
  return late === undefined ? undefined : `${late.path} has another modification time`;
}

function differs(want: ManifestEntry, have: FoundEntry): string | undefined {
  if (want.type !== have.type) return `type (${have.type}, not ${want.type})`;
  if (want.type === 'file' && have.type === 'file' && want.size !== have.size) return `size (${have.size}, not ${want.size})`;
  if (want.type === 'symlink' && have.type === 'symlink' && want.target !== have.target) return 'target';
  if (want.mode !== have.mode) return `mode (${have.mode.toString(8)}, not ${want.mode.toString(8)})`;
  if (want.uid !== have.uid || want.gid !== have.gid) return `owner (${have.uid}:${have.gid}, not ${want.uid}:${want.gid})`;
  return undefined;
}
