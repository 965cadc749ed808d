import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { isRuntime } from './exec-watch.ts';

/** Whose container a process is in. */
export type Membership = { readonly podUid: string; readonly containerId: string };

/**
 * The last part of a pod's group: `pod<uid>` as the kubelet names it for cgroupfs, `…-pod<uid with _>.slice` for systemd. The uid is a UUID, or the 32
 * digits of a pod that is no API object (kubernetes pkg/kubelet/cm/pod_container_manager_linux.go, cgroup_manager_linux.go).
 */
const POD = /(?:^|-)pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?$/;
/** A container's: its id, for systemd in the runtime's scope. CRI-O's `crio-conmon-…` is not the container but what watches it. */
const CONTAINER = /^(?:(?:cri-containerd|crio|docker)-)?([0-9a-f]{64})(?:\.scope)?$/;
/** Groups for systemd that a runtime made itself, because it was not told that systemd does: `…pod<uid>.slice:cri-containerd:<id>`. */
const UNSPLIT = /^(.*\.slice):(?:cri-containerd|crio|docker):([0-9a-f]{64})$/;
/** The kubelet's own group: below its `cgroupRoot`, systemd writes that into the name (`kubelet-kubepods.slice` of kind). */
const KUBEPODS = /^(?:.*-)?kubepods(?:\.slice)?$/;
/** Where pods of the other two classes of service are, below that. */
const CLASS = /^(?:.*-)?(?:burstable|besteffort)(?:\.slice)?$/;

const ID_LENGTH = 64;
const DEEPEST = 10;
/** A pod that is asked for and not there makes us look everywhere: not more often. */
const LOOK_AGAIN_MS = 1_000;
/** On version 1 every one of them has every container; these are the ones that no kernel leaves out. */
const PREFERRED = ['pids', 'memory', 'cpu', 'freezer', 'name=systemd'];

/** A directory that has pods in it; `unsplit`: that has their containers in it. */
type Parent = { readonly dir: string; readonly unsplit: boolean };
/** A container's. */
type Group = { readonly id: string; readonly dir: string };

/**
 * The container that the text of a /proc/PID/cgroup (cgroups(7)) speaks of, undefined for a process in none. Of pods within pods it is the
 * innermost. Paths may be as a cgroup namespace shows them (`/../…`) as far as the pod is in them.
 */
export function parseMembership(text: string): Membership | undefined {
  for (const line of text.split('\n')) {
    const group = /^\d+:[^:]*:(\/.*)$/.exec(line)?.[1];
    const found = group === undefined ? undefined : membershipOf(group);
    if (found !== undefined) return found;
  }
  return undefined;
}

function membershipOf(group: string): Membership | undefined {
  const parts = group.split('/').flatMap((part) => UNSPLIT.exec(part)?.slice(1) ?? [part]);
  const at = parts.findLastIndex((part) => POD.test(part));
  const podUid = POD.exec(parts[at] ?? '')?.[1];
  const containerId = CONTAINER.exec(parts[at + 1] ?? '')?.[1];
  return podUid === undefined || containerId === undefined ? undefined : { podUid: podUid.replaceAll('_', '-'), containerId };
}

/** The container of a process, undefined when it is in none or gone. */
export function membership(pid: number): Membership | undefined {
  try {
    return parseMembership(readFileSync(`/proc/${pid}/cgroup`, 'utf8'));
  } catch {
    return undefined;
  }
}

/**
 * Finds the processes of a node's pods in its cgroups, by pod and container alone. `init` is a process in the node's own mount namespace (1, for an
 * agent in the node's PID namespace): a container sees only its own part of the groups. Reads are synchronous: no disk is behind them, and they are on the
 * path of every restore.
 */
export class PodGroups {
  readonly #hierarchy: string | undefined;
  readonly #now: () => number;
  #parents: readonly Parent[] = [];
  #lookedAt = Number.NEGATIVE_INFINITY;

  /** `mounts` is the text of the node's mountinfo, `root` its root as we see it. */
  constructor(deps: { root: string; mounts: string; now: () => number }) {
    const at = hierarchyOf(deps.mounts);
    this.#hierarchy = at === undefined ? undefined : path.join(deps.root, at);
    this.#now = deps.now;
  }

  static of(init: number, now: () => number): PodGroups {
    return new PodGroups({ root: `/proc/${init}/root`, mounts: readFileSync(`/proc/${init}/mountinfo`, 'utf8'), now });
  }

  /** The container's processes, ascending; none when it is gone. */
  processes(podUid: string, containerId: string): readonly number[] {
    const group = this.#containersOf(podUid).find(({ id }) => id === containerId)?.dir;
    return group === undefined ? [] : processesIn(group).sort((a, b) => a - b);
  }

  /** Every process of the container that this one is in; none when it is in none or gone. */
  processesOf(pid: number): readonly number[] {
    const found = membership(pid);
    return found === undefined ? [] : this.processes(found.podUid, found.containerId);
  }

  /** The container's PID 1, undefined before it has become the container's command and when it is gone. A restored application is PID 1 of a namespace of its own below that: not meant. */
  init(podUid: string, containerId: string): number | undefined {
    const all = this.processes(podUid, containerId);
    const standing = all.flatMap((pid) => standingOf(pid) ?? []);
    // In a namespace of its own a container can make a process 1 too, and have it adopted from outside, but only further in.
    const least = Math.min(...standing.map(({ numbers }) => numbers.length));
    const init = standing.find(
      ({ numbers, parent }) => numbers.length === least && least > 1 && numbers.at(-1) === '1' && !all.includes(parent),
    );
    return init === undefined || isRuntime(init.pid) ? undefined : init.pid;
  }

  /** The ids of the pod's containers that have a group, its sandbox too. */
  containers(podUid: string): readonly string[] {
    return this.#containersOf(podUid).map(({ id }) => id);
  }

  #containersOf(podUid: string): readonly Group[] {
    if (!/^[0-9a-f-]{32,36}$/.test(podUid)) return [];
    const known = this.#inParents(podUid);
    if (known.length > 0 || this.#now() < this.#lookedAt + LOOK_AGAIN_MS) return known;
    this.#lookedAt = this.#now();
    if (this.#hierarchy !== undefined) this.#parents = parentsBelow(this.#hierarchy, DEEPEST);
    return this.#inParents(podUid);
  }

  #inParents(podUid: string): readonly Group[] {
    for (const { dir, unsplit } of this.#parents) {
      if (unsplit) {
        const found = directoriesIn(dir).filter((name) => membershipOf(`/${name}`)?.podUid === podUid);
        if (found.length > 0) return found.map((name) => ({ id: name.slice(-ID_LENGTH), dir: path.join(dir, name) }));
        continue;
      }
      // systemd names a slice after those that it is in.
      const name = dir.endsWith('.slice') ? `${path.basename(dir, '.slice')}-pod${podUid.replaceAll('-', '_')}.slice` : `pod${podUid}`;
      const pod = path.join(dir, name);
      // An exception costs more than the look.
      if (!existsSync(pod)) continue;
      const found = directoriesIn(pod).flatMap((one) => ({ id: CONTAINER.exec(one)?.[1] ?? '', dir: path.join(pod, one) }));
      if (found.length > 0) return found.filter(({ id }) => id !== '');
    }
    return [];
  }
}

/** Where pods are: a kubelet's groups and its classes of service. There can be several kubelets: nodes within a node. */
function parentsBelow(dir: string, depth: number): Parent[] {
  if (depth === 0) return [];
  const names = directoriesIn(dir);
  const found: Parent[] = names.some((name) => UNSPLIT.test(name)) ? [{ dir, unsplit: true }] : [];
  for (const name of names) {
    const below = path.join(dir, name);
    if (KUBEPODS.test(name)) {
      const classes = directoriesIn(below).filter((one) => CLASS.test(one));
      found.push(...[below, ...classes.map((one) => path.join(below, one))].map((one) => ({ dir: one, unsplit: false })));
    } else if (!POD.test(name) && !UNSPLIT.test(name)) found.push(...parentsBelow(below, depth - 1));
  }
  return found;
}

/** The place of the hierarchy that has every container: version 2, unless it stands beside controllers of version 1 (hybrid). */
function hierarchyOf(mounts: string): string | undefined {
  const found = new Map<string, string>();
  for (const line of mounts.split('\n')) {
    const [left = '', right = ''] = line.split(' - ');
    const at = left.split(' ')[4];
    const [type, , options = ''] = right.split(' ');
    if (at === undefined || (type !== 'cgroup' && type !== 'cgroup2')) continue;
    const names = type === 'cgroup2' ? ['cgroup2'] : options.split(',');
    // The first: what lies deeper shows parts of it to a container.
    for (const name of names) if (!found.has(name)) found.set(name, unescapeOctal(at));
  }
  const first = PREFERRED.find((name) => found.has(name));
  return found.get(first ?? 'cgroup2');
}

function processesIn(group: string): number[] {
  const own = readText(path.join(group, 'cgroup.procs'))
    .split('\n')
    .map(Number)
    .filter((pid) => pid > 0);
  // Groups that the container made itself, or crun did (`container`).
  return [...own, ...directoriesIn(group).flatMap((name) => processesIn(path.join(group, name)))];
}

type Standing = {
  readonly pid: number;
  readonly parent: number;
  /** In each PID namespace that the process has one in, outermost first. */
  readonly numbers: readonly string[];
};

/** Undefined when it is gone. */
function standingOf(pid: number): Standing | undefined {
  const status = readText(`/proc/${pid}/status`);
  const numbers = /^NSpid:\t(.+)$/m.exec(status)?.[1]?.split('\t');
  return numbers === undefined ? undefined : { pid, parent: Number(/^PPid:\t(\d+)$/m.exec(status)?.[1] ?? 0), numbers };
}

function directoriesIn(dir: string): string[] {
  try {
    return readdirSync(dir, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map(({ name }) => name);
  } catch {
    return [];
  }
}

function readText(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}

/** Spaces and the like in mountinfo (proc_pid_mountinfo(5)). */
function unescapeOctal(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}
