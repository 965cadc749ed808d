import { readFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { examine, type Fact, type Finding, fail, ok, warn } from '../../lib/fact.ts';

/** One mounted hierarchy of cgroups. */
export type CgroupHierarchy = {
  readonly version: 1 | 2;
  readonly at: string;
  /** The group that is seen at `at`: `/` on a machine, something like `/kubepods/pod…` where only a part is mounted. */
  readonly root: string;
  /** Controllers of a version 1 hierarchy, and `name=…` of one that has none; empty on version 2. */
  readonly controllers: readonly string[];
};

/** `hybrid`: controllers on version 1, and a version 2 hierarchy beside them. */
export type CgroupLayout = { readonly kind: 'v1' | 'v2' | 'hybrid' | 'none'; readonly hierarchies: readonly CgroupHierarchy[] };

/** A line of /proc/PID/cgroup (cgroups(7)); `controllers` is empty for the one of version 2. */
export type CgroupMembership = { readonly controllers: readonly string[]; readonly path: string };

/** Options of a version 1 mount that are no controllers (cgroups(7), kernel/cgroup/cgroup-v1.c). */
const NO_CONTROLLER =
  /^(?:rw|ro|xattr|none|all|noprefix|clone_children|cpuset_v2_mode|favordynmods|nofavordynmods|seclabel|release_agent=.*)$/;

/** How cgroups are mounted at and below `base`, from the text of a mountinfo file. Later mounts at one place hide earlier ones. */
export function cgroupLayout(mountinfo: string, base = '/sys/fs/cgroup'): CgroupLayout {
  const byPlace = new Map<string, CgroupHierarchy | undefined>();
  for (const line of mountinfo.split('\n')) {
    const [left = '', right = ''] = line.split(' - ');
    const [, , , root, at] = left.split(' ').map(unescapeOctal);
    const [type, , options = ''] = right.split(' ');
    if (root === undefined || at === undefined || (at !== base && !at.startsWith(`${base}/`))) continue;
    // What is mounted over `base` as a whole hides all that was below it.
    if (at === base) byPlace.clear();
    const controllers = options.split(',').filter((option) => option !== '' && !NO_CONTROLLER.test(option));
    if (type === 'cgroup') byPlace.set(at, { version: 1, at, root, controllers });
    else byPlace.set(at, type === 'cgroup2' ? { version: 2, at, root, controllers: [] } : undefined);
  }
  const hierarchies = [...byPlace.values()].filter((hierarchy) => hierarchy !== undefined);
  const versions = new Set(hierarchies.map(({ version }) => version));
  return { kind: versions.size === 2 ? 'hybrid' : versions.has(1) ? 'v1' : versions.has(2) ? 'v2' : 'none', hierarchies };
}

/** The controllers that the kernel has and has not disabled, from the text of /proc/cgroups. */
export function enabledControllers(procCgroups: string): string[] {
  return procCgroups.split('\n').flatMap((line) => {
    const [name, , , enabled] = line.split('\t');
    return name !== undefined && enabled === '1' && !name.startsWith('#') ? [name] : [];
  });
}

/** The groups of a process, from the text of its /proc/PID/cgroup. */
export function cgroupMemberships(procCgroup: string): CgroupMembership[] {
  return procCgroup.split('\n').flatMap((line) => {
    const [, controllers, path] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    return controllers === undefined || path === undefined
      ? []
      : [{ controllers: controllers.split(',').filter((one) => one !== ''), path }];
  });
}

/**
 * Where the groups of a process are as directories: what one has to write a PID into to join them all. A group whose hierarchy is not
 * mounted, or that lies outside of what is mounted, is left out.
 */
export function groupDirectories(layout: CgroupLayout, memberships: readonly CgroupMembership[]): string[] {
  return memberships.flatMap(({ controllers, path }) => {
    const hierarchy = layout.hierarchies.find((one) =>
      controllers.length === 0
        ? one.version === 2
        : one.version === 1 && controllers.some((controller) => one.controllers.includes(controller)),
    );
    if (hierarchy === undefined) return [];
    const below = relative(hierarchy.root, path);
    return below === '..' || below.startsWith('../../') ? [] : [join(hierarchy.at, below)];
  });
}

/** Cgroups of this machine. */
export function examineCgroups(): Promise<Fact[]> {
  return examine('cgroups', {
    layout: async () =>
      cgroupFindings(
        cgroupLayout(await readFile('/proc/self/mountinfo', 'utf8')),
        enabledControllers(await readFile('/proc/cgroups', 'utf8').catch(() => '')),
      ),
  });
}

/** What the layout means for containers. `enabled` are the kernel's controllers, see {@link enabledControllers}. */
export function cgroupFindings(layout: CgroupLayout, enabled: readonly string[]): Finding[] {
  if (layout.kind === 'none')
    return [
      fail('layout', 'no cgroups are mounted at /sys/fs/cgroup: containers cannot be limited', 'mount -t cgroup2 cgroup2 /sys/fs/cgroup'),
    ];
  if (layout.kind === 'v2')
    return [
      warn(
        'layout',
        'version 2: rekindle is unproven there',
        'try `rekindle demo`; if it fails, please report it with the output of `rekindle doctor --json`',
      ),
    ];
  const mounted = new Set(layout.hierarchies.flatMap(({ controllers }) => controllers));
  const names = [...mounted].filter((name) => !name.startsWith('name=')).sort();
  const lacks = (name: string) => enabled.includes(name) && !mounted.has(name);
  return [
    ok('layout', `${layout.kind === 'hybrid' ? 'hybrid (version 1, with 2 beside it)' : 'version 1'}: ${names.join(', ')}`),
    ...(lacks('hugetlb')
      ? [
          warn(
            'hugetlb',
            'not mounted, and crun and runc insist on it; rekindle mounts it with the first container',
            'mkdir -p /sys/fs/cgroup/hugetlb && mount -t cgroup -o hugetlb cgroup /sys/fs/cgroup/hugetlb',
          ),
        ]
      : []),
    ...['memory', 'cpu', 'pids', 'devices', 'freezer']
      .filter((name) => !mounted.has(name))
      .map((name) => {
        const why = enabled.includes(name) ? 'not mounted' : 'not in this kernel, or disabled at boot';
        return warn(
          name,
          `${why}: what it would limit is not limited`,
          `mkdir -p /sys/fs/cgroup/${name} && mount -t cgroup -o ${name} cgroup /sys/fs/cgroup/${name}`,
        );
      }),
  ];
}

function unescapeOctal(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}
