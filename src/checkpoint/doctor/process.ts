import { readFileSync, readlinkSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import type { Exec } from '../../lib/exec.ts';
import { bytesText, examine, type Fact, type Finding, fail, ok, warn } from '../../lib/fact.ts';
import type { HostVolume } from '../../workloads/host.ts';
import { whyNotShareable } from '../dump.ts';
import { externalMounts } from '../mountinfo.ts';
import { inspectProcess, type OpenFile, openFiles, processTree } from '../process.ts';
import { deletedFiles, openDevices, terminals, unsupported } from './descriptors.ts';
import { establishedTcp, outsideSockets, socketInodes } from './sockets.ts';

const TIMEOUT_MS = 2_500;

/** A running container to look at; `pid` is its PID 1. */
export type RunningContainer = { readonly name: string; readonly pid: number; readonly volumes: readonly HostVolume[] };

/** Whether the application in a running container could be checkpointed as it is now, and why not. Only looks. Never throws. */
export async function examineContainer(exec: Exec, container: RunningContainer): Promise<Fact[]> {
  const group = `running in ${container.name}`;
  const pid = applicationOf(container.pid);
  if (pid === undefined) return [{ group, ...ok('application', 'none yet: the slot waits') }];
  return examine(group, {
    application: async () => {
      const facts = inspectProcess(pid, '');
      const files = openFiles(facts.pids, facts.mounts);
      const inodes = socketInodes(files);
      const [devices, big, memory, tcp, unix] = await Promise.all([
        openDevices(files),
        deletedFiles(files),
        memoryBytes(facts.pids),
        Promise.all(['tcp', 'tcp6'].map((table) => readFile(`/proc/${pid}/net/${table}`, 'utf8').catch(() => ''))),
        exec('nsenter', ['--target', String(pid), '--net', 'ss', '-xanH'], { timeoutMs: TIMEOUT_MS }),
      ]);
      const problems = [
        ...sharing(files, container.volumes, externalMounts(facts.mounts)),
        ...unsupported(files),
        ...terminals(files),
        ...devices,
        ...big,
        ...namespaces(pid, facts.pids),
        ...tracers(facts.pids),
        ...unixFindings(unix.status === 0 ? outsideSockets(unix.stdout, inodes) : undefined),
        ...connections(tcp.flatMap((table) => establishedTcp(table, inodes)).length),
      ];
      const processes = `${facts.pids.length} process${facts.pids.length === 1 ? '' : 'es'}, ${bytesText(memory)} of memory, ${files.length} open files`;
      return [
        ok(
          'application',
          problems.some(({ level }) => level === 'fail') ? processes : `${processes}: nothing that would keep it from being checkpointed`,
        ),
        ...problems,
      ];
    },
  });
}

/** PID 1 itself where it started cold; in a clone the slot's child. Undefined while the slot still waits. */
function applicationOf(pid: number): number | undefined {
  return linkOrNothing(`/proc/${pid}/exe`).endsWith('/rekindle/slot') ? processTree(pid)[1] : pid;
}

function sharing(files: readonly OpenFile[], volumes: readonly HostVolume[], external: Parameters<typeof whyNotShareable>[1]): Finding[] {
  const own = [...volumes.filter(({ kind }) => kind === 'private').map(({ at }) => at), '/dev/shm'];
  const isRing = ({ target }: OpenFile) => target.includes('[io_uring]');
  const [ring, shared] = [files.filter(isRing), files.filter((file) => !isRing(file))].map((some) => whyNotShareable(some, external, own));
  return [...(ring === undefined ? [] : [fail('io_uring', ring)]), ...(shared === undefined ? [] : [fail('shared volume', shared)])];
}

function namespaces(root: number, pids: readonly number[]): Finding[] {
  const differing = (kind: string) =>
    pids.filter((pid) => {
      const [own, first] = [pid, root].map((one) => linkOrNothing(`/proc/${one}/ns/${kind}`));
      return own !== '' && own !== first;
    });
  return ['user', 'pid', 'mnt', 'net', 'ipc', 'uts'].flatMap((kind) => {
    const [pid] = differing(kind);
    if (pid === undefined) return [];
    const says = `process ${pid} is in a ${kind} namespace that the application made (a sandbox, a container in the container)`;
    const remedy = 'switch that off (for browsers --no-sandbox), or let this workload start cold';
    return kind === 'user' || kind === 'pid'
      ? [fail(`${kind} namespace`, `${says}, which CRIU cannot dump`, remedy)]
      : [warn(`${kind} namespace`, `${says}: it may not be restorable`, remedy)];
  });
}

function tracers(pids: readonly number[]): Finding[] {
  const traced = pids.find((pid) => /^TracerPid:\s*[1-9]/m.test(textOrNothing(`/proc/${pid}/status`)));
  return traced === undefined
    ? []
    : [fail('debugger', `process ${traced} is being traced, and a process has one tracer at most`, 'end the debugger or strace')];
}

export function unixFindings(outside: readonly string[] | undefined): Finding[] {
  if (outside === undefined) return [warn('unix sockets', 'could not be listed: is `ss` (iproute2) installed?')];
  if (outside.length === 0) return [];
  return [
    fail(
      'unix sockets',
      `${outside.length} connected to something outside the container (${outside.slice(0, 3).join(', ')}): no clone could have the same other end`,
      'close them before the checkpoint (container.warmup), or connect lazily',
    ),
  ];
}

export function connections(established: number): Finding[] {
  if (established === 0) return [];
  const says = `${established} established: closed in every clone, and the application sees that`;
  return [warn('TCP connections', says, 'reconnect when one breaks; close pools before the checkpoint')];
}

async function memoryBytes(pids: readonly number[]): Promise<number> {
  const texts = await Promise.all(pids.map((pid) => readFile(`/proc/${pid}/status`, 'utf8').catch(() => '')));
  const kibibytes = texts.map((text) => Number(/^RssAnon:\s*(\d+)/m.exec(text)?.[1] ?? 0));
  return kibibytes.reduce((sum, one) => sum + one, 0) * 1024;
}

// Processes come and go while we look: what is gone has nothing to say.
function linkOrNothing(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return '';
  }
}

function textOrNothing(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
