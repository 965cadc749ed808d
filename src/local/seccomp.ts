/** The `linux.seccomp` part of an OCI runtime configuration (runtime-spec, config-linux.md#seccomp). */
export type Seccomp = {
  readonly defaultAction: 'SCMP_ACT_ALLOW';
  readonly architectures: readonly string[];
  readonly syscalls: readonly SyscallRule[];
};

type SyscallRule = {
  readonly names: readonly string[];
  readonly action: 'SCMP_ACT_ERRNO';
  readonly errnoRet: number;
  readonly args?: readonly {
    readonly index: number;
    readonly value: number;
    readonly valueTwo: number;
    readonly op: 'SCMP_CMP_MASKED_EQ';
  }[];
};

const EPERM = 1;
const ENOSYS = 38;
const EPROTONOSUPPORT = 93;

/** CRIU cannot dump an MPTCP socket, and Go listens by MPTCP where it can (since 1.24): refused, it takes TCP. */
const IPPROTO_MPTCP = 262;

/** Refused whatever the container's capabilities are. */
const ALWAYS = [
  // CRIU cannot dump an io_uring; a refusal makes programs fall back to epoll (Node ≥ 22 opens one at start).
  'io_uring_setup',
  'io_uring_enter',
  'io_uring_register',
  // The kernel's keyring belongs to no namespace.
  'add_key',
  'keyctl',
  'request_key',
  // A way to stop the kernel at will, which exploits need.
  'userfaultfd',
  // Old, unused, and each with a history of holes.
  'nfsservctl',
  'uselib',
  'ustat',
  'sysfs',
  '_sysctl',
  'create_module',
  'get_kernel_syms',
  'query_module',
  'vm86',
  'vm86old',
  'move_pages',
];

/** Refused without the capability: the kernel checks most of it itself, some only inside a user namespace of the caller's own. */
const UNLESS: Readonly<Record<string, readonly string[]>> = {
  CAP_SYS_ADMIN: [
    'mount',
    'umount',
    'umount2',
    'pivot_root',
    'move_mount',
    'open_tree',
    'open_tree_attr',
    'fsopen',
    'fsconfig',
    'fsmount',
    'fspick',
    'mount_setattr',
    'setns',
    'unshare',
    'quotactl',
    'quotactl_fd',
    'swapon',
    'swapoff',
    'sethostname',
    'setdomainname',
    'lookup_dcookie',
    'fanotify_init',
  ],
  CAP_BPF: ['bpf'],
  CAP_PERFMON: ['perf_event_open'],
  CAP_SYS_BOOT: ['reboot', 'kexec_load', 'kexec_file_load'],
  CAP_SYS_MODULE: ['init_module', 'finit_module', 'delete_module'],
  CAP_SYS_RAWIO: ['iopl', 'ioperm'],
  CAP_SYS_TIME: ['settimeofday', 'stime', 'clock_settime', 'clock_settime64'],
  CAP_SYS_PACCT: ['acct'],
  CAP_SYS_NICE: ['set_mempolicy', 'mbind', 'migrate_pages', 'set_mempolicy_home_node'],
  CAP_SYS_TTY_CONFIG: ['vhangup'],
  CAP_DAC_READ_SEARCH: ['open_by_handle_at'],
};

/** CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET (clone(2)). */
const CLONE_NEW = [0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000];

const ARCHITECTURES: Readonly<Record<string, readonly string[]>> = {
  x64: ['SCMP_ARCH_X86_64', 'SCMP_ARCH_X86', 'SCMP_ARCH_X32'],
  arm64: ['SCMP_ARCH_AARCH64', 'SCMP_ARCH_ARM'],
};

/**
 * The default filter: everything is allowed but what is listed here. The long allow-lists of Docker and containerd refuse much the same
 * calls and besides every call newer than the list; this one is short enough to read, and leaves those to the container's capabilities,
 * namespaces and masked paths. `ptrace` is allowed: since Linux 4.8 it cannot be used to pass a filter.
 */
export function seccompProfile(capabilities: readonly string[], architecture: NodeJS.Architecture): Seccomp {
  const architectures = ARCHITECTURES[architecture] ?? [];
  const refused = Object.entries(UNLESS).flatMap(([capability, names]) => (capabilities.includes(capability) ? [] : names));
  const syscalls: SyscallRule[] = [
    { names: [...ALWAYS, ...refused], action: 'SCMP_ACT_ERRNO', errnoRet: EPERM },
    {
      names: ['socket'],
      action: 'SCMP_ACT_ERRNO',
      errnoRet: EPROTONOSUPPORT,
      args: [{ index: 2, value: 0xffffffff, valueTwo: IPPROTO_MPTCP, op: 'SCMP_CMP_MASKED_EQ' }],
    },
  ];
  if (!capabilities.includes('CAP_SYS_ADMIN')) {
    for (const flag of CLONE_NEW) {
      syscalls.push({
        names: ['clone'],
        action: 'SCMP_ACT_ERRNO',
        errnoRet: EPERM,
        args: [{ index: 0, value: flag, valueTwo: flag, op: 'SCMP_CMP_MASKED_EQ' }],
      });
    }
    // A filter cannot see the flags of clone3, which lie in memory: ENOSYS makes libc use clone.
    syscalls.push({ names: ['clone3'], action: 'SCMP_ACT_ERRNO', errnoRet: ENOSYS });
  }
  return { defaultAction: 'SCMP_ACT_ALLOW', architectures, syscalls };
}
