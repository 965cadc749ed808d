import { chmod, chown, mkdir, readFile, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { errno, RekindleError } from '../lib/errors.ts';
import { type Exec, mustExec } from '../lib/exec.ts';
import type { VolumeSpec } from '../workloads/workload.ts';
import type { ContainerPaths } from './record.ts';

/** What `rootfs: host` containers may write into their root filesystem. It is memory, counted against the container's limit. */
const HOST_ROOT_SIZE_MIB = 1024;

/** A volume of a container, and where its content lies on this machine. */
export type MadeVolume = { readonly at: string; readonly kind: 'private' | 'shared'; readonly source: string; readonly readOnly: boolean };

/** Mounts and directories of one container. Everything lies in its own directory. */
export class ContainerFiles {
  readonly #exec: Exec;
  readonly #paths: ContainerPaths;

  constructor(deps: { exec: Exec; paths: ContainerPaths }) {
    this.#exec = deps.exec;
    this.#paths = deps.paths;
  }

  /**
   * Mounts a fresh root filesystem: an overlay whose writes lie in the container's directory. Over the machine's own root (`lower` is `/`)
   * they lie on a tmpfs, because the kernel allows no upper directory within a lower one.
   */
  async mountRoot(lower: string, signal: AbortSignal): Promise<void> {
    const { root, fresh } = this.#paths;
    await Promise.all([mkdir(root, { recursive: true }), mkdir(fresh, { recursive: true })]);
    if (lower === '/') await this.#mount('tmpfs', 'rekindle', fresh, `mode=700,size=${HOST_ROOT_SIZE_MIB}m`, signal);
    await this.#overlay(lower, fresh, root, signal);
  }

  /** Takes the root filesystem down and forgets what was written into it. */
  async unmountRoot(): Promise<void> {
    const { root, fresh } = this.#paths;
    await this.#unmount((point) => within(root, point) || within(fresh, point));
    await rm(fresh, { recursive: true, force: true });
  }

  /**
   * Makes the volumes. Private ones are empty; a trial container gets throw-away copies of the shared ones (an overlay, so that copying
   * costs nothing until it writes). Throws `config_invalid` when a shared one is not there.
   */
  async makeVolumes(volumes: readonly VolumeSpec[], trial: boolean, signal: AbortSignal): Promise<readonly MadeVolume[]> {
    const made: MadeVolume[] = [];
    for (const [index, volume] of volumes.entries()) {
      const dir = path.join(this.#paths.volumes, String(index));
      made.push(
        'private' in volume ? await this.#privateVolume(volume, dir, signal) : await this.#sharedVolume(volume, dir, trial, signal),
      );
    }
    return made;
  }

  /** Forgets what is in the private volumes. Shared ones lie elsewhere. */
  async removeVolumes(): Promise<void> {
    const { volumes } = this.#paths;
    await this.#unmount((point) => within(volumes, point));
    await rm(volumes, { recursive: true, force: true });
  }

  /** Unmounts everything and removes the container's directory. */
  async remove(): Promise<void> {
    await this.#unmount((point) => within(this.#paths.dir, point));
    await rm(this.#paths.dir, { recursive: true, force: true });
  }

  async #privateVolume(volume: Extract<VolumeSpec, { private: string }>, dir: string, signal: AbortSignal): Promise<MadeVolume> {
    const source = path.join(dir, 'content');
    await mkdir(source, { recursive: true });
    const size = volume.sizeMiB === undefined ? '' : `,size=${volume.sizeMiB}m`;
    if (volume.private === 'memory') await this.#mount('tmpfs', 'rekindle', source, `mode=777,nosuid,nodev${size}`, signal);
    // As an emptyDir: whatever user the container runs as may write.
    else await chmod(source, 0o777);
    return { at: volume.at, kind: 'private', source, readOnly: false };
  }

  async #sharedVolume(
    volume: Extract<VolumeSpec, { from: string }>,
    dir: string,
    trial: boolean,
    signal: AbortSignal,
  ): Promise<MadeVolume> {
    const made = { at: volume.at, kind: 'shared', source: path.resolve(volume.from), readOnly: volume.readOnly } as const;
    const found = await stat(made.source).catch((error: unknown) => {
      throw new RekindleError(
        'config_invalid',
        `the volume at ${volume.at} is to come from ${made.source}, which cannot be read (${errno(error)}): create it first`,
        { cause: error },
      );
    });
    if (!trial || volume.readOnly) return made;
    const copy = path.join(dir, 'copy');
    await mkdir(dir, { recursive: true });
    if (!found.isDirectory()) {
      await mustExec(this.#exec, 'cp', ['-a', '--reflink=auto', made.source, copy], { signal });
      return { ...made, source: copy };
    }
    await mkdir(copy);
    const fresh = path.join(dir, 'fresh');
    await mkdir(fresh);
    await this.#mount('tmpfs', 'rekindle', fresh, `mode=700,size=${HOST_ROOT_SIZE_MIB}m`, signal);
    await this.#overlay(made.source, fresh, copy, signal);
    return { ...made, source: copy };
  }

  async #overlay(lower: string, fresh: string, at: string, signal: AbortSignal): Promise<void> {
    const upper = path.join(fresh, 'upper');
    const work = path.join(fresh, 'work');
    await Promise.all([mkdir(upper), mkdir(work)]);
    // The merged root has the upper directory's owner and mode.
    const { uid, gid, mode } = await stat(lower);
    await chown(upper, uid, gid);
    await chmod(upper, mode & 0o7777);
    await this.#mount('overlay', 'overlay', at, `lowerdir=${escaped(lower)},upperdir=${escaped(upper)},workdir=${escaped(work)}`, signal);
  }

  async #mount(type: string, source: string, at: string, options: string, signal: AbortSignal): Promise<void> {
    await mustExec(this.#exec, 'mount', ['-t', type, '-o', options, source, at], { timeoutMs: 30_000, signal });
  }

  async #unmount(wanted: (point: string) => boolean): Promise<void> {
    const points = await mountPoints(wanted);
    if (points.length === 0) return;
    const result = await this.#exec('umount', ['--', ...points], { timeoutMs: 30_000 });
    if (result.status === 0) return;
    // Busy: someone (a file browser, a shell) stands in it. The mount leaves the tree now and goes when they do.
    const busy = await mountPoints(wanted);
    if (busy.length > 0) await mustExec(this.#exec, 'umount', ['--lazy', '--', ...busy], { timeoutMs: 30_000 });
  }
}

/** The last mounted first. */
async function mountPoints(wanted: (point: string) => boolean): Promise<string[]> {
  const lines = (await readFile('/proc/self/mountinfo', 'utf8')).split('\n');
  return lines
    .map((line) => unescaped(line.split(' ')[4] ?? ''))
    .filter(wanted)
    .reverse();
}

const within = (dir: string, file: string): boolean => file === dir || file.startsWith(`${dir}/`);

/** Spaces and the like in mountinfo are octal (proc_pid_mountinfo(5)). */
const unescaped = (text: string): string =>
  text.replaceAll(/\\(\d{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));

/** Colons and commas separate in overlay options. */
const escaped = (text: string): string => text.replaceAll(/[\\:,]/g, '\\$&');
