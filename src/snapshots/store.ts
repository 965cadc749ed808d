import { chmod, lstat, mkdir, readdir, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import type { Clock } from '../lib/clock.ts';
import { freeBytes } from '../lib/disk.ts';
import { errno, RekindleError } from '../lib/errors.ts';
import type { Exec } from '../lib/exec.ts';
import type { Log } from '../lib/log.ts';
import type { Controller } from '../lib/loop.ts';
import { ensureRoom, explainFull } from './capacity.ts';
import { whyIncompatible } from './compatibility.ts';
import { isDamage, MANIFEST, readManifestBytes } from './directory.ts';
import { Draft } from './draft.ts';
import { isLeftover, partialName } from './leftovers.ts';
import { type MachineClass, type Manifest, parseManifest } from './manifest.ts';
import { type Mark, Marks } from './marks.ts';
import { copyTree, type FileSource, makeTree } from './receive.ts';
import { chooseForRemoval, type Removal, type RetentionPolicy } from './retention.ts';
import { notFound, Shelf, type Snapshot } from './shelf.ts';
import type { Paced } from './tree.ts';

export type SnapshotDraft = Draft<Snapshot>;

/** What `open` found: snapshots that are whole, those it removed, those of another schema that it left, and half-written things it removed. */
export type Opened = {
  readonly intact: readonly Snapshot[];
  readonly corrupt: readonly { readonly digest: string; readonly problem: string }[];
  readonly foreign: readonly string[];
  readonly swept: readonly string[];
};

export type SnapshotStoreDeps = { readonly dir: string; readonly log: Log; readonly clock: Clock; readonly exec: Exec };

/**
 * The snapshots of one machine: `<dir>/<digest>/{images,files,manifest.json}`, root's alone, since a snapshot is memory and holds secrets. Each is
 * there whole or not at all. Several processes may use one directory: reading methods look at the disk each time, but pins are of one
 * process, so only the agent should remove. An aborted `signal` rejects with its reason.
 */
export class SnapshotStore {
  readonly #dir: string;
  readonly #log: Log;
  readonly #clock: Clock;
  readonly #exec: Exec;
  readonly #shelf: Shelf;
  /** Left alone because their restores failed. */
  readonly #quarantine: Marks;
  /** Restored here for once, of those for which that is the trial. */
  readonly #proven: Marks;
  readonly #pins = new Map<string, number>();

  constructor(deps: SnapshotStoreDeps) {
    this.#dir = deps.dir;
    this.#log = deps.log;
    this.#clock = deps.clock;
    this.#exec = deps.exec;
    this.#shelf = new Shelf(deps);
    this.#quarantine = new Marks({ ...deps, file: '.quarantine.json' });
    this.#proven = new Marks({ ...deps, file: '.proven.json' });
  }

  /**
   * Creates the directory if need be, removes what is left over of writers that are gone, and verifies every snapshot whole; corrupt ones
   * are removed. The agent does this at its start; to list, it is not needed. Throws `machine_unsupported` if the directory is somebody else's.
   */
  async open(signal: AbortSignal): Promise<Opened> {
    await this.#createDirectory();
    const swept = await this.#sweep();
    const intact: Snapshot[] = [];
    const corrupt: { digest: string; problem: string }[] = [];
    const foreign: string[] = [];
    for (const digest of await this.#shelf.digests()) {
      try {
        intact.push(await this.verify(digest, signal));
      } catch (error) {
        if (hasCode(error, 'snapshot_corrupt')) corrupt.push({ digest, problem: error.message });
        else if (hasCode(error, 'snapshot_incompatible')) foreign.push(digest);
        else if (!hasCode(error, 'not_found')) throw error;
      }
    }
    return { intact, corrupt, foreign, swept };
  }

  /** A place to write a new snapshot into. Throws `disk_full`. */
  async begin(): Promise<SnapshotDraft> {
    await this.#createDirectory();
    return Draft.create<Snapshot>({
      dir: join(this.#dir, await partialName()),
      exec: this.#exec,
      adopt: (dir, sealed, signal) => this.#shelf.adopt(dir, sealed, signal),
    });
  }

  /**
   * Copies a snapshot's directory of unknown origin into the store. Nothing of it is visible before all of it was compared with its manifest.
   * Throws `not_found`, `snapshot_corrupt`, `snapshot_incompatible`, `disk_full`.
   */
  async importDirectory(from: string, signal: AbortSignal): Promise<Snapshot> {
    const bytes = await readManifestBytes(from).catch((error: unknown) => {
      throw errno(error) === 'ENOENT'
        ? new RekindleError('not_found', `${from} has no ${MANIFEST}: it is no snapshot`, { cause: error })
        : error;
    });
    return this.#receive(bytes, from, signal, (to, manifest) =>
      copyTree(from, to, manifest, this.#exec, signal).catch((error: unknown) => {
        if (!isDamage(error)) throw error;
        throw new RekindleError('snapshot_corrupt', `${from} lacks what its manifest lists: ${String(error)}. Fetch it again`, {
          cause: error,
        });
      }),
    );
  }

  /**
   * Takes in a snapshot that comes from elsewhere, with the same care: `manifest` are the exact bytes of its manifest, `source` gives the content of
   * one file (several are asked for at once), `from` is its origin in words. Throws `snapshot_corrupt`, `snapshot_incompatible`, `disk_full`
   * and what `source` throws.
   */
  receive(manifest: Uint8Array, source: FileSource, from: string, signal: AbortSignal): Promise<Snapshot> {
    return this.#receive(manifest, from, signal, (to, parsed) => makeTree(source, to, parsed, this.#exec, signal));
  }

  async #receive(
    bytes: Uint8Array,
    from: string,
    signal: AbortSignal,
    fill: (to: string, manifest: Manifest) => Promise<void>,
  ): Promise<Snapshot> {
    const manifest = parseManifest(bytes, from);
    await this.#createDirectory();
    await this.ensureRoom(manifest.totalBytes + bytes.length);
    await using draft = await this.begin();
    await fill(draft.dir, manifest).catch(async (error: unknown) => {
      throw await explainFull(this.#dir, error);
    });
    await draft.sealReceived(bytes, signal);
    return await draft.publish(signal);
  }

  /** Every snapshot there is, newest first. */
  list(): Promise<readonly Snapshot[]> {
    return this.#shelf.list();
  }

  /** By digest, or by the start of one that is unique (`sha256:` may stand before it). Throws `not_found`, and `usage` when several fit. */
  async get(digestOrPrefix: string): Promise<Snapshot> {
    const prefix = digestOrPrefix.replace(/^sha256:/, '');
    const fitting = (await this.list()).filter(({ digest }) => prefix !== '' && digest.startsWith(prefix));
    const [first, second] = fitting;
    if (first === undefined) throw notFound(digestOrPrefix);
    if (second === undefined) return first;
    const names = fitting.map(({ digest }) => digest.slice(0, prefix.length + 8)).join(', ');
    throw new RekindleError('usage', `${fitting.length} snapshots begin with ${prefix}: ${names}. Give more digits`);
  }

  /** The newest snapshot for this spec hash that fits this machine, is no older than that and not quarantined. */
  async find(specHash: string, machine: MachineClass, maxAgeMs = Number.POSITIVE_INFINITY): Promise<Snapshot | undefined> {
    const fitting = (await this.list()).filter(
      ({ manifest }) =>
        manifest.specHash === specHash &&
        this.#clock.now() - Date.parse(manifest.createdAt) <= maxAgeMs &&
        whyIncompatible(manifest.class, machine) === undefined,
    );
    if (fitting.length === 0) return undefined;
    const quarantined = this.#quarantine.all();
    return fitting.find(({ digest }) => !quarantined.has(digest));
  }

  /** Why the newest snapshot for this spec hash cannot be restored on this machine, in words; undefined where none is kept, or one fits. */
  async misfit(specHash: string, machine: MachineClass): Promise<string | undefined> {
    const kept = (await this.list()).filter(({ manifest }) => manifest.specHash === specHash);
    const why = kept.map(({ manifest }) => whyIncompatible(manifest.class, machine));
    const [newest] = kept;
    return newest === undefined || why.includes(undefined) ? undefined : `snapshot ${newest.digest.slice(0, 12)} was ${why[0]}`;
  }

  /** Reads every byte. Throws `snapshot_corrupt` naming the first bad file (the snapshot is then removed), `not_found`, `snapshot_incompatible`. */
  verify(digest: string, signal: AbortSignal, paced?: Paced): Promise<Snapshot> {
    return this.#shelf.verify(digest, signal, paced);
  }

  /**
   * What must precede every restore: the manifest's digest, and inode, size and ctime of every entry as they were when last verified. If
   * anything differs, or this process never verified it, it is verified whole. Throws as `verify` does.
   */
  checkCheap(digest: string, signal: AbortSignal): Promise<Snapshot> {
    return this.#shelf.checkCheap(digest, signal);
  }

  /** A controller that verifies everything, reading at most so many bytes per second, and again `everyMs` after it has finished. */
  verifier(options: { readonly bytesPerSecond: number; readonly everyMs: number }): Controller {
    return {
      name: 'snapshots-verify',
      reconcile: async (signal) => {
        const paced = pacer(options.bytesPerSecond, this.#clock, signal);
        for (const { digest } of await this.list()) {
          await this.verify(digest, signal, paced).catch((error: unknown) => {
            if (!hasCode(error, 'snapshot_corrupt') && !hasCode(error, 'not_found')) throw error;
          });
        }
        return { requeueAfterMs: options.everyMs };
      },
    };
  }

  /** Holds a snapshot as in use by a restore: until disposed it is not removed, unless it is corrupt. */
  pin(digest: string): Disposable {
    this.#pins.set(digest, (this.#pins.get(digest) ?? 0) + 1);
    let held = true;
    return {
      [Symbol.dispose]: () => {
        if (!held) return;
        held = false;
        const left = (this.#pins.get(digest) ?? 1) - 1;
        if (left === 0) this.#pins.delete(digest);
        else this.#pins.set(digest, left);
      },
    };
  }

  /** Removes a snapshot and its quarantine. Throws `not_found`, and `usage` (retryable) while it is pinned. */
  async remove(digest: string): Promise<void> {
    if (this.#pins.has(digest)) {
      throw new RekindleError('usage', `snapshot ${digest} is being restored: remove it when that has ended`, { retryable: true });
    }
    if (!(await this.#shelf.discard(digest, 'removed'))) throw notFound(digest);
    await this.#unmark(digest);
    this.#log.info({ snapshot: digest }, 'snapshot removed');
  }

  /** Removes what the policies (by workload) no longer keep; pinned ones stay, and so do workloads without a policy. */
  async prune(policies: ReadonlyMap<string, RetentionPolicy>): Promise<readonly Removal[]> {
    const removed: Removal[] = [];
    for (const [workload, snapshots] of Map.groupBy(await this.list(), ({ manifest }) => manifest.workload)) {
      const policy = policies.get(workload);
      if (policy === undefined) continue;
      const kept = snapshots.map(({ digest, manifest: { specHash, createdAt, totalBytes } }) => ({
        digest,
        specHash,
        createdAtMs: Date.parse(createdAt),
        totalBytes,
      }));
      for (const removal of chooseForRemoval(kept, policy, this.#clock.now())) {
        if (this.#pins.has(removal.digest) || !(await this.#shelf.discard(removal.digest, 'removed'))) continue;
        await this.#unmark(removal.digest);
        this.#log.info({ snapshot: removal.digest, workload, because: removal.because }, 'snapshot removed');
        removed.push(removal);
      }
    }
    return removed;
  }

  /** Leaves a snapshot alone from now on, across restarts, until it is removed: `find` no longer gives it. */
  async quarantine(digest: string, reason: string): Promise<void> {
    await this.#quarantine.add(digest, { reason, atMs: this.#clock.now() });
    this.#log.warn({ snapshot: digest, reason }, 'snapshot quarantined');
  }

  /** When it was last wanted: see {@link want}, or else when it was put here; the present for one that is gone. */
  async wantedAtMs(digest: string): Promise<number> {
    return (await lstat(join(this.#dir, digest)).catch(() => undefined))?.mtimeMs ?? this.#clock.now();
  }

  /** Notes in the times of its directory, which nothing checks, that it is wanted still. */
  async want(digest: string): Promise<void> {
    const now = this.#clock.now() / 1000;
    // It may have been removed.
    await utimes(join(this.#dir, digest), now, now).catch(() => undefined);
  }

  /** Those that are left alone, by digest. */
  quarantined(): ReadonlyMap<string, Mark> {
    return this.#quarantine.all();
  }

  /** Remembers, across restarts, that a restore of it succeeded here. Safe to repeat. */
  async prove(digest: string): Promise<void> {
    if (!this.isProven(digest)) await this.#proven.add(digest, { reason: 'restored', atMs: this.#clock.now() });
  }

  isProven(digest: string): boolean {
    return this.#proven.all().has(digest);
  }

  async #unmark(digest: string): Promise<void> {
    await this.#quarantine.clear(digest);
    await this.#proven.clear(digest);
  }

  freeBytes(): Promise<number> {
    return freeBytes(this.#dir);
  }

  /** Throws `disk_full`, with the numbers, unless `bytes` more fit. */
  ensureRoom(bytes: number): Promise<void> {
    return ensureRoom(this.#dir, bytes);
  }

  async #sweep(): Promise<readonly string[]> {
    const swept: string[] = [];
    for (const name of await readdir(this.#dir)) {
      if (!(await isLeftover(name))) continue;
      await this.#shelf.delete(name);
      swept.push(name);
      this.#log.info({ name }, 'leftover of a snapshot removed');
    }
    return swept;
  }

  async #createDirectory(): Promise<void> {
    await mkdir(this.#dir, { recursive: true, mode: 0o700 });
    const stats = await lstat(this.#dir);
    if (!stats.isDirectory() || stats.uid !== process.geteuid?.()) {
      throw new RekindleError(
        'machine_unsupported',
        `the snapshot directory ${this.#dir} must be a directory of the user that rekindle runs as, since snapshots hold secrets. Choose another`,
      );
    }
    if ((stats.mode & 0o7777) !== 0o700) await chmod(this.#dir, 0o700);
  }
}

function hasCode(error: unknown, code: RekindleError['code']): error is RekindleError {
  return error instanceof RekindleError && error.code === code;
}

/** One reader waits at a time, so that several together stay below the rate. */
function pacer(bytesPerSecond: number, clock: Clock, signal: AbortSignal): Paced {
  let last: Promise<void> = Promise.resolve();
  return (bytes) => {
    last = last.then(() => clock.sleep((bytes / bytesPerSecond) * 1000, signal));
    return last;
  };
}
