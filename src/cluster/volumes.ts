import { readdirSync, readlinkSync } from 'node:fs';
import path from 'node:path';
import type { V1Container, V1Pod, V1Volume, V1VolumeMount } from '@kubernetes/client-node';
import type { HostVolume } from '../workloads/host.ts';
import { SLOT_VOLUME } from '../workloads/kubernetes.ts';

/** As the kernel counts them (path_resolution(7)). */
const MAX_SYMLINKS = 40;

/**
 * The volumes of a pod's container where they really are: an image can have a link at a place where one is mounted (/var/run is one almost everywhere).
 * `pid` is the container's PID 1; of one that is gone the places are as the pod says. `remote`: see {@link resolveInside}.
 */
export function volumesOf(pod: V1Pod, container: V1Container, pid: number, remote: readonly string[]): HostVolume[] {
  return describeVolumes(pod, container).map((volume) => ({ ...volume, at: resolveInside(`/proc/${pid}/root`, volume.at, remote) }));
}

/**
 * Where volumes are mounted as the pod says. `private` is an emptyDir that this container alone mounts, whole, once and for writing: then all that is in it
 * is the application's own, and travels. Init containers and sidecars are others, and so are debuggers that came later.
 */
export function describeVolumes(pod: V1Pod, container: V1Container): HostVolume[] {
  const volumes = new Map((pod.spec?.volumes ?? []).map((volume) => [volume.name, volume]));
  const elsewhere = mountedElsewhere(pod, container);
  const fsGroup = pod.spec?.securityContext?.fsGroup;
  const mounts = container.volumeMounts ?? [];
  return mounts.map((mount) => {
    const volume = volumes.get(mount.name);
    const whole = mount.subPath === undefined && mount.subPathExpr === undefined && mount.readOnly !== true;
    const alone = !elsewhere.has(mount.name) && mounts.filter(({ name }) => name === mount.name).length === 1;
    const at = placeOf(mount.mountPath);
    // Huge pages are in no filesystem that files could be copied from.
    if (volume?.emptyDir !== undefined && whole && alone && !volume.emptyDir.medium?.startsWith('HugePages'))
      return { at, kind: 'private', ...(fsGroup === undefined ? {} : { group: fsGroup }) };
    return { at, kind: 'shared', ...(isPerInstance(volume) ? { perInstance: true } : {}), ...sourceOf(volume, mount) };
  });
}

/**
 * Why a container may not be restored into, in words: one of its emptyDirs holds files before the application runs, which a clone's memory knows nothing
 * of. To be asked while the slot waits. Undefined when they are all empty.
 */
export function whyFilled(pod: V1Pod, container: V1Container, pid: number, remote: readonly string[]): string | undefined {
  const emptyDirs = new Set((pod.spec?.volumes ?? []).flatMap(({ name, emptyDir }) => (emptyDir === undefined ? [] : [name])));
  const places = (container.volumeMounts ?? []).map(({ mountPath }) => placeOf(mountPath));
  const filled = (container.volumeMounts ?? []).find(
    ({ name, mountPath }) =>
      emptyDirs.has(name) && name !== SLOT_VOLUME && holdsFiles(`/proc/${pid}/root`, placeOf(mountPath), places, remote),
  );
  if (filled === undefined) return undefined;
  return `its emptyDir ${filled.name} at ${filled.mountPath} already holds files, and those of the seed may be others`;
}

/** Absolute, without anything that leads nowhere. */
function placeOf(mountPath: string): string {
  return path.posix.resolve('/', mountPath);
}

function mountedElsewhere(pod: V1Pod, container: V1Container): ReadonlySet<string> {
  const { containers = [], initContainers = [], ephemeralContainers = [] } = pod.spec ?? {};
  const others = [...containers, ...initContainers, ...ephemeralContainers].filter(({ name }) => name !== container.name);
  return new Set(others.flatMap(({ volumeMounts = [] }) => volumeMounts.map(({ name }) => name)));
}

/** What is in it differs between pods of one template: tokens, and what the pod is called. */
function isPerInstance(volume: V1Volume | undefined): boolean {
  if (volume?.downwardAPI !== undefined) return true;
  const sources = volume?.projected?.sources ?? [];
  return sources.some(({ serviceAccountToken, downwardAPI, podCertificate }) =>
    [serviceAccountToken, downwardAPI, podCertificate].some((source) => source !== undefined),
  );
}

/** What a volume is called, and whether it may be on another machine; nothing of those that the kubelet writes for each pod. */
function sourceOf(volume: V1Volume | undefined, { subPath, subPathExpr }: V1VolumeMount): Pick<HostVolume, 'identity' | 'elsewhere'> {
  if (volume === undefined) return {};
  const { name: _, configMap, secret, projected, downwardAPI, emptyDir, ...source } = volume;
  if ([configMap, secret, projected, downwardAPI, emptyDir].some((one) => one !== undefined)) return {};
  const isHere = source.hostPath !== undefined || source.image !== undefined;
  return { identity: JSON.stringify({ ...source, subPath, subPathExpr }), ...(isHere ? {} : { elsewhere: true }) };
}

/** Besides the places that volumes within this one are mounted at. */
function holdsFiles(root: string, at: string, places: readonly string[], remote: readonly string[]): boolean {
  try {
    const names = readdirSync(path.join(root, resolveInside(root, at, remote)));
    return names.some((name) => !places.some((place) => `${place}/`.startsWith(`${path.join(at, name)}/`)));
  } catch {
    // Nothing is there: the container is gone.
    return false;
  }
}

/**
 * The path within `root` that this one leads to, links followed as a process would for which `root` is `/`: never out of it. What is not there stays as
 * it is, and so is what is at or below a place in `remote`: those of mounts whose server may not answer. What is mounted is no link.
 */
export function resolveInside(root: string, at: string, remote: readonly string[]): string {
  const left = at.split('/').filter(Boolean);
  let found = '/';
  for (let links = 0; left.length > 0; ) {
    const name = left.shift() ?? '';
    if (name === '.' || name === '..') {
      found = path.posix.join(found, name);
      continue;
    }
    const next = path.posix.join(found, name);
    const target = remote.some((place) => `${next}/`.startsWith(`${place}/`)) ? undefined : linkAt(path.join(root, next));
    if (target === undefined) {
      found = next;
      continue;
    }
    links += 1;
    if (links > MAX_SYMLINKS) return at;
    if (target.startsWith('/')) found = '/';
    left.unshift(...target.split('/').filter(Boolean));
  }
  return found;
}

function linkAt(file: string): string | undefined {
  try {
    return readlinkSync(file);
  } catch {
    return undefined;
  }
}
