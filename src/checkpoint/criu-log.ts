import { readFile } from 'node:fs/promises';

/** Error lines that CRIU writes on machines where everything goes well. */
const HARMLESS = [
  /Can't setup RLIMIT_NOFILE/, // without CAP_SYS_RESOURCE
  /Pre-resume script ret code/, // our own refusal, told elsewhere
  /One of more action scripts failed|Script .* exited with/,
  /\(criu\/util\.c:\d+\): (?:exited, status|killed by signal)/, // a program that CRIU ran; what it wanted stands in the lines about it
  /Dumping FAILED/,
  /Restoring FAILED/,
  /Killing processes because of failure/,
  /cgroupd: recv req error/, // of its helper, when criu itself has gone
  /The Network was unlocked so some data/,
  /Could not bind mount|iptables has nft backend/, // warnings of its feature tests that some builds log as errors
];

/** Known causes: what the application does and what the user can do. */
const CAUSES: readonly { readonly says: RegExp; readonly means: string; readonly kind: Exclude<CriuFailure['kind'], 'unknown'> }[] = [
  {
    says: /netlink: The socket has data to read/,
    means: 'the application was being told of its network by the kernel (netlink) at that moment',
    kind: 'moment',
  },
  {
    says: /io_uring|anon_inode:\[io_uring\]/i,
    means:
      "the application uses io_uring, which CRIU cannot dump. Run it with a seccomp profile that refuses io_uring_setup (rekindle's default does)",
    kind: 'refused',
  },
  {
    says: /external socket is used|unix.*(?:external|Can't dump half of stream|peer)|External socket/i,
    means:
      'the application holds a unix socket whose other end is outside the container (a host daemon, a log socket). Close it before the checkpoint (container.warmup) or reconnect lazily',
    kind: 'refused',
  },
  {
    says: /Connected TCP socket|in-flight connection|tcp.*(?:established|repair)/i,
    means:
      'the application holds a TCP connection that could not be closed for the clone. Let it close its connections before the checkpoint, or reconnect when one breaks',
    kind: 'refused',
  },
  {
    says: /Can't dump file .* of that type .*\(anon /,
    means:
      'the application holds a kernel object that CRIU cannot save (its name is below: bpf, perf_event, userfaultfd, landlock, …). Let it close that before the checkpoint, or refuse it by a seccomp profile',
    kind: 'refused',
  },
  {
    says: /Unsupported proto 262/,
    means:
      "the application listens by MPTCP, which CRIU cannot save. Run it with a seccomp profile that refuses it (rekindle's default does), or switch it off (Go: GODEBUG=multipathtcp=0)",
    kind: 'refused',
  },
  {
    says: /Unsupported proto|Unknown socket collected|Unsupported socket|Can't (?:dump|handle) .*socket/i,
    means:
      'the application holds a kind of socket that CRIU cannot save (vsock, SCTP, …). Open it only on use, or leave this workload cold',
    kind: 'refused',
  },
  {
    says: /Can't lookup mount=-?\d+ for fd=/,
    means:
      'the application holds a file that lies on no mount of the container (a POSIX message queue, memfd_secret, or what another mount hides). Let it close that before the checkpoint, or leave this workload cold',
    kind: 'refused',
  },
  {
    says: /fsnotify: .*Can't dump that handle/,
    means:
      'the application watches a file (inotify) whose path CRIU does not find. Keep watched files on a private volume or below /etc, /tmp, /var, /srv, /app, /data, /opt or /home',
    kind: 'refused',
  },
  {
    says: /Unseizable non-zombie/,
    means: 'a process of the application is being traced (by strace, a debugger or a profiler). End that before the checkpoint',
    kind: 'refused',
  },
  {
    says: /tun: |\bTUN\b/,
    means: "the application has a network interface of its own (/dev/net/tun), which a clone's network lacks. Open it only on use",
    kind: 'refused',
  },
  {
    says: /\btty\b|\bpts\b|tty:|controlling terminal|master peer/i,
    means: 'the application holds a terminal. Run it without one (no tty: true, no stdin: true)',
    kind: 'refused',
  },
  {
    says: /Can't (?:dump|handle|lookup|find).*(?:device|chr|blk)|unsupported.*(?:chr|dev)|char device|nvidia|\/dev\/(?:kvm|dri|fuse|net\/tun)/i,
    means: 'the application has a device open that CRIU cannot save (GPU, FUSE, KVM, …). Open it only on use, or leave this workload cold',
    kind: 'refused',
  },
  {
    says: /nested|Can't dump (?:nested )?(?:pid|net|user|mnt) ?n(?:ame)?s|user namespace|Unsupported namespace|different (?:pid|net|user) ns|Unable to convert uid or gid/i,
    means:
      'the application made namespaces of its own (a sandbox or a container in the container). Switch that off (for browsers --no-sandbox) or leave this workload cold',
    kind: 'refused',
  },
  {
    says: /Can't open file .* on restore|Can't open .*: No such file|File .* has bad|bad size|Unable to open|No such file or directory/i,
    means: 'a file that the application had open is missing or different in the slot. Keep such files in the image or in a private volume',
    kind: 'snapshot',
  },
  {
    says: /cpu: CPU|mismatch.*cpu|cpu.*(?:mismatch|not supported|features)|FPU|xsave|Unsupported cpu/i,
    means: "this machine's CPU lacks a feature that the snapshot's had. Make one snapshot per kind of machine",
    kind: 'machine',
  },
  {
    says: /Operation not permitted|Permission denied|CAP_[A-Z_]+|setcap cap_|(?:drop|restore|raise ambient) capabilit|Can't get rlimit/,
    means:
      'CRIU lacks a right on this machine: it needs root with CAP_SYS_ADMIN, CAP_SYS_PTRACE and CAP_CHECKPOINT_RESTORE. `rekindle doctor` tells which is missing',
    kind: 'machine',
  },
  {
    says: /Address already in use|Cannot assign requested address|Can't bind (?:inet|socket|udp|tcp)/i,
    means:
      'an address or port that the application listens on is not to be had in the slot. Let it listen on 0.0.0.0 or :: instead of one address',
    kind: 'snapshot',
  },
  {
    says: /kern(?:el|dat).*(?:too old|(?:n't|not) support|required|lacks|is missing|initializing)|kernel features detection|more capabilities than this CRIU|seccomp.*not supported|ENOSYS|Function not implemented/i,
    means: "this machine's kernel lacks something that CRIU needs. `rekindle doctor` tells what",
    kind: 'machine',
  },
  {
    says: /No space left on device|ENOSPC/i,
    means: 'the disk is full. Free some space or lower the retention of snapshots',
    kind: 'machine',
  },
  {
    says: /link.*remap|Can't create link|ghost.*(?:limit|too big|size)/i,
    means: 'the application holds a large deleted file open. Close it before the checkpoint',
    kind: 'refused',
  },
  {
    says: /pid .* already exists|Can't fork for|EAGAIN|Cannot allocate memory/i,
    means: 'the slot has not enough memory or processes for the restore. Raise its memory or pids limit',
    kind: 'machine',
  },
];

/** What a failed CRIU said: its first error line that is not harmless and, for known causes, the cause in words. */
export type CriuFailure = {
  readonly line: string;
  readonly means: string | undefined;
  /** `moment`: a little later it would have gone well. */
  readonly kind: 'refused' | 'machine' | 'snapshot' | 'moment' | 'unknown';
};

/** Reads the reason out of the text of a CRIU log. */
export function explainLog(text: string): CriuFailure {
  const ours = text.split('\n').find((line) => line.startsWith('helper: '));
  if (ours !== undefined) return { line: ours.slice('helper: '.length), means: undefined, kind: 'unknown' };
  const lines = text.split('\n').filter((line) => line.trim() !== '' && !HARMLESS.some((harmless) => harmless.test(line)));
  const errors = lines.filter((line) => /\bError\b/.test(line));
  const line = (errors[0] ?? lines.at(-1) ?? '').trim();
  for (const candidate of errors.length > 0 ? errors : [line]) {
    const cause = CAUSES.find(({ says }) => says.test(candidate));
    if (cause) return { line, means: cause.means, kind: cause.kind };
  }
  return { line: line === '' ? 'nothing about it in its log: it was killed' : line, means: undefined, kind: 'unknown' };
}

/** {@link explainLog} of a file; where that does not exist, of `said` instead. */
export async function explainLogFile(path: string, said = ''): Promise<CriuFailure> {
  return explainLog(await readFile(path, 'utf8').catch(() => said));
}

/** One sentence for a user. */
export function failureText(failure: CriuFailure): string {
  return failure.means === undefined ? `CRIU says: ${failure.line}` : `${failure.means} (CRIU says: ${failure.line})`;
}
