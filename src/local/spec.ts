import type { ContainerSpec } from '../workloads/workload.ts';
import { type Seccomp, seccompProfile } from './seccomp.ts';
import type { ContainerUser } from './user.ts';

/** The `process` part of an OCI runtime configuration: what a command in the container may do. */
export type OciProcess = {
  readonly terminal: false;
  readonly user: { readonly uid: number; readonly gid: number; readonly additionalGids: readonly number[] };
  readonly args: readonly string[];
  readonly env: readonly string[];
  readonly cwd: string;
  readonly capabilities: Readonly<Record<'bounding' | 'effective' | 'permitted' | 'inheritable' | 'ambient', readonly string[]>>;
  readonly noNewPrivileges: boolean;
};

export type OciMount = {
  readonly destination: string;
  readonly type: string;
  readonly source: string;
  readonly options: readonly string[];
};

/** As much of an OCI runtime configuration as we write (runtime-spec 1.0.2, config.md and config-linux.md). */
export type OciSpec = {
  readonly ociVersion: '1.0.2';
  readonly hostname: string;
  readonly root: { readonly path: string; readonly readonly: boolean };
  readonly process: OciProcess;
  readonly mounts: readonly OciMount[];
  readonly linux: {
    readonly cgroupsPath: string;
    readonly namespaces: readonly { readonly type: string; readonly path?: string }[];
    readonly resources: Readonly<Record<string, unknown>>;
    readonly maskedPaths: readonly string[];
    readonly readonlyPaths: readonly string[];
    readonly seccomp?: Seccomp;
  };
};

/** What an image says of its process (image-spec, config.md). */
export type ImageDefaults = {
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
  readonly env: readonly string[];
  readonly workdir: string;
  readonly user: string | undefined;
};

/** The set that Docker and containerd give a container. */
const USUAL_CAPABILITIES = [
  'CAP_CHOWN',
  'CAP_DAC_OVERRIDE',
  'CAP_FSETID',
  'CAP_FOWNER',
  'CAP_MKNOD',
  'CAP_NET_RAW',
  'CAP_SETGID',
  'CAP_SETUID',
  'CAP_SETFCAP',
  'CAP_SETPCAP',
  'CAP_NET_BIND_SERVICE',
  'CAP_SYS_CHROOT',
  'CAP_KILL',
  'CAP_AUDIT_WRITE',
];

const MASKED = [
  '/proc/acpi',
  '/proc/asound',
  '/proc/kcore',
  '/proc/keys',
  '/proc/latency_stats',
  '/proc/timer_list',
  '/proc/timer_stats',
  '/proc/sched_debug',
  '/proc/scsi',
  '/sys/firmware',
  '/sys/devices/virtual/powercap',
];
const READ_ONLY = ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'];

const SYSTEM_MOUNTS: readonly OciMount[] = [
  { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] },
  { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'strictatime', 'mode=755', 'size=65536k'] },
  {
    destination: '/dev/pts',
    type: 'devpts',
    source: 'devpts',
    options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'],
  },
  { destination: '/dev/shm', type: 'tmpfs', source: 'shm', options: ['nosuid', 'noexec', 'nodev', 'mode=1777', 'size=65536k'] },
  { destination: '/dev/mqueue', type: 'mqueue', source: 'mqueue', options: ['nosuid', 'noexec', 'nodev'] },
  { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['nosuid', 'noexec', 'nodev', 'ro'] },
  { destination: '/sys/fs/cgroup', type: 'cgroup', source: 'cgroup', options: ['nosuid', 'noexec', 'nodev', 'relatime', 'ro'] },
];

const UNDO_MS = 15_000;

/** All that decides how one container runs; nothing here is looked up. */
export type SpecInput = {
  readonly uid: string;
  readonly name: string;
  readonly workloadName: string;
  readonly container: ContainerSpec;
  readonly restoreDeadlineSeconds: number;
  readonly image: ImageDefaults;
  readonly user: ContainerUser;
  readonly address: string;
  readonly rootDir: string;
  readonly netns: string;
  readonly cgroupVersion: 1 | 2;
  readonly architecture: NodeJS.Architecture;
  /** The directory with the slot, seen at /rekindle. */
  readonly slotDir: string;
  /** hosts, hostname and resolv.conf of this container. */
  readonly etcDir: string;
  /** Where each volume's content lies on this machine. */
  readonly volumes: readonly { readonly at: string; readonly source: string; readonly readOnly: boolean }[];
};

/** The whole OCI configuration of a container whose PID 1 is the slot. */
export function ociSpec(input: SpecInput): OciSpec {
  const { container } = input;
  const capabilities = container.capabilities ?? USUAL_CAPABILITIES;
  return {
    ociVersion: '1.0.2',
    hostname: input.name,
    root: { path: input.rootDir, readonly: container.readOnlyRoot },
    process: processOf(input, capabilities),
    mounts: [...SYSTEM_MOUNTS, ...fileMounts(input), ...volumeMounts(input)],
    linux: {
      cgroupsPath: `/rekindle/${input.uid}`,
      namespaces: [
        { type: 'network', path: input.netns },
        { type: 'pid' },
        { type: 'mount' },
        { type: 'uts' },
        { type: 'ipc' },
        // As Kubernetes: a cgroup namespace of its own on version 2 only.
        ...(input.cgroupVersion === 2 ? [{ type: 'cgroup' }] : []),
      ],
      resources: resourcesOf(container),
      maskedPaths: MASKED,
      readonlyPaths: READ_ONLY,
      ...(container.seccomp === 'default' ? { seccomp: seccompProfile(capabilities, input.architecture) } : {}),
    },
  };
}

/** The command that the slot carries: the workload's, else the image's. Empty when neither has one. */
export function commandOf(container: ContainerSpec, image: ImageDefaults): readonly string[] {
  return container.command ?? [...image.entrypoint, ...image.cmd];
}

function processOf(input: SpecInput, capabilities: readonly string[]): OciProcess {
  const { uid, gid, additionalGids } = input.user;
  // As Docker: a user other than root holds none and keeps the set only as what a set-uid program may gain.
  const held = uid === 0 ? capabilities : [];
  return {
    terminal: false,
    user: { uid, gid, additionalGids },
    args: ['/rekindle/slot', ...commandOf(input.container, input.image)],
    env: environmentOf(input),
    cwd: input.container.workdir ?? input.image.workdir,
    capabilities: { bounding: capabilities, effective: held, permitted: held, inheritable: [], ambient: [] },
    noNewPrivileges: input.container.noNewPrivileges,
  };
}

function environmentOf(input: SpecInput): readonly string[] {
  const env = new Map([
    ['PATH', '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'],
    ['HOME', input.user.home],
  ]);
  for (const entry of input.image.env) {
    const equals = entry.indexOf('=');
    if (equals > 0) env.set(entry.slice(0, equals), entry.slice(equals + 1));
  }
  for (const [name, value] of Object.entries(input.container.env)) env.set(name, value);
  // What else a pod may have, a container of this machine has not; the file's rules refuse it.
  const instance = { name: input.name, address: input.address, uid: input.uid, pod: '' };
  for (const [name, what] of Object.entries(input.container.instanceEnv)) env.set(name, instance[what]);
  if (input.container.preload) {
    env.set('LD_PRELOAD', ['/rekindle/entropy.so', env.get('LD_PRELOAD')].filter(Boolean).join(' '));
    env.set('NODE_OPTIONS', ['--require=/rekindle/random-uuid.cjs', env.get('NODE_OPTIONS')].filter(Boolean).join(' '));
  }
  env.set('REKINDLE_AGENT', 'unix:/rekindle/agent.sock');
  env.set('REKINDLE_POD_UID', input.uid);
  env.set('REKINDLE_CONTAINER', input.workloadName);
  // The slot gives up after its helper has: longer than a restore may take, and putting everything back.
  env.set('REKINDLE_RESTORE_MS', String(Math.min(3_600_000, Math.ceil(input.restoreDeadlineSeconds * 1000) + UNDO_MS)));
  return [...env].map(([name, value]) => `${name}=${value}`);
}

function fileMounts(input: SpecInput): readonly OciMount[] {
  const bind = (source: string, destination: string, options: readonly string[]): OciMount => ({
    destination,
    type: 'bind',
    source,
    options: ['bind', 'rprivate', ...options],
  });
  const writable = input.container.readOnlyRoot ? 'ro' : 'rw';
  return [
    // A directory, so that a socket made anew is seen; `exec` because /run often forbids it.
    bind(input.slotDir, '/rekindle', ['ro', 'nosuid', 'nodev', 'exec']),
    ...['hosts', 'hostname', 'resolv.conf'].map((file) => bind(`${input.etcDir}/${file}`, `/etc/${file}`, [writable])),
  ];
}

/** Outer volumes before those that lie in them. */
function volumeMounts(input: SpecInput): readonly OciMount[] {
  const depth = (at: string) => at.split('/').length;
  return [...input.volumes]
    .sort((a, b) => depth(a.at) - depth(b.at))
    .map(({ at, source, readOnly }) => ({ destination: at, type: 'bind', source, options: ['rbind', 'rprivate', readOnly ? 'ro' : 'rw'] }));
}

const CPU_PERIOD_US = 100_000;
const MIB = 1024 * 1024;

function resourcesOf(container: ContainerSpec): Readonly<Record<string, unknown>> {
  return {
    devices: [{ allow: false, access: 'rwm' }],
    ...(container.memoryMiB === undefined ? {} : { memory: { limit: container.memoryMiB * MIB } }),
    // The kernel's smallest quota is 1 ms.
    ...(container.cpus === undefined
      ? {}
      : { cpu: { period: CPU_PERIOD_US, quota: Math.max(1_000, Math.round(container.cpus * CPU_PERIOD_US)) } }),
    ...(container.pids === undefined ? {} : { pids: { limit: container.pids } }),
  };
}
