import { readFileSync, statSync } from 'node:fs';
import { lstat, readdir, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { errno, RekindleError } from '../lib/errors.ts';
import { type Exec, mustExec } from '../lib/exec.ts';
import type { Log } from '../lib/log.ts';
import { digestOf, MANIFEST, readManifest, verifyTree } from './directory.ts';
import type { Sealed } from './draft.ts';
import type { Fingerprint } from './fingerprint.ts';
import { doomedName } from './leftovers.ts';
import type { Manifest } from './manifest.ts';
import { type Paced, syncDirectory } from './tree.ts';

/** A published snapshot: immutable, only ever removed. `digest` is 64 hex digits. */
export type Snapshot = {
  readonly digest: string;
  readonly dir: string;
  readonly imagesDir: string;
  readonly filesDir: string;
  readonly manifest: Manifest;
};

export type ShelfDeps = { readonly dir: string; readonly log: Log; readonly exec: Exec };

/** Far longer than a tick of any file system's clock. */
const SETTLED_MS = 2_000;
const DIGEST = /^[0-9a-f]{64}$/;

/**
 * The published snapshots as they lie in the store's directory: putting one there, checking one, taking one away. What it remembers is only a
 * cache of the disk, except for the fingerprints.
 */
export class Shelf {
  readonly #dir: string;
  readonly #log: Log;
  readonly #exec: Exec;
  readonly #known = new Map<string, { readonly snapshot: Snapshot; readonly fingerprint: Fingerprint | undefined }>();
  readonly #unreadable = new Set<string>();
  #names: { readonly mtimeMs: number; readonly digests: readonly string[] } = { mtimeMs: Number.NaN, digests: [] };

  constructor(deps: ShelfDeps) {
    this.#dir = deps.dir;
    this.#log = deps.log;
    this.#exec = deps.exec;
  }

  /**
   * The names of what is there, whether sound or not. Every restore asks: the directory, whose lock a busy disk may hold, is read only when it has changed, as
   * its time tells once that is so old that no further change can have the same.
   */
  async digests(): Promise<readonly string[]> {
    try {
      const { mtimeMs } = statSync(this.#dir);
      if (mtimeMs === this.#names.mtimeMs) return this.#names.digests;
      const digests = (await readdir(this.#dir)).filter((name) => DIGEST.test(name));
      this.#names = { mtimeMs: Date.now() - mtimeMs > SETTLED_MS ? mtimeMs : Number.NaN, digests };
      return digests;
    } catch (error) {
      if (errno(error) === 'ENOENT') return [];
      throw error;
    }
  }

  /** Every snapshot whose manifest is sound, newest first, with what other processes published and without what they removed. */
  async list(): Promise<readonly Snapshot[]> {
    const there = new Set(await this.digests());
    for (const digest of this.#known.keys()) if (!there.has(digest)) this.#known.delete(digest);
    for (const digest of there) if (!this.#known.has(digest) && !this.#unreadable.has(digest)) await this.#learn(digest);
    return [...this.#known.values()].map(({ snapshot }) => snapshot).sort(newestFirst);
  }

  /** See `SnapshotStore.verify`. */
  async verify(digest: string, signal: AbortSignal, paced?: Paced): Promise<Snapshot> {
    const dir = this.#dirOf(digest);
    try {
      const manifest = await readManifest(dir, digest);
      const fingerprint = await verifyTree(dir, manifest, { signal, ...(paced === undefined ? {} : { paced }) });
      return this.#remember(digest, manifest, fingerprint);
    } catch (error) {
      if (!(error instanceof RekindleError) || error.code !== 'snapshot_corrupt') throw error;
      // Removed meanwhile, here or by another process, is not corrupt.
      if (!(await exists(dir))) {
        this.#known.delete(digest);
        throw notFound(digest);
      }
      this.#log.warn({ snapshot: digest, problem: error.message }, 'corrupt snapshot removed');
      await this.discard(digest, 'corrupt');
      throw error;
    }
  }

  /** See `SnapshotStore.checkCheap`. */
  async checkCheap(digest: string, signal: AbortSignal): Promise<Snapshot> {
    const known = this.#known.get(digest);
    if (known?.fingerprint === undefined) return this.verify(digest, signal);
    const changed = manifestIsAs(digest, known.snapshot.dir) ? await known.fingerprint.firstChange(known.snapshot.dir) : MANIFEST;
    if (changed === undefined) return known.snapshot;
    this.#log.warn({ snapshot: digest, changed }, 'snapshot was touched, verifying it whole');
    return this.verify(digest, signal);
  }

  /** Moves a sealed draft to its place, or gives the same snapshot that is there already, verified whole. */
  async adopt(draftDir: string, sealed: Sealed, signal: AbortSignal): Promise<Snapshot> {
    const { digest, manifest } = sealed;
    let fingerprint = sealed.fingerprint;
    // Between sealing and publishing a trial restore may have used it, and must not have changed it.
    const untouched = manifestIsAs(digest, draftDir) && (await fingerprint.firstChange(draftDir)) === undefined;
    if (!untouched) fingerprint = await verifyTree(draftDir, await readManifest(draftDir, digest), { signal });
    for (;;) {
      signal.throwIfAborted();
      try {
        await rename(draftDir, this.#dirOf(digest));
        await syncDirectory(this.#dir);
        return this.#remember(digest, manifest, fingerprint);
      } catch (error) {
        if (errno(error) !== 'ENOTEMPTY' && errno(error) !== 'EEXIST') throw error;
      }
      // If the one that is there turns out corrupt it is gone now, and the new one takes its place.
      const existing = await this.verify(digest, signal).catch((error: unknown) => {
        if (error instanceof RekindleError && (error.code === 'snapshot_corrupt' || error.code === 'not_found')) return undefined;
        throw error;
      });
      if (existing !== undefined) return existing;
    }
  }

  /** Takes a snapshot away: out of sight by a rename first, so that no one ever sees half of it. False if it was not there. */
  async discard(digest: string, why: 'removed' | 'corrupt'): Promise<boolean> {
    const doomed = doomedName(why, digest);
    this.#known.delete(digest);
    try {
      await rename(this.#dirOf(digest), join(this.#dir, doomed));
    } catch (error) {
      if (errno(error) === 'ENOENT') return false;
      throw error;
    }
    await this.delete(doomed);
    return true;
  }

  /** Deletes an entry of the directory. By `rm`, because Node's own rm cannot remove names that are not UTF-8; never into a mount. */
  async delete(name: string): Promise<void> {
    await mustExec(this.#exec, 'rm', ['-rf', '--one-file-system', '--', join(this.#dir, name)]);
  }

  #remember(digest: string, manifest: Manifest, fingerprint: Fingerprint | undefined): Snapshot {
    const dir = this.#dirOf(digest);
    const snapshot = { digest, dir, imagesDir: join(dir, 'images'), filesDir: join(dir, 'files'), manifest };
    this.#known.set(digest, { snapshot, fingerprint });
    this.#unreadable.delete(digest);
    return snapshot;
  }

  /** An unsound one is left for the next whole verification to remove, and said once. */
  async #learn(digest: string): Promise<void> {
    const dir = this.#dirOf(digest);
    try {
      this.#remember(digest, await readManifest(dir, digest), undefined);
    } catch (err) {
      if (!(err instanceof RekindleError)) throw err;
      if (!(await exists(dir))) return;
      this.#unreadable.add(digest);
      this.#log.warn({ snapshot: digest, err }, 'snapshot left out');
    }
  }

  #dirOf(digest: string): string {
    if (!DIGEST.test(digest)) throw new RekindleError('usage', `${JSON.stringify(digest)} is no digest of a snapshot: 64 hex digits`);
    return join(this.#dir, digest);
  }
}

export function notFound(digest: string): RekindleError {
  return new RekindleError('not_found', `no snapshot ${digest}: \`rekindle snapshots ls\` shows those there are`);
}

/** Synchronous: a few dozen microseconds, before every restore. */
function manifestIsAs(digest: string, dir: string): boolean {
  try {
    return digestOf(readFileSync(join(dir, MANIFEST))) === digest;
  } catch {
    return false;
  }
}

function newestFirst(a: Snapshot, b: Snapshot): number {
  return Date.parse(b.manifest.createdAt) - Date.parse(a.manifest.createdAt) || (a.digest < b.digest ? -1 : 1);
}

async function exists(path: string): Promise<boolean> {
  return lstat(path).then(
    () => true,
    (error: unknown) => errno(error) !== 'ENOENT',
  );
}
