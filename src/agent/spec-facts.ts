import { createHash } from 'node:crypto';
import { closeSync, constants, fstatSync, lstatSync, openSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { externalMounts, type Mount, readMounts } from '../checkpoint/mountinfo.ts';
import type { Container } from '../workloads/host.ts';
import { policyFactsOf, type SpecFacts, specHash, withoutPerPodNames } from '../workloads/spec-hash.ts';

/** More than configuration ever has; a volume with more is data, and only its mount counts. */
const MAX_CONFIG_BYTES = 1024 * 1024;
const MAX_CONFIG_FILES = 200;

/** What a waiting slot is: which snapshots fit, and the mounts that a seed would have at its start. */
export type SlotSpec = { readonly hash: string; readonly mounts: readonly Mount[] };

/** Reads it from the slot's own process. Throws when that is gone. */
export function readSpec(key: Uint8Array, container: Container): SlotSpec {
  const mounts = readMounts(container.pid);
  return { hash: specHash(key, specFactsOf(container, mounts)), mounts };
}

/** All that must be equal for a snapshot to fit this slot, read from the slot's own process. */
export function specFactsOf(container: Container, mounts: readonly Mount[]): SpecFacts {
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
    configDigests: configDigests(container, mounts),
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

/** Digests of what the read-only shared volumes hold: the configuration of the application, as far as it is small enough to be that. */
function configDigests(container: Container, mounts: readonly Mount[]): Record<string, string> {
  const readOnly = new Set(mounts.filter(({ options }) => options.includes('ro')).map(({ at }) => at));
  const digests: Record<string, string> = {};
  for (const { at, kind, perInstance } of container.volumes) {
    if (kind !== 'shared' || perInstance || !readOnly.has(at)) continue;
    const digest = digestOfTree(contentOf(join(`/proc/${container.pid}/root`, at)));
    if (digest !== undefined) digests[at] = digest;
  }
  return digests;
}

/**
 * Where a volume's files are: the kubelet writes those of ConfigMaps and Secrets into a directory whose name differs per pod, and leads there by `..data`
 * (https://kubernetes.io/docs/concepts/configuration/configmap/#mounted-configmaps-are-updated-automatically). Only a name is followed, no path.
 */
function contentOf(root: string): string {
  try {
    const name = readlinkSync(join(root, '..data'));
    return /^\.\.[^/]+$/.test(name) ? join(root, name) : root;
  } catch {
    return root;
  }
}

/** SHA-256 over names and contents, following no symlink; undefined for a tree that is too large to be configuration. */
function digestOfTree(root: string): string | undefined {
  const hash = createHash('sha256');
  let files = 0;
  let bytes = 0;
  const add = (path: string, name: string): boolean => {
    const stats = lstatSync(path);
    files += 1;
    bytes += stats.isFile() ? stats.size : 0;
    if (files > MAX_CONFIG_FILES || bytes > MAX_CONFIG_BYTES) return false;
    hash.update(`${name}\0${stats.mode}\0`);
    if (stats.isFile()) hash.update(contentOfFile(path));
    else if (stats.isSymbolicLink()) hash.update(readlinkSync(path));
    else if (stats.isDirectory())
      return readdirSync(path)
        .sort()
        .every((entry) => add(join(path, entry), `${name}/${entry}`));
    return true;
  };
  return add(root, '') ? hash.digest('hex') : undefined;
}

/** Whoever may write to the volume elsewhere can put a pipe in a file's place, which must neither be waited for nor followed. */
function contentOfFile(path: string): Buffer {
  const fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  try {
    return fstatSync(fd).isFile() ? readFileSync(fd) : Buffer.alloc(0);
  } finally {
    closeSync(fd);
  }
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
