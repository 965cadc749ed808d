import { readFileSync, readlinkSync } from 'node:fs';
import { externalMounts, type Mount, readMounts } from '../checkpoint/mountinfo.ts';
import type { Container } from '../workloads/host.ts';
import { policyFactsOf, type SpecFacts, specHash, withoutPerPodNames } from '../workloads/spec-hash.ts';
import { VolumeReader } from './volume-digests.ts';
import type { Files } from './volume-files.ts';

/** What a waiting slot is: which snapshots fit (none where nobody knows, and why), and the mounts that a seed would have at its start. */
export type SlotSpec = { readonly mounts: readonly Mount[] } & (
  | { readonly hash: string; readonly unreadable?: undefined }
  | { readonly hash?: undefined; readonly unreadable: string }
);

/** Reads what slots are from their own processes. */
export class SpecReader {
  readonly #key: () => Uint8Array;
  readonly #volumes: VolumeReader;

  /** `key` is that of the hashes; `files` see {@link VolumeReader}. */
  constructor(deps: { readonly key: () => Uint8Array; readonly files: Files }) {
    this.#key = deps.key;
    this.#volumes = new VolumeReader(deps);
  }

  /** Throws when the slot's process is gone. */
  async read(container: Container): Promise<SlotSpec> {
    const mounts = readMounts(container.pid);
    const volumes = await this.#volumes.read(container, mounts);
    if ('unreadable' in volumes) return { mounts, unreadable: volumes.unreadable };
    return { mounts, hash: specHash(this.#key(), specFactsOf(container, mounts, volumes.digests)) };
  }
}

/** All that must be equal for a snapshot to fit this slot, read from the slot's own process. */
function specFactsOf(container: Container, mounts: readonly Mount[], configDigests: SpecFacts['configDigests']): SpecFacts {
  const { pid, workload, pod } = container;
  const status = new Map(
    readFileSync(`/proc/${pid}/status`, 'utf8')
      .split('\n')
      .map((line) => splitOnce(line, ':\t')),
  );
  const environment = Object.fromEntries(zeroSeparated(`/proc/${pid}/environ`).map((entry) => splitOnce(entry, '=')));
  const kinds = new Map(container.volumes.map(({ at, kind }) => [at, kind]));
  const number = (key: string) => Number(status.get(key)?.split('\t')[0] ?? 0);
  return {
    namespace: pod?.namespace ?? '',
    workload: workload.name,
    serviceAccount: pod?.serviceAccount ?? '',
    imageDigest: container.imageDigest,
    // The slot's own name goes; what is left is the original command.
    argv: zeroSeparated(`/proc/${pid}/cmdline`).slice(1),
    workdir: readlinkSync(`/proc/${pid}/cwd`),
    env: withoutPerPodNames(environment, Object.keys(workload.container.instanceEnv)),
    configDigests,
    mounts: externalMounts(mounts).map(({ at, type, options }) => ({ at, kind: kinds.get(at) ?? 'shared', fileSystem: type, options })),
    uid: number('Uid'),
    gid: number('Gid'),
    groups: (status.get('Groups') ?? '')
      .split(' ')
      .filter((group) => group !== '')
      .map(Number),
    capabilities: Object.fromEntries(['CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb'].map((set) => [set, status.get(set) ?? ''])),
    noNewPrivileges: number('NoNewPrivs') === 1,
    seccomp: `${number('Seccomp')} ${pod?.security ?? workload.container.seccomp}`,
    lsmLabel: readOrEmpty(`/proc/${pid}/attr/current`).replace(/[\0\n]/g, ''),
    readOnlyRoot: mounts.some(({ at, options }) => at === '/' && options.includes('ro')),
    sysctls: pod?.sysctls ?? {},
    ...(workload.container.memoryMiB === undefined ? {} : { memoryBytes: workload.container.memoryMiB * 1024 * 1024 }),
    ...(workload.container.cpus === undefined ? {} : { cpus: workload.container.cpus }),
    ...(workload.container.pids === undefined ? {} : { pids: workload.container.pids }),
    policy: policyFactsOf(workload),
  };
}

function splitOnce(text: string, separator: string): [string, string] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, ''] : [text.slice(0, at), text.slice(at + separator.length)];
}

function zeroSeparated(path: string): string[] {
  return readFileSync(path, 'utf8').split('\0').slice(0, -1);
}

function readOrEmpty(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return ''; // a kernel without an LSM has no such file
  }
}
