import { posix } from 'node:path';
import type { Path, Problem } from './check.ts';
import type { ContainerSpec, VolumeSpec, WorkloadDescription, WorkloadSpec } from './workload.ts';

/** Paths of the container that are not the user's to mount over: the kernel's, and where slot, libraries and socket are. */
const TAKEN = ['/proc', '/rekindle'] as const;

/** What one field alone cannot show to be wrong in a file. Paths begin at the workload. */
export function brokenRules(spec: WorkloadSpec): Problem[] {
  return [...rootFilesystem(spec.container), ...clusterOnly(spec.container), ...brokenAnywhere(spec)];
}

/** The same of a workload whose container is a pod's. */
export function brokenAnywhere(spec: WorkloadDescription): Problem[] {
  return [...environment(spec.container), ...volumes(spec.container.volumes), ...ports(spec), ...identity(spec), ...pool(spec)];
}

/** What only two workloads together can do wrong. Paths begin at the file. */
export function brokenTogether(specs: readonly WorkloadSpec[]): Problem[] {
  const seen = new Map<string, string>();
  return specs.flatMap(({ name, checkpoint }) => {
    if (checkpoint.name === undefined) return [];
    const label = posix.join(checkpoint.directory ?? '', checkpoint.name);
    const other = seen.get(label);
    seen.set(label, name);
    return other === undefined
      ? []
      : [
          wrong(
            ['workloads', name, 'checkpoint', 'name'],
            `${label} is already the checkpoint of workload ${other}: choose another name or directory`,
          ),
        ];
  });
}

function rootFilesystem({ image, rootfs, command }: ContainerSpec): Problem[] {
  if (image !== undefined && rootfs !== undefined) return [wrong(['container'], 'has both `image` and `rootfs`: give exactly one of them')];
  if (image === undefined && rootfs === undefined)
    return [wrong(['container'], "needs `image` (docker://NAME, oci:DIR, …) or `rootfs: host` (this machine's own root)")];
  if (rootfs !== undefined && command === undefined) {
    return [wrong(['container', 'rootfs'], 'needs `command` beside it: this machine has no entrypoint as an image has')];
  }
  return [];
}

function clusterOnly({ instanceEnv }: ContainerSpec): Problem[] {
  return Object.entries(instanceEnv).flatMap(([name, what]) =>
    what === 'pod'
      ? [wrong(['container', 'instanceEnv', name], 'is pod, which only pods of a cluster have: choose name, address or uid')]
      : [],
  );
}

function environment({ env, instanceEnv }: ContainerSpec): Problem[] {
  const problems: Problem[] = [];
  for (const [field, names] of [
    ['env', Object.keys(env)],
    ['instanceEnv', Object.keys(instanceEnv)],
  ] as const) {
    for (const name of names) {
      if (name.startsWith('REKINDLE_'))
        problems.push(wrongKey(['container', field, name], 'is set by rekindle itself: choose a name that does not begin with REKINDLE_'));
      if (field === 'instanceEnv' && Object.hasOwn(env, name))
        problems.push(wrongKey(['container', field, name], 'is in `env` too: give it only once'));
    }
  }
  return problems;
}

function volumes(list: readonly VolumeSpec[]): Problem[] {
  const seen = new Map<string, number>();
  return list.flatMap(({ at }, index) => {
    const here = ['container', 'volumes', index, 'at'];
    const plain = plainPath(at);
    const first = seen.get(plain);
    seen.set(plain, index);
    if (plain !== at) return [wrong(here, `is ${at}: write it as ${plain}, without \`..\`, \`.\`, double or trailing slashes`)];
    if (plain === '/') return [wrong(here, 'is the root filesystem itself: mount below it')];
    const taken = TAKEN.find((path) => isWithin(plain, path));
    if (taken) return [wrong(here, `is ${at}, but ${taken} and what is below belongs to the system: choose another path`)];
    return first === undefined ? [] : [wrong(here, `is ${at}, where volumes[${first}] is mounted already: one volume per path`)];
  });
}

function ports(spec: WorkloadDescription): Problem[] {
  const { container } = spec;
  const listed = container.ports;
  const problems = listed.flatMap((port, index) =>
    listed.indexOf(port) === index ? [] : [wrong(['container', 'ports', index], `is ${port}, which is in the list already: give it once`)],
  );
  for (const [path, port] of portsAsked(spec)) {
    if (listed.length > 0 && !listed.includes(port)) {
      problems.push(
        wrong(
          [...path, 'port'],
          `is ${port}, but container.ports has only ${listed.join(', ')}: correct one of them, or add ${port} there`,
        ),
      );
    }
  }
  return problems;
}

/** Every port that a probe or request of the policy goes to, with the path of what holds it. */
export function portsAsked({ container, checkpoint, restore }: WorkloadDescription): (readonly [Path, number])[] {
  const list = (path: Path, actions: unknown) =>
    Array.isArray(actions)
      ? actions.map((action: unknown, index): [Path, unknown] => [[...path, index], action])
      : [[path, actions] satisfies [Path, unknown]];
  const holders = [
    ...list(['container', 'readiness'], container.readiness),
    ...list(['container', 'warmup'], container.warmup),
    ...list(['checkpoint', 'random'], checkpoint.random),
    ...list(['restore', 'after'], restore.after),
  ];
  return holders.flatMap(([path, holder]): (readonly [Path, number])[] => {
    if (typeof holder !== 'object' || holder === null) return [];
    return Object.entries(holder).flatMap(([key, target]: [string, unknown]): [Path, number][] =>
      typeof target === 'object' && target !== null && 'port' in target && typeof target.port === 'number'
        ? [[[...path, key], target.port]]
        : [],
    );
  });
}

function identity({ container, restore }: WorkloadDescription): Problem[] {
  const here = ['restore', 'identityFile'];
  const file = restore.identityFile;
  if (plainPath(file) !== file) return [wrong(here, `is ${file}: write it as ${plainPath(file)}`)];
  if (TAKEN.some((path) => isWithin(file, path)))
    return [wrong(here, `is ${file}, but ${TAKEN.join(' and ')} belong to the system: choose another path`)];
  if (restore.identity !== 'file' || !container.readOnlyRoot) return [];
  const writable = container.volumes.some((volume) => isWithin(file, volume.at) && 'private' in volume);
  return writable ? [] : [wrong(here, `is ${file}, which is on the read-only root: put it on a \`private\` volume`)];
}

function pool({ pool: settings, container }: WorkloadDescription): Problem[] {
  const { min, max, targetConcurrency, maxConcurrency, burstWindowSeconds, stableWindowSeconds, port } = settings;
  const problems: Problem[] = [];
  if (min > max) problems.push(wrong(['pool', 'min'], `is ${min}, above max, which is ${max}`));
  if (maxConcurrency !== undefined && maxConcurrency < targetConcurrency)
    problems.push(wrong(['pool', 'maxConcurrency'], `is ${maxConcurrency}, below targetConcurrency, which is ${targetConcurrency}`));
  if (burstWindowSeconds > stableWindowSeconds)
    problems.push(
      wrong(['pool', 'burstWindowSeconds'], `is ${burstWindowSeconds}, above stableWindowSeconds, which is ${stableWindowSeconds}`),
    );
  if (port !== undefined && !container.ports.includes(port))
    problems.push(wrong(['pool', 'port'], `is ${port}, which is not in container.ports: add it there`));
  return problems;
}

function plainPath(path: string): string {
  const plain = posix.normalize(path);
  return plain.length > 1 && plain.endsWith('/') ? plain.slice(0, -1) : plain;
}

function isWithin(path: string, directory: string): boolean {
  return path === directory || path.startsWith(`${directory}/`);
}

function wrong(path: Path, says: string): Problem {
  return { path, at: 'value', says };
}

function wrongKey(path: Path, says: string): Problem {
  return { path, at: 'key', says };
}
