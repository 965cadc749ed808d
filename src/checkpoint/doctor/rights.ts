import { readFile } from 'node:fs/promises';
import { examine, type Fact, type Finding, fail, ok, warn } from '../../lib/fact.ts';

/** Numbers of linux/capability.h, and what rekindle cannot do without the capability. */
const NEEDED: readonly { readonly name: string; readonly bit: number; readonly level: 'warn' | 'fail'; readonly without: string }[] = [
  { name: 'CAP_SYS_ADMIN', bit: 21, level: 'fail', without: 'no mounts, no namespaces, no checkpoint' },
  { name: 'CAP_SYS_PTRACE', bit: 19, level: 'fail', without: 'CRIU cannot look into processes of others' },
  { name: 'CAP_NET_ADMIN', bit: 12, level: 'fail', without: 'no container gets a network' },
  { name: 'CAP_CHOWN', bit: 0, level: 'fail', without: 'files of a snapshot do not get their owners' },
  { name: 'CAP_DAC_OVERRIDE', bit: 1, level: 'fail', without: "other users' files cannot be copied" },
  { name: 'CAP_FOWNER', bit: 3, level: 'fail', without: "other users' files do not get their modes" },
  { name: 'CAP_KILL', bit: 5, level: 'fail', without: 'what a failed restore leaves cannot be ended' },
  { name: 'CAP_SETGID', bit: 6, level: 'fail', without: 'clones do not get their groups' },
  { name: 'CAP_SETUID', bit: 7, level: 'fail', without: 'clones do not get their user' },
  { name: 'CAP_SETPCAP', bit: 8, level: 'fail', without: 'clones do not get their capability sets' },
  { name: 'CAP_SYS_CHROOT', bit: 18, level: 'fail', without: 'clones do not get their root directory' },
  { name: 'CAP_MKNOD', bit: 27, level: 'fail', without: 'containers get no /dev' },
  { name: 'CAP_CHECKPOINT_RESTORE', bit: 40, level: 'warn', without: 'CRIU falls back to CAP_SYS_ADMIN' },
  {
    name: 'CAP_SYS_RESOURCE',
    bit: 24,
    level: 'warn',
    without: 'CRIU cannot read limits of other users, so a preloaded library reads them from /proc; nothing can raise limits',
  },
];

/** Limit of open files below which CRIU runs short when it restores a large application. */
const FEW_FILES = 1024;

/** Who we are and what we may do. */
export function examineRights(): Promise<Fact[]> {
  const status = () => readFile('/proc/self/status', 'utf8');
  return examine('who we are', {
    root: () =>
      process.getuid?.() === 0
        ? ok('root', 'user 0')
        : fail('root', `user ${process.getuid?.()}: checkpoints and restores need root`, 'run as root'),
    capabilities: async () => capabilityFindings(await status()),
    'our own filter': async () => ownFilter(await status()),
    'open files': async () => openFilesLimit(await readFile('/proc/self/limits', 'utf8')),
    tracing: async () => tracing(await readFile('/proc/sys/kernel/yama/ptrace_scope', 'utf8').catch(() => undefined)),
    'security modules': async () =>
      securityModules({
        apparmor: await readFile('/sys/module/apparmor/parameters/enabled', 'utf8').catch(() => ''),
        selinuxEnforce: await readFile('/sys/fs/selinux/enforce', 'utf8').catch(() => undefined),
      }),
  });
}

/** What the text of a /proc/PID/status says of effective capabilities: one finding when all are there, else one for each that is missing. */
export function capabilityFindings(status: string): Finding[] {
  const effective = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)/m.exec(status)?.[1] ?? '0'}`);
  const missing = NEEDED.filter(({ bit }) => ((effective >> BigInt(bit)) & 1n) === 0n);
  const there = ok('capabilities', `${NEEDED.length - missing.length} of the ${NEEDED.length} that matter are effective`);
  return [
    ...(missing.length === NEEDED.length ? [] : [there]),
    ...missing.map(({ name, level, without }) => {
      const remedy = `give this process ${name} (container: securityContext.capabilities.add; systemd: CapabilityBoundingSet)`;
      return level === 'fail' ? fail(name, `missing: ${without}`, remedy) : warn(name, `missing: ${without}`);
    }),
  ];
}

/** Whether we run below a seccomp filter, which would refuse what the kernel could do. */
export function ownFilter(status: string): Finding {
  if ((/^Seccomp:\s*(\d)/m.exec(status)?.[1] ?? '0') === '0') return ok('our own filter', 'no seccomp filter on this process');
  return warn(
    'our own filter',
    'this process runs under a seccomp filter, which may refuse ptrace, open_tree, move_mount or setns',
    'run it unconfined (container: seccompProfile.type Unconfined)',
  );
}

/** From the text of /proc/PID/limits. */
export function openFilesLimit(limits: string): Finding {
  const [, soft, hard] = /^Max open files\s+(\S+)\s+(\S+)/m.exec(limits) ?? [];
  if (soft === undefined || hard === undefined) return warn('open files', 'the limit could not be read from /proc/self/limits');
  const says = `limit ${soft}, at most ${hard}`;
  return hard !== 'unlimited' && Number(hard) < FEW_FILES
    ? warn('open files', `${says}: few for a large application`, 'raise it: ulimit -Hn 65536 (systemd: LimitNOFILE)')
    : ok('open files', says);
}

/** From Yama's ptrace_scope; undefined where the kernel has no Yama. */
export function tracing(scope: string | undefined): Finding {
  // 3 forbids attaching for good, whatever the capabilities (Documentation/admin-guide/LSM/Yama.rst).
  if (scope?.trim() !== '3')
    return ok('tracing', scope === undefined ? 'not restricted' : `allowed to root (ptrace_scope ${scope.trim()})`);
  return fail(
    'tracing',
    'kernel.yama.ptrace_scope is 3: nobody may trace, and CRIU must',
    'set it lower at boot (sysctl kernel.yama.ptrace_scope=1) and restart',
  );
}

export function securityModules(found: { readonly apparmor: string; readonly selinuxEnforce: string | undefined }): Finding {
  const active = [
    ...(found.apparmor.trim() === 'Y' ? ['AppArmor'] : []),
    ...(found.selinuxEnforce === undefined ? [] : [`SELinux (${found.selinuxEnforce.trim() === '1' ? 'enforcing' : 'permissive'})`]),
  ];
  if (active.length === 0) return ok('security modules', 'neither AppArmor nor SELinux');
  return warn(
    'security modules',
    `${active.join(' and ')} active: rekindle is unproven with it; clones get the label of their slot`,
    'where restores fail with "Permission denied", look for denials in the audit log',
  );
}
