import { readFileSync } from 'node:fs';

/** One line of /proc/PID/mountinfo (proc_pid_mountinfo(5)). */
export type Mount = {
  readonly at: string;
  /** Filesystem type. */
  readonly type: string;
  /** Options of this mount (`ro`, `nosuid`, …), sorted; what differs by nature between two containers (propagation, ids) is not here. */
  readonly options: readonly string[];
  /** Options of the filesystem (`upperdir=…` of an overlay). */
  readonly superOptions: readonly string[];
  readonly mountId: number;
};

/** Parses the text of a mountinfo file; where several mounts lie at one place only the topmost (last) is kept. */
export function parseMountinfo(text: string): Mount[] {
  const byPlace = new Map<string, Mount>();
  for (const line of text.split('\n')) {
    const [left, right] = line.split(' - ');
    if (left === undefined || right === undefined) continue;
    const [id, , , , at, options] = left.split(' ');
    const [type, , superOptions] = right.split(' ');
    if (id === undefined || at === undefined || type === undefined) continue;
    const place = unescapeOctal(at);
    byPlace.delete(place);
    byPlace.set(place, {
      at: place,
      type,
      options: (options ?? '').split(',').sort(),
      superOptions: (superOptions ?? '').split(','),
      mountId: Number(id),
    });
  }
  return [...byPlace.values()];
}

export function readMounts(pid: number): Mount[] {
  return parseMountinfo(readFileSync(`/proc/${pid}/mountinfo`, 'utf8'));
}

/**
 * The mounts that come from outside the container: all but the root, /proc and what CRIU can make again below /proc (masks from /proc itself or
 * from the container's own /dev; crun takes some from the machine's devtmpfs, which CRIU cannot).
 */
export function externalMounts(mounts: readonly Mount[]): Mount[] {
  return mounts.filter(
    ({ at, type }) => at !== '/' && at !== '/proc' && (!at.startsWith('/proc/') || (type !== 'proc' && type !== 'tmpfs')),
  );
}

/** Filesystems whose files are on this machine: what is read of them does not wait for another. */
const LOCAL: ReadonlySet<string> = new Set([
  ...['bcachefs', 'btrfs', 'erofs', 'exfat', 'ext2', 'ext3', 'ext4', 'f2fs', 'iso9660', 'jfs', 'overlay', 'squashfs', 'vfat', 'xfs', 'zfs'],
  ...['cgroup', 'cgroup2', 'devpts', 'devtmpfs', 'mqueue', 'proc', 'ramfs', 'sysfs', 'tmpfs'],
]);

/** Whether whoever looks at what lies there may have to wait for a server, for ever if that is gone. */
export function isRemote({ type }: Pick<Mount, 'type'>): boolean {
  return !LOCAL.has(type);
}

/** Where a process has such mounts; none for one that is gone. */
export function remotePlaces(pid: number): string[] {
  try {
    return readMounts(pid).flatMap((mount) => (isRemote(mount) ? [mount.at] : []));
  } catch {
    return [];
  }
}

/** The options that decide what a mount lets a process do. */
export function rightsOf(mount: { readonly options: readonly string[] }): string[] {
  return ['ro', 'nosuid', 'nodev', 'noexec'].filter((option) => mount.options.includes(option));
}

function unescapeOctal(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}
