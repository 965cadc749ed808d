import { readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { RekindleError } from '../lib/errors.ts';
import type { Exec } from '../lib/exec.ts';
import type { HostVolume } from '../workloads/host.ts';
import { dumpArguments } from './criu.ts';
import { explainLogFile, failureText } from './criu-log.ts';
import { externalMounts, type Mount } from './mountinfo.ts';
import { inspectProcess, killMentioning, mountOf, nestedNamespace, type OpenFile, openFiles, type ProcessFacts } from './process.ts';
import { readDumpStats } from './stats.ts';
import { rewindTimers } from './timers.ts';
import type { CheckpointTools } from './tools.ts';

export type DumpRequest = {
  /** Process 1 of the container, as this process sees it. */
  readonly pid: number;
  /** The container's mounts when it started; what was mounted later is the application's own. */
  readonly mountsAtStart: readonly Mount[];
  readonly volumes: readonly HostVolume[];
  /** An existing empty directory for CRIU's images. */
  readonly imagesDir: string;
  /** An existing empty directory for the files that travel. */
  readonly filesDir: string;
  /** An existing directory for CRIU's log and statistics. */
  readonly workDir: string;
  readonly timeoutMs: number;
  /** Whether the application goes on at once, or stands still until it gets SIGCONT or is killed. A failed dump lets it go on. Default: running. */
  readonly leave?: 'running' | 'stopped';
};

/** What a restore will have to know of the dumped process. */
export type DumpFacts = {
  readonly stdio: ProcessFacts['stdio'];
  /** External mounts of the seed, in the order in which the restore names them. */
  readonly mounts: readonly { readonly at: string; readonly type: string; readonly options: readonly string[] }[];
  /** Private volumes whose files lie in `files/<dir>`; the root filesystem's lie in `files/rootfs`. */
  readonly volumes: readonly { readonly at: string; readonly dir: string }[];
  readonly netInode: number;
  /** How long the application stood still, from CRIU's own statistics, files included. */
  readonly freezeMs: number;
  readonly pages: number;
  /** Bytes of memory in the images. */
  readonly memoryBytes: number;
};

/** What criu, whose own limit is for stopping the application only, may take beyond the time of the dump to end and let go of it. */
const OVERTIME_MS = 10_000;

/**
 * Checkpoints a running container, which goes on running whatever happens. Throws `dump_refused` for what no clone could share and
 * `dump_failed` with CRIU's reason in words; what was written so far is the caller's to remove.
 */
export async function dump(
  tools: CheckpointTools & { readonly exec: Exec },
  request: DumpRequest,
  signal: AbortSignal,
): Promise<DumpFacts> {
  const facts = inspectContainer(request.pid, tools.hostRoot);
  const external = externalMounts(request.mountsAtStart).filter(({ at }) => facts.mounts.some((mount) => mount.at === at));
  const volumes = privateVolumes(request.volumes, external);
  const files = openFiles(facts.pids, facts.mounts);
  const places = volumes.map(({ at }) => at);
  // One that is ended and resumed in its own place shares nothing with a clone.
  const refusal = whyNotShareable(files, request.leave === 'stopped' ? [] : external, places) ?? whyNotAlone(facts.pids);
  if (refusal !== undefined) throw new RekindleError('dump_refused', refusal);
  const helperArguments = [
    'dump',
    ...['--pid', String(request.pid), '--files', request.filesDir],
    ...(facts.upperDir === undefined ? [] : ['--upper', facts.upperDir]),
    ...volumes.flatMap(({ at, dir }) => ['--volume', `${at}=${dir}`]),
    ...(tools.preload === undefined ? [] : ['--preload', tools.preload]),
    '--',
    tools.criu,
    ...dumpArguments({
      pid: request.pid,
      imagesDir: request.imagesDir,
      workDir: request.workDir,
      netInode: facts.netInode,
      external,
      inotifyPaths: files.some(({ target }) => target.includes('inotify')) ? inotifyPaths(volumes) : [],
      helper: tools.helper,
      timeoutSeconds: request.timeoutMs / 1000,
      leave: request.leave ?? 'running',
    }),
  ];
  signal.throwIfAborted();
  const timeoutMs = request.timeoutMs + OVERTIME_MS;
  // Once begun it is not interrupted: a criu that ends by itself lets go of the application properly.
  const result = await tools
    .exec(tools.helper, helperArguments, {
      timeoutMs,
      // Not waiting for what a killed criu leaves behind with our pipes open.
      keepBytes: 64 * 1024,
    })
    .catch((cause: unknown) => {
      killMentioning(request.workDir);
      if (!(cause instanceof RekindleError) || cause.code !== 'timeout') throw cause;
      const why = `criu took longer than ${timeoutMs / 1000} s, as where the disk does not keep up, and was killed`;
      throw new RekindleError('dump_failed', `the checkpoint failed: ${why}`, { cause });
    });
  if (result.status !== 0) {
    killMentioning(request.workDir);
    // A criu that lacks the right to begin says so before it has a log.
    const failure = await explainLogFile(join(request.workDir, 'dump.log'), result.stderr);
    const why = result.stdout.includes('helper:') ? result.stdout.trim() : failureText(failure);
    const code = /No space left on device|Disk quota exceeded/.test(why)
      ? 'disk_full'
      : failure.kind === 'refused' || why.includes('cannot travel')
        ? 'dump_refused'
        : 'dump_failed';
    const retryable = failure.kind === 'moment';
    throw new RekindleError(code, `the checkpoint failed and the application goes on: ${why}`, { retryable });
  }
  await windUpTimers(join(request.imagesDir, 'files.img'));
  const stats = await readDumpStats(request.workDir);
  return {
    stdio: facts.stdio,
    mounts: external.map(({ at, type, options }) => ({ at, type, options })),
    volumes: [...(facts.upperDir === undefined ? [] : [{ at: '/', dir: 'rootfs' }]), ...volumes],
    netInode: facts.netInode,
    freezeMs: stats.freezeMs,
    pages: stats.pagesWritten,
    memoryBytes: await pageBytes(request.imagesDir),
  };
}

function inspectContainer(pid: number, hostRoot: string): ProcessFacts {
  try {
    return inspectProcess(pid, hostRoot);
  } catch (cause) {
    throw new RekindleError('dump_failed', `the container's process ${pid} ended before it could be checkpointed`, { cause });
  }
}

/** Private volumes travel, and so does what the application keeps in /dev/shm (PostgreSQL's restore fails without it). */
export function privateVolumes(volumes: readonly HostVolume[], external: readonly Mount[]): { at: string; dir: string }[] {
  const places = volumes.filter(({ kind }) => kind === 'private').map(({ at }) => at);
  if (external.some(({ at, type }) => at === '/dev/shm' && type === 'tmpfs')) places.push('/dev/shm');
  return [...new Set(places)].filter((at) => external.some((mount) => mount.at === at)).map((at, i) => ({ at, dir: `volume-${i}` }));
}

/** What two instances of one snapshot could not both have, in words; undefined when there is nothing of the kind. */
export function whyNotShareable(
  files: readonly OpenFile[],
  external: readonly Mount[],
  privatePlaces: readonly string[],
): string | undefined {
  const shared = external.filter(({ at }) => !privatePlaces.includes(at) && at !== '/dev' && !at.startsWith('/dev/'));
  for (const file of files) {
    if (file.target.includes('[io_uring]')) {
      return `process ${file.pid} uses io_uring, which CRIU cannot dump: run it with a seccomp profile that refuses io_uring_setup (container.seccomp: default)`;
    }
    if (file.target === '/dev/net/tun') {
      return `process ${file.pid} has a network interface of its own (descriptor ${file.fd} is /dev/net/tun), which a clone's network would lack: open it only on use, or leave this workload cold`;
    }
    const mount = file.writable ? shared.find(({ mountId }) => mountId === file.mountId) : undefined;
    if (mount !== undefined && mountOf(file.target, external)?.at === mount.at) {
      const how = file.fd === 'mapping' ? 'has a writable shared mapping of' : `has open for writing (descriptor ${file.fd})`;
      return `process ${file.pid} ${how} ${file.target} on the shared volume ${mount.at}: two clones would write into it at once. Close it before the checkpoint, or make the volume private`;
    }
  }
  return undefined;
}

function whyNotAlone(pids: readonly number[]): string | undefined {
  const nested = nestedNamespace(pids);
  if (nested === undefined) return undefined;
  return `process ${nested.pid} is in a ${nested.kind} namespace that the application made (a sandbox or a container in the container), which CRIU cannot save. Switch that off (for browsers --no-sandbox) or leave this workload cold`;
}

/** Where CRIU shall look for files that inotify watches: it knows them by inode only. */
function inotifyPaths(volumes: readonly { readonly at: string }[]): string[] {
  // Not all of /usr: the application stands still while CRIU looks.
  const usual = [
    '/etc',
    '/tmp',
    '/var',
    '/run',
    '/srv',
    '/app',
    '/data',
    '/mnt',
    '/opt',
    '/home',
    '/root',
    '/workspace',
    '/usr/src',
    '/usr/local/etc',
  ];
  return [...usual, ...volumes.map(({ at }) => at)];
}

async function windUpTimers(path: string): Promise<void> {
  const rewritten = rewindTimers(await readFile(path));
  if (rewritten !== undefined) await writeFile(path, rewritten);
}

async function pageBytes(imagesDir: string): Promise<number> {
  const pages = (await readdir(imagesDir)).filter((name) => name.startsWith('pages-'));
  const sizes = await Promise.all(pages.map(async (name) => (await stat(join(imagesDir, name))).size));
  return sizes.reduce((sum, size) => sum + size, 0);
}
