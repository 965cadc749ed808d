import { createHash } from 'node:crypto';
import { readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { isRemote, type Mount } from '../checkpoint/mountinfo.ts';
import { orAborted } from '../lib/abort.ts';
import { errno } from '../lib/errors.ts';
import { Semaphore } from '../lib/semaphore.ts';
import type { Container, HostVolume } from '../workloads/host.ts';
import { type Files, filesHere } from './volume-files.ts';

/** By the places of the volumes; or why nobody knows what one of them holds, in words. */
export type VolumeDigests = { readonly digests: Readonly<Record<string, string>> } | { readonly unreadable: string };

/** More than configuration ever has; a volume with more is data. */
const MAX_CONFIG_BYTES = 1024 * 1024;
const MAX_CONFIG_FILES = 200;
/** For all volumes of a container: its slot waits. */
const READ_MS = 1_000;
/** What is read of a server that hangs has one of libuv's four threads until that answers: the others are for everything else. */
const ELSEWHERE_AT_ONCE = 2;

/**
 * Reads what a container's read-only shared volumes hold: configuration of the application, which a clone of another's would have in its memory. Of data,
 * which is more than that, only its identity counts, as the pod says it: a claim or an export by name. What it holds may change under a clone as under
 * any pod that has it open, and to read gigabytes would cost what a restore saves. A volume that cannot be read in time is neither: whether a snapshot
 * fits is not known then, and its container starts cold.
 */
export class VolumeReader {
  readonly #files: Files;
  readonly #turns = new Semaphore(ELSEWHERE_AT_ONCE);

  /** `files`: for volumes that may be on another machine, and so may hang. */
  constructor(deps: { readonly files: Files }) {
    this.#files = deps.files;
  }

  /** Throws when the container's process is gone. */
  async read(container: Container, mounts: readonly Mount[]): Promise<VolumeDigests> {
    const readOnly = new Map(mounts.filter(({ options }) => options.includes('ro')).map((mount) => [mount.at, mount]));
    const places = new Set(mounts.map(({ at }) => join(`/proc/${container.pid}/root`, at)));
    const digests: Record<string, string> = {};
    const signal = AbortSignal.timeout(READ_MS);
    for (const volume of container.volumes) {
      const mount = readOnly.get(volume.at);
      if (volume.kind !== 'shared' || volume.perInstance || mount === undefined) continue;
      const root = join(`/proc/${container.pid}/root`, volume.at);
      const digestOf = (files: Files) => new Tree(files, places, signal).digestOf(root, volume);
      try {
        const digest =
          volume.elsewhere || isRemote(mount)
            ? await orAborted(
                this.#turns.run(() => digestOf(this.#files), signal),
                signal,
              )
            : await digestOf(filesHere);
        if (digest !== undefined) digests[volume.at] = digest;
      } catch (error) {
        // Of a process that is there the kernel always tells.
        readlinkSync(`/proc/${container.pid}/exe`);
        const why = signal.aborted ? `within ${READ_MS} ms` : `(${errno(error) ?? String(error)})`;
        return { unreadable: `its volume at ${volume.at} could not be read ${why}: nobody knows whether a snapshot fits` };
      }
    }
    return { digests };
  }
}

/** SHA-256 over names and contents, following no symlink, and not into what is mounted at one of `places` further down. */
class Tree {
  readonly #files: Files;
  readonly #places: ReadonlySet<string>;
  readonly #signal: AbortSignal;
  readonly #hash = createHash('sha256');
  #count = 0;
  #bytes = 0;

  constructor(files: Files, places: ReadonlySet<string>, signal: AbortSignal) {
    this.#files = files;
    this.#places = places;
    this.#signal = signal;
  }

  /** Undefined for data of which nobody says what it is. */
  async digestOf(root: string, volume: HostVolume): Promise<string | undefined> {
    if (await this.#add(await this.#contentOf(root), '')) return this.#hash.digest('hex');
    return volume.identity === undefined ? undefined : `data ${volume.identity}`;
  }

  /**
   * Where a volume's files are: the kubelet writes those of ConfigMaps and Secrets into a directory whose name differs per pod, and leads there by `..data`
   * (https://kubernetes.io/docs/concepts/configuration/configmap/#mounted-configmaps-are-updated-automatically). Only a name is followed, no path.
   */
  async #contentOf(root: string): Promise<string> {
    try {
      const name = await this.#files.readlink(join(root, '..data'));
      return /^\.\.[^/]+$/.test(name) ? join(root, name) : root;
    } catch {
      return root;
    }
  }

  /** False for a tree that is too large to be configuration. */
  async #add(path: string, name: string): Promise<boolean> {
    this.#signal.throwIfAborted();
    const stats = await this.#files.lstat(path);
    this.#count += 1;
    const room = MAX_CONFIG_BYTES - this.#bytes;
    if (this.#count > MAX_CONFIG_FILES || (stats.isFile() && stats.size > room)) return false;
    this.#hash.update(`${name}\0${stats.mode}\0`);
    if (stats.isSymbolicLink()) this.#hash.update(await this.#files.readlink(path));
    if (stats.isDirectory()) return this.#addEntries(path, name);
    if (!stats.isFile()) return true;
    const content = await this.#files.content(path, room);
    this.#hash.update(content);
    this.#bytes += content.length;
    return content.length <= room;
  }

  async #addEntries(path: string, name: string): Promise<boolean> {
    const names = await this.#files.names(path, MAX_CONFIG_FILES);
    if (names.length > MAX_CONFIG_FILES) return false;
    for (const entry of names.sort()) {
      const within = join(path, entry);
      if (!this.#places.has(within) && !(await this.#add(within, `${name}/${entry}`))) return false;
    }
    return true;
  }
}
