import path from 'node:path';
import { type Static, Type } from 'typebox';
import { Value } from 'typebox/value';
import { RekindleError } from '../lib/errors.ts';
import type { HostVolume } from '../workloads/host.ts';
import { SLOT_MOUNT, SLOT_PROGRAM } from '../workloads/kubernetes.ts';

const Texts = Type.Array(Type.String());

/** As much of an OCI runtime configuration as we change (runtime-spec, config.md and config-linux.md); everything else is kept as it is. */
const Spec = Type.Object({
  ociVersion: Type.String(),
  process: Type.Object({ args: Texts, env: Texts, oomScoreAdj: Type.Optional(Type.Integer()) }),
  root: Type.Object({ readonly: Type.Optional(Type.Boolean()) }),
  mounts: Type.Array(Type.Object({ destination: Type.String(), source: Type.Optional(Type.String()), options: Type.Optional(Texts) })),
  linux: Type.Object({
    namespaces: Type.Array(Type.Object({ type: Type.String() })),
    resources: Type.Optional(Type.Object({ cpu: Type.Optional(Type.Object({ shares: Type.Optional(Type.Integer()) })) })),
  }),
});
type Spec = Static<typeof Spec>;
type SpecMount = Spec['mounts'][number];

const Sysctls = Type.Object({ linux: Type.Object({ sysctl: Type.Record(Type.String(), Type.String()) }) });

export type TrialInput = {
  /** What the seed's container was made from, and its pod's sandbox, as the runtime tells. */
  readonly spec: unknown;
  readonly sandboxSpec: unknown;
  /** Options of the overlay that is the seed's root. */
  readonly rootOptions: readonly string[];
  readonly volumes: readonly HostVolume[];
  /** Where in the seed's filesystem a path leads, as the runtime followed it. */
  readonly placeOf: (destination: string) => string;
  readonly uid: string;
  readonly name: string;
  /** The trial's own directory. */
  readonly dir: string;
  /** The slot's files, and the agent's `agent.sock` among them. */
  readonly slotDir: string;
  readonly cgroup: string;
  /** Below which a process of ours may not go. */
  readonly minOomScoreAdj: number;
};

/** What the trial's container is made from, and what is done for it among its mounts first (arguments of images/agent/trial-mounts.c). */
export type TrialPlan = {
  readonly spec: Readonly<Record<string, unknown>> & { readonly process: object };
  readonly operations: readonly string[];
};

/** By which the trial's slot finds the agent, since its network leads to none: among the slot's files. */
export const AGENT_SOCKET = 'agent.sock';
/** Files of its own that every pod has. */
export const ETC_FILES = ['hosts', 'hostname', 'resolv.conf'] as const;

const SHARED_MEMORY = '/dev/shm';
/** Of half a processor. A trial's group stands beside that of all pods: with the share that a pod of 10m has among its like it would get nothing on a busy node. */
const TRIAL_CPU_SHARES = 512;
const PROPAGATION = /^r?(?:private|shared|slave|unbindable)$/;
/** Options of an overlay that its lower directories need, or were made with. */
const LASTING_OPTION = /^(?:redirect_dir|metacopy|index|userxattr|xino)(?:=|$)/;

/**
 * A container like the seed's that cannot act in the world: of its own are all namespaces, the root's writes, private volumes and what is in
 * them; shared volumes that could be written are copies. What only the node can do for a container (hooks, devices' classes of service) is left out. Throws
 * `verify_failed` for a seed that none can be made of.
 */
export function planTrial(input: TrialInput): TrialPlan {
  const spec = checked(input.spec);
  const root = rootOf(input);
  const mounts = spec.mounts.map((mount, i) => mountOf(input, mount, i));
  const hasSlot = spec.mounts.some(({ destination }) => destination === SLOT_MOUNT);
  return {
    operations: [
      // The node's groups: a container has only its own part of them.
      ...['--take', '/sys/fs/cgroup', '/sys/fs/cgroup'],
      ...['--dir', path.join(input.dir, 'mounts')],
      ...root.operations,
      ...mounts.flatMap(({ operations }) => operations),
    ],
    spec: {
      ...spec,
      hooks: undefined,
      annotations: undefined,
      hostname: input.name,
      root: { ...spec.root, path: root.at },
      process: { ...spec.process, ...processOf(input, spec.process) },
      mounts: [
        ...mounts.map(({ mount }) => mount),
        ...(hasSlot ? [] : [bind(SLOT_MOUNT, input.slotDir, ['bind', 'ro', 'nosuid', 'nodev'])]),
      ],
      linux: linuxOf(input, spec.linux),
    },
  };
}

function checked(spec: unknown): Spec {
  if (Value.Check(Spec, spec)) return spec;
  const [first] = Value.Errors(Spec, spec);
  throw new RekindleError(
    'verify_failed',
    `no trial container can be made: the container runtime does not say what the seed was made from (${first?.instancePath ?? ''} ${first?.message ?? ''})`,
  );
}

function processOf(input: TrialInput, original: Spec['process']): object {
  const [program, ...args] = original.args;
  const env = new Map(original.env.map((entry) => split(entry)));
  if (env.has('HOSTNAME')) env.set('HOSTNAME', input.name);
  env.set('REKINDLE_AGENT', `unix:${SLOT_MOUNT}/${AGENT_SOCKET}`);
  env.set('REKINDLE_POD_UID', input.uid);
  if (!env.has('REKINDLE_CONTAINER')) env.set('REKINDLE_CONTAINER', 'trial');
  return {
    terminal: false,
    args: program === SLOT_PROGRAM ? [SLOT_PROGRAM, ...args] : [SLOT_PROGRAM, ...original.args],
    env: [...env].map(([name, value]) => `${name}=${value}`),
    // Rather this one than another: it is thrown away. Less than our own would need a right that we may not have.
    oomScoreAdj: Math.max(original.oomScoreAdj ?? 0, input.minOomScoreAdj),
  };
}

function linuxOf(input: TrialInput, linux: Spec['linux']): object {
  if (linux.namespaces.some(({ type }) => type === 'user'))
    throw new RekindleError('verify_failed', 'no trial container can be made of a container with a user namespace of its own');
  const cpu = linux.resources?.cpu ?? {};
  const types = new Set([...linux.namespaces.map(({ type }) => type), 'pid', 'ipc', 'uts', 'mount', 'network']);
  const sysctl = Value.Check(Sysctls, input.sandboxSpec) ? input.sandboxSpec.linux.sysctl : {};
  return {
    ...linux,
    resources: { ...linux.resources, cpu: { ...cpu, shares: Math.max(cpu.shares ?? 0, TRIAL_CPU_SHARES) } },
    intelRdt: undefined,
    rootfsPropagation: 'rslave',
    sysctl,
    cgroupsPath: input.cgroup,
    namespaces: [...types].map((type) => ({ type })),
  };
}

function rootOf({ rootOptions, dir }: TrialInput): { readonly at: string; readonly operations: readonly string[] } {
  const value = (name: string) => rootOptions.find((option) => option.startsWith(`${name}=`))?.slice(name.length + 1);
  const [lowers, upper] = [value('lowerdir'), value('upperdir')];
  if (lowers === undefined || upper === undefined)
    throw new RekindleError(
      'verify_failed',
      'no trial container can be made: the root filesystem of the seed is no overlay (the snapshotter of the container runtime must be overlayfs)',
    );
  // Many layers are named relative to where all of them are: containerd and containers/storage go there, so that they fit into one page.
  const base = path.dirname(path.dirname(upper));
  const layers = splitLayers(lowers).map((layer) => path.resolve(base, layer));
  const at = path.join(dir, 'root');
  const places = layers.map((_, i) => path.join(dir, `mounts/l${i}`));
  return {
    at,
    operations: [
      ...layers.flatMap((layer, i) => ['--take', layer, places[i] ?? '']),
      ...['--overlay', String(layers.length), ...places, rootOptions.filter((option) => LASTING_OPTION.test(option)).join(',')],
      ...[path.join(dir, 'fresh'), at],
    ],
  };
}

function mountOf(
  input: TrialInput,
  mount: SpecMount,
  index: number,
): { readonly mount: SpecMount; readonly operations: readonly string[] } {
  const { source, options = [] } = mount;
  if (source === undefined || !options.some((option) => option === 'bind' || option === 'rbind')) return { mount, operations: [] };
  // Not one mount more than the seed has: each of a slot's must be there in what is restored into it.
  if (mount.destination === SLOT_MOUNT) return { mount: bind(SLOT_MOUNT, input.slotDir, options), operations: [] };
  const own = ETC_FILES.find((file) => mount.destination === `/etc/${file}`);
  if (own !== undefined) return { mount: bind(mount.destination, path.join(input.dir, 'etc', own), options), operations: [] };
  const taken = path.join(input.dir, `mounts/t${index}`);
  const made = path.join(input.dir, `mounts/m${index}`);
  const take = ['--take', source, taken];
  const isPrivate = input.volumes.some(({ at, kind }) => at === input.placeOf(mount.destination) && kind === 'private');
  if (isPrivate || mount.destination === SHARED_MEMORY)
    return { mount: bind(mount.destination, made, options), operations: [...take, '--fresh', taken, made] };
  if (options.includes('ro')) return { mount: bind(mount.destination, taken, options), operations: take };
  const writes = path.join(input.dir, `mounts/w${index}`);
  return { mount: bind(mount.destination, made, options), operations: [...take, '--copy', taken, writes, made] };
}

function bind(destination: string, source: string, options: readonly string[]): SpecMount & { readonly type: 'bind' } {
  return { destination, type: 'bind', source, options: [...options.filter((option) => !PROPAGATION.test(option)), 'rprivate'] };
}

/** Colons separate; one in a name has a backslash before it, and so has a backslash (Documentation/filesystems/overlayfs.rst). */
function splitLayers(text: string): string[] {
  return [...text.matchAll(/(?:\\.|[^\\:])+/g)].map(([layer]) => layer.replaceAll(/\\(.)/g, '$1'));
}

function split(entry: string): [string, string] {
  const at = entry.indexOf('=');
  return at < 0 ? [entry, ''] : [entry.slice(0, at), entry.slice(at + 1)];
}
