import { access, readdir, readFile } from 'node:fs/promises';
import { release } from 'node:os';
import type { Exec } from '../../lib/exec.ts';
import { atLeast, examine, type Fact, type Finding, fail, ok, warn } from '../../lib/fact.ts';
import { machineFacts } from '../machine.ts';
import { tryAlone } from './trial.ts';

/**
 * criu in mounts of its own, with a fresh /run, so that its cache of kernel features does not stay behind, and without a PATH: it would run
 * iptables, which loads modules.
 */
const CRIU_ALONE = 'mount -t tmpfs rekindle /run && program=$(command -v criu) && PATH=/nonexistent exec "$program" "$@"';

/** The kernel, the CPU and CRIU. */
export function examineKernel(exec: Exec): Promise<Fact[]> {
  return examine('kernel and CRIU', {
    kernel: () => kernelVersion(release()),
    'CPU and class': async () => {
      const { arch, cpuFeatures, kernel, criu } = await machineFacts(exec, 'criu');
      const says = `${arch} with ${cpuFeatures.length} CPU features, kernel ${kernel}, CRIU ${criu}: snapshots fit machines with all of these or newer`;
      return arch === 'x86_64' ? ok('CPU and class', says) : warn('CPU and class', `${says}. Unproven on ${arch}`);
    },
    CRIU: async () => criuVersionFinding((await machineFacts(exec, 'criu')).criu),
    'criu check': async () => {
      const { status, stdout, stderr } = await criuAlone(exec, ['check']);
      return criuCheck(status, `${stderr}\n${stdout}`);
    },
    userfaultfd: async () => {
      const { status } = await criuAlone(exec, ['check', '--feature', 'uffd']);
      return status === 0 ? ok('userfaultfd', 'there') : warn('userfaultfd', 'missing: memory cannot be restored lazily, page by page');
    },
    seccomp: async () =>
      (await exists('/proc/sys/kernel/seccomp/actions_avail'))
        ? ok('seccomp', 'filters are available')
        : fail('seccomp', "missing in this kernel: containers' default filter cannot be set", 'use a kernel with CONFIG_SECCOMP_FILTER'),
    'memory merging': async () => memoryMerging(release(), await readFile('/sys/kernel/mm/ksm/run', 'utf8').catch(() => undefined)),
    'huge pages': async () => hugePages(await readFile('/sys/kernel/mm/transparent_hugepage/enabled', 'utf8').catch(() => undefined)),
    GPU: async () => gpu(await readdir('/dev')),
    clock: async () => clock(Date.now(), await readFile('/sys/devices/system/clocksource/clocksource0/current_clocksource', 'utf8')),
  });
}

/** The newest system call that the helper needs is close_range (5.9); it also uses openat2 (5.6), pidfd_open (5.3), open_tree and move_mount (5.2). */
export function kernelVersion(version: string): Finding {
  if (atLeast(version, 5, 9)) return ok('kernel', `${version}: has open_tree, move_mount, openat2, pidfd_open and close_range`);
  return fail('kernel', `${version}: too old, restores need system calls of 5.9`, 'use a newer kernel (Debian 12 has 6.1)');
}

/** CRIU before 4.2 cannot dump on recent kernels. */
export function criuVersionFinding(version: string): Finding {
  return atLeast(version, 4, 2)
    ? ok('CRIU', version)
    : fail('CRIU', `${version}: too old, 4.2 or newer is needed`, 'run scripts/setup, which installs it from a newer Debian suite');
}

/** What `criu check` said, without the line that it writes on every machine where limits cannot be raised. */
export function criuCheck(status: number, output: string): Finding {
  if (status === 0) return ok('criu check', 'looks good');
  const lines = output.split('\n').filter((line) => /\S/.test(line) && !line.includes("Can't setup RLIMIT_NOFILE"));
  const errors = lines.filter((line) => /^(?:Error|Warn)\b/.test(line));
  const complaint = (errors.length > 0 ? errors : lines).slice(0, 3).join('; ') || `ended with ${status} and said nothing`;
  return fail(
    'criu check',
    complaint,
    'run `criu check -v4` as root for all of it; most often a capability or an option of the kernel is missing',
  );
}

/** PR_SET_MEMORY_MERGE came with Linux 6.4. `run` is the text of /sys/kernel/mm/ksm/run, undefined without KSM. */
export function memoryMerging(kernel: string, run: string | undefined): Finding {
  const name = 'memory merging';
  if (run === undefined) return warn(name, 'this kernel has no KSM: clones share no memory (restore.mergeMemory has no effect)');
  if (!atLeast(kernel, 6, 4))
    return warn(name, `kernel ${kernel} cannot merge the pages of whole processes (6.4 can): clones share no memory`);
  if (run.trim() === '1') return ok(name, 'KSM is there and runs');
  return ok(
    name,
    'KSM is there and stands still; only workloads with restore.mergeMemory need it',
    'for those: echo 1 >/sys/kernel/mm/ksm/run',
  );
}

/** Text such as `always [madvise] never`. */
export function hugePages(enabled: string | undefined): Finding {
  const chosen = /\[(\w+)\]/.exec(enabled ?? '')?.[1];
  if (chosen === 'always') return ok('huge pages', 'always');
  const says = chosen === undefined ? 'this kernel has none' : `only ${chosen}`;
  return warn(
    'huge pages',
    `${says}: with "always" a restore copies memory about a third faster`,
    'echo always >/sys/kernel/mm/transparent_hugepage/enabled',
  );
}

/** From the names in /dev. */
export function gpu(devices: readonly string[]): Finding {
  const found = devices.filter((name) => /^(?:nvidia\d*|nvidiactl|nvidia-uvm|kfd)$/.test(name));
  if (found.length === 0) return ok('GPU', 'none');
  return warn(
    'GPU',
    `${found.map((name) => `/dev/${name}`).join(', ')}: a process that has one open cannot be checkpointed`,
    'let such workloads start cold',
  );
}

const IMPLAUSIBLE_BEFORE_MS = Date.UTC(2025, 0, 1);

/** A clone sees the wall clock go on; a clock that stands in the past breaks certificates and retention by age. */
export function clock(nowMs: number, source: string): Finding {
  const says = `${new Date(nowMs).toISOString()}, by ${source.trim()}`;
  return nowMs < IMPLAUSIBLE_BEFORE_MS ? warn('clock', `${says}: that cannot be`, 'set it, best by NTP') : ok('clock', says);
}

function criuAlone(exec: Exec, args: readonly string[]) {
  return tryAlone(exec, 'mount', 'sh', ['-c', CRIU_ALONE, 'sh', ...args]);
}

function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
