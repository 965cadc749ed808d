import { mkdir, readdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { errno, RekindleError } from '../lib/errors.ts';
import type { Exec } from '../lib/exec.ts';
import { signalProcess } from './processes.ts';

const ROOT = '/sys/fs/cgroup';

/** Where each hierarchy is mounted: one on version 2; on version 1 one per controller, of which a hybrid layout has one that is version 2. */
export type Cgroups = { readonly version: 1 | 2; readonly hierarchies: readonly string[] };

/**
 * Looks at this machine's cgroups. On version 1, crun and runc insist on the hugetlb controller when the kernel has it: if nobody mounted
 * it we do, and leave it there. Throws `machine_unsupported` when there are no cgroups.
 */
export async function findCgroups(exec: Exec): Promise<Cgroups> {
  if ((await readFile(`${ROOT}/cgroup.controllers`, 'utf8').catch(() => undefined)) !== undefined)
    return { version: 2, hierarchies: [ROOT] };
  const hugetlb = `${ROOT}/hugetlb`;
  let mounted = await mountedBelow(ROOT);
  const known = await readFile('/proc/cgroups', 'utf8').catch(() => '');
  if (mounted.length > 0 && !mounted.includes(hugetlb) && /^hugetlb\t.*\t1$/m.test(known)) {
    await mkdir(hugetlb, { recursive: true });
    // Another process may mount it at this moment: what counts is that it is there.
    await exec('mount', ['-t', 'cgroup', '-o', 'hugetlb', 'cgroup', hugetlb], { timeoutMs: 30_000 });
    mounted = await mountedBelow(ROOT);
    if (!mounted.includes(hugetlb))
      throw new RekindleError(
        'machine_unsupported',
        `cannot mount the hugetlb cgroup controller at ${hugetlb}: container runtimes need it there`,
      );
  }
  if (mounted.length === 0)
    throw new RekindleError(
      'machine_unsupported',
      `no cgroups are mounted below ${ROOT}: containers cannot be limited. Mount cgroup2 there`,
    );
  return { version: 1, hierarchies: mounted };
}

async function mountedBelow(dir: string): Promise<string[]> {
  const lines = (await readFile('/proc/self/mountinfo', 'utf8')).split('\n');
  const points = lines.filter((line) => / - cgroup2? /.test(line)).map((line) => line.split(' ')[4] ?? '');
  return [...new Set(points.filter((point) => path.dirname(point) === dir))];
}

/** The container's group in each hierarchy that has one. */
function groupsOf(cgroups: Cgroups, uid: string): readonly string[] {
  return cgroups.hierarchies.map((hierarchy) => path.join(hierarchy, 'rekindle', uid));
}

async function withChildren(group: string): Promise<string[]> {
  const entries = await readdir(group, { withFileTypes: true }).catch(() => undefined);
  if (entries === undefined) return [];
  const children = await Promise.all(
    entries.filter((entry) => entry.isDirectory()).map((entry) => withChildren(path.join(group, entry.name))),
  );
  return [...children.flat(), group];
}

/** Kills every process in the container's groups: its own, and helpers of ours that entered them. */
export async function killGroups(cgroups: Cgroups, uid: string): Promise<void> {
  for (const group of (await Promise.all(groupsOf(cgroups, uid).map(withChildren))).flat()) {
    const pids = (await readFile(path.join(group, 'cgroup.procs'), 'utf8').catch(() => '')).split('\n').filter(Boolean);
    for (const pid of pids) signalProcess(Number(pid), 'SIGKILL');
    // A frozen process dies only once it is thawed.
    if (pids.length > 0 && group.startsWith(`${ROOT}/freezer/`))
      await writeFile(path.join(group, 'freezer.state'), 'THAWED').catch(() => {});
    if (pids.length > 0) await writeFile(path.join(group, 'cgroup.freeze'), '0').catch(() => {});
  }
}

/** Removes the container's groups; kills again for two seconds what still appears in them. Throws `internal` if one stays. */
export async function removeGroups(cgroups: Cgroups, uid: string): Promise<void> {
  for (let tries = 0; ; tries++) {
    const groups = (await Promise.all(groupsOf(cgroups, uid).map(withChildren))).flat();
    const failures = await Promise.all(
      groups.map((group) =>
        rmdir(group).then(
          () => undefined,
          (error: unknown) => (errno(error) === 'ENOENT' ? undefined : error),
        ),
      ),
    );
    const failure = failures.find((error) => error !== undefined);
    if (failure === undefined) return;
    if (tries === 400)
      throw new RekindleError('internal', `cannot remove the cgroups of container ${uid}: ${String(failure)}`, { cause: failure });
    await killGroups(cgroups, uid);
    await delay(5);
  }
}

/** Removes the common parent of all containers' groups where it is empty. */
export async function removeParents(cgroups: Cgroups): Promise<void> {
  await Promise.all(cgroups.hierarchies.map((hierarchy) => rmdir(path.join(hierarchy, 'rekindle')).catch(() => {})));
}
