import { chmod, lchown, mkdir, open, readdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { RekindleError } from '../lib/errors.ts';
import { type Exec, mustExec } from '../lib/exec.ts';
import { explainFull } from './capacity.ts';
import { digestOf, MANIFEST, verifyTree } from './directory.ts';
import { Fingerprint } from './fingerprint.ts';
import { type Manifest, parseManifest, type SnapshotFacts } from './manifest.ts';
import { BadTree, type Found, hashAll, syncDirectories, syncDirectory, walk } from './tree.ts';

export type Sealed = { readonly digest: string; readonly manifest: Manifest; readonly fingerprint: Fingerprint };

export type DraftDeps<Published> = {
  readonly dir: string;
  readonly exec: Exec;
  /** Puts the sealed directory in its place; afterwards it is no longer at `dir`, unless the same snapshot was there already. */
  readonly adopt: (dir: string, sealed: Sealed, signal: AbortSignal) => Promise<Published>;
};

/**
 * A snapshot in the making, in a directory of its own inside the store: write into `imagesDir` and `filesDir`, `seal`, try it from there if
 * you like (CRIU's work directory must be elsewhere), then `publish` or dispose. A step that fails leaves nothing behind, and the draft is
 * then of no more use. Dispose may be repeated; after `publish` it does nothing.
 */
export class Draft<Published> implements AsyncDisposable {
  readonly dir: string;
  readonly imagesDir: string;
  readonly filesDir: string;
  readonly #deps: DraftDeps<Published>;
  #gone = false;
  #step: Promise<unknown> = Promise.resolve();
  #sealed: Sealed | undefined;

  private constructor(deps: DraftDeps<Published>) {
    this.#deps = deps;
    this.dir = deps.dir;
    this.imagesDir = join(deps.dir, 'images');
    this.filesDir = join(deps.dir, 'files');
  }

  static async create<P>(deps: DraftDeps<P>): Promise<Draft<P>> {
    const draft = new Draft(deps);
    return draft.#wholly(async () => {
      for (const dir of [draft.dir, draft.imagesDir, draft.filesDir]) await mkdir(dir, { mode: 0o700 });
      return draft;
    });
  }

  /**
   * Hashes everything, writes it and the manifest to the disk. Throws `dump_refused` for files that no manifest can hold (names that are not
   * UTF-8, sockets, devices, too many), `disk_full`.
   */
  async seal(facts: SnapshotFacts, signal: AbortSignal): Promise<Sealed> {
    return this.#wholly(async () => {
      await ownImages(this.imagesDir);
      const { roots, found } = await walk(this.dir, signal);
      const sums = await hashAll(this.dir, found, { signal, sync: true });
      const manifest = describe(facts, found, sums);
      const bytes = Buffer.from(JSON.stringify(manifest));
      check(bytes, this.dir);
      await syncDirectories(this.dir, found);
      return this.#finish(bytes, manifest, new Fingerprint(roots, found));
    });
  }

  /** As `seal`, for content that came with its manifest: all of it must be as the manifest says. Throws `snapshot_corrupt`, `disk_full`. */
  async sealReceived(bytes: Uint8Array, signal: AbortSignal): Promise<Sealed> {
    return this.#wholly(async () => {
      const manifest = parseManifest(bytes, this.dir);
      return this.#finish(bytes, manifest, await verifyTree(this.dir, manifest, { signal, sync: true }));
    });
  }

  /** Makes the sealed snapshot visible, whole, by one rename. The same snapshot published twice gives the one that is there. */
  async publish(signal: AbortSignal): Promise<Published> {
    const sealed = this.#sealed;
    if (sealed === undefined) throw new RekindleError('internal', `draft ${this.dir} was published before it was sealed`);
    return this.#wholly(async () => {
      const published = await this.#deps.adopt(this.dir, sealed, signal);
      await this.#remove();
      return published;
    });
  }

  /** Waits for the step that runs: a rename during the removal would publish half of it. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#step.catch(() => undefined);
    await this.#remove();
  }

  async #remove(): Promise<void> {
    if (this.#gone) return;
    // By `rm`, because Node's own rm cannot remove names that are not UTF-8; and never into something mounted there.
    await mustExec(this.#deps.exec, 'rm', ['-rf', '--one-file-system', '--', this.dir]);
    this.#gone = true;
  }

  /** The manifest comes last: its presence says that everything else is there. */
  async #finish(bytes: Uint8Array, manifest: Manifest, fingerprint: Fingerprint): Promise<Sealed> {
    await using file = await open(join(this.dir, MANIFEST), 'wx', 0o600);
    await file.writeFile(bytes);
    await file.sync();
    await syncDirectory(this.dir);
    this.#sealed = { digest: digestOf(bytes), manifest, fingerprint };
    return this.#sealed;
  }

  #wholly<T>(step: () => Promise<T>): Promise<T> {
    const running = this.#attempt(step);
    this.#step = running;
    return running;
  }

  async #attempt<T>(step: () => Promise<T>): Promise<T> {
    try {
      return await step();
    } catch (error) {
      const explained = await explainFull(dirname(this.dir), error);
      // The first error is the one to tell; what cannot be removed now is removed by the next `open`.
      await this.#remove().catch(() => undefined);
      if (explained instanceof BadTree) {
        throw new RekindleError('dump_refused', `what the container changed cannot be in a snapshot: ${explained.message}`, {
          cause: error,
        });
      }
      throw explained;
    }
  }
}

/** CRIU writes as it likes; in a snapshot images are root's alone. */
async function ownImages(dir: string): Promise<void> {
  for (const entry of await readdir(dir, { withFileTypes: true })) {
    if (!entry.isFile()) throw new RekindleError('internal', `${join(dir, entry.name)} is no plain file, which CRIU's images are`);
    await lchown(join(dir, entry.name), 0, 0);
    await chmod(join(dir, entry.name), 0o600);
  }
}

function describe(facts: SnapshotFacts, found: readonly Found[], sums: ReadonlyMap<string, string>): Manifest {
  const files = found.map(({ entry }) => (entry.type === 'file' ? { ...entry, sha256: sums.get(entry.path) ?? '' } : entry));
  const totalBytes = files.reduce((sum, entry) => sum + (entry.type === 'file' ? entry.size : 0), 0);
  return { schema: 1, ...facts, totalBytes, files };
}

/** What we write must be what every reader accepts; if not, the facts are wrong, and not the disk. */
function check(bytes: Uint8Array, dir: string): void {
  try {
    parseManifest(bytes, dir);
  } catch (error) {
    throw new RekindleError(
      'internal',
      `the facts of a new snapshot are wrong: ${error instanceof Error ? error.message : String(error)}`,
      { cause: error },
    );
  }
}
