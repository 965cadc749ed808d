import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { type Mount, readMounts } from './mountinfo.ts';

/** What a dump has to know about a container's process tree, found by looking at it. */
export type ProcessFacts = {
  readonly mounts: readonly Mount[];
  /** The pipes behind standard output and error of process 1, as CRIU names them (`pipe:[123]`); null when it is no pipe. */
  readonly stdio: { readonly stdout: string | null; readonly stderr: string | null };
  readonly netInode: number;
  /** Where the root overlay keeps what the container changed, as this process sees it; undefined when the root is no overlay. */
  readonly upperDir: string | undefined;
  /** Every process of the container's PID namespace, process 1 first. */
  readonly pids: readonly number[];
};

/**
 * Looks at the container whose process 1 is `pid`. `hostRoot` is where this process sees the files of the machine (empty, or `/proc/1/root`
 * for an agent in a container of its own). Throws the system's error when it is gone.
 */
export function inspectProcess(pid: number, hostRoot: string): ProcessFacts {
  const mounts = readMounts(pid);
  const upper = mounts.find(({ at }) => at === '/')?.superOptions.find((option) => option.startsWith('upperdir='));
  return {
    mounts,
    stdio: { stdout: pipeName(pid, 1), stderr: pipeName(pid, 2) },
    netInode: Number(/\d+/.exec(readlinkSync(`/proc/${pid}/ns/net`))?.[0]),
    upperDir: upper === undefined ? undefined : `${hostRoot}${upper.slice('upperdir='.length)}`,
    pids: processTree(pid),
  };
}

/** `pid` and everything that descends from it. Process 1 of a PID namespace adopts orphans, so that is the whole container. */
export function processTree(pid: number): number[] {
  const found = [pid];
  for (const parent of found) {
    for (const task of listOrNothing(`/proc/${parent}/task`)) {
      const children = readOrNothing(`/proc/${parent}/task/${task}/children`);
      for (const child of children.split(' ')) if (child !== '') found.push(Number(child));
    }
  }
  return found;
}

/** Kinds of namespace that a clone has from its slot, and the one (pid) that CRIU cannot nest. It can make others again (mnt, ipc). */
const NOT_NESTED = ['net', 'uts', 'user', 'cgroup', 'pid', 'time'] as const;

/** The first process that is in a namespace of its own of a kind that no clone could have, and that kind. */
export function nestedNamespace(pids: readonly number[]): { readonly pid: number; readonly kind: string } | undefined {
  const [first] = pids;
  for (const kind of NOT_NESTED) {
    const ours = linkOrNothing(`/proc/${first}/ns/${kind}`);
    for (const pid of pids) {
      const theirs = linkOrNothing(`/proc/${pid}/ns/${kind}`);
      if (theirs !== '' && theirs !== ours) return { pid, kind };
    }
  }
  return undefined;
}

/**
 * Kills every process that has `path` on its command line: the children that a killed criu leaves behind (it stops some to try out what the
 * kernel can do) are not to be found otherwise. The path must be one that nobody else has.
 */
export function killMentioning(path: string): void {
  for (const pid of listOrNothing('/proc').filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)) {
    if (!readOrNothing(`/proc/${pid}/cmdline`).split('\0').includes(path)) continue;
    try {
      process.kill(Number(pid), 'SIGKILL');
    } catch {
      // gone meanwhile
    }
  }
}

/** Start time of a process in clock ticks since boot: with its PID it names the process for ever. Undefined when it is gone. */
export function startTime(pid: number): string | undefined {
  const stat = readOrNothing(`/proc/${pid}/stat`);
  return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19];
}

/** An open file of the container that matters for a dump. */
export type OpenFile = {
  readonly pid: number;
  readonly fd: string;
  readonly target: string;
  readonly mountId: number;
  readonly writable: boolean;
};

const O_ACCMODE = 0o3;

/** Every descriptor and every shared writable mapping of a file, of all given processes. */
export function openFiles(pids: readonly number[], mounts: readonly Mount[]): OpenFile[] {
  const files: OpenFile[] = [];
  for (const pid of pids) {
    for (const fd of listOrNothing(`/proc/${pid}/fd`)) {
      const target = linkOrNothing(`/proc/${pid}/fd/${fd}`);
      const info = readOrNothing(`/proc/${pid}/fdinfo/${fd}`);
      const flags = Number.parseInt(/^flags:\s*(\d+)/m.exec(info)?.[1] ?? '0', 8);
      files.push({ pid, fd, target, mountId: Number(/^mnt_id:\s*(\d+)/m.exec(info)?.[1] ?? -1), writable: (flags & O_ACCMODE) !== 0 });
    }
    for (const line of readOrNothing(`/proc/${pid}/maps`).split('\n')) {
      const [, permissions, , , , ...name] = line.split(/\s+/);
      const target = name.join(' ');
      if (permissions?.[3] !== 's' || permissions[1] !== 'w' || !target.startsWith('/')) continue;
      files.push({ pid, fd: 'mapping', target, mountId: mountOf(target, mounts)?.mountId ?? -1, writable: true });
    }
  }
  return files;
}

/** The mount that a path of the container lies on. */
export function mountOf(path: string, mounts: readonly Mount[]): Mount | undefined {
  return mounts.filter(({ at }) => at === '/' || path === at || path.startsWith(`${at}/`)).sort((a, b) => b.at.length - a.at.length)[0];
}

function pipeName(pid: number, fd: number): string | null {
  const target = linkOrNothing(`/proc/${pid}/fd/${fd}`);
  return /^pipe:\[\d+\]$/.test(target) ? target : null;
}

// Processes come and go while we look: what is gone has nothing to say.
function readOrNothing(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

function listOrNothing(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

function linkOrNothing(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return '';
  }
}
