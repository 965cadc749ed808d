import { readdir, readFile } from 'node:fs/promises';
import { foreign } from '../../test/cluster/fixture/cluster.ts';
import { processMemory } from '../lib/memory.ts';

/** Whether the nodes are of this machine, so that their processes can be looked at. */
export const ownNodes = !foreign;

type Process = { readonly pid: number; readonly cgroup: string; readonly command: readonly string[] };

export async function processes(): Promise<readonly Process[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
  const found = await Promise.all(
    pids.map(async (pid) => {
      const [cgroup, command] = await Promise.all(
        ['cgroup', 'cmdline'].map((file) => readFile(`/proc/${pid}/${file}`, 'utf8').catch(() => '')),
      );
      return { pid, cgroup: cgroup ?? '', command: (command ?? '').split('\0').slice(0, -1) };
    }),
  );
  // Those that ended meanwhile, and the kernel's own, have none.
  return found.filter(({ command }) => command.length > 0);
}

/** The processes of a pod, the runtime's shim among them. */
export type PodProcesses = Readonly<Record<'shims' | 'pauses' | 'slots' | 'application', readonly number[]>>;

export function processesOfPod(uid: string, all: readonly Process[]): PodProcesses {
  const inside = all.filter(({ cgroup }) => uid !== '' && cgroup.includes(uid));
  const containers = new Set(inside.flatMap(({ cgroup }) => cgroup.match(/[0-9a-f]{64}/g) ?? []));
  const shims = all.filter(({ command }) => isShim(command) && containers.has(command[command.indexOf('-id') + 1] ?? ''));
  if (inside.length === 0 || shims.length === 0) throw new Error(`the processes of pod ${uid} are not on this machine`);
  const [pauses, others] = split(inside, ({ command }) => command[0] === '/pause');
  const [slots, application] = split(others, ({ command }) => isSlot(command));
  const pids = (some: readonly Process[]) => some.map(({ pid }) => pid);
  return { shims: pids(shims), pauses: pids(pauses), slots: pids(slots), application: pids(application) };
}

/** What processes hold, each with its fair part of what it shares. */
export async function pssBytes(pids: readonly number[]): Promise<number> {
  return total(await Promise.all(pids.map((pid) => processMemory(pid).then((memory) => memory.pssBytes))));
}

/** What is resident of processes, shared or not. */
export async function rssBytes(pids: readonly number[]): Promise<number> {
  const read = async (pid: number) => Number(/^VmRSS:\s+(\d+) kB/m.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) * 1024;
  return total(await Promise.all(pids.map(read)));
}

/** What is busy with pods that do nothing, by whose it is; seconds of processor time since each process began. */
export async function cpuSeconds(): Promise<Readonly<Record<'kubelets' | 'runtime' | 'agents' | 'slots', number>>> {
  const all = await processes();
  const sum = async (is: (process: Process) => boolean) => {
    return total(await Promise.all(all.filter(is).map(({ pid }) => cpuOf(pid))));
  };
  const [kubelets, runtime, agents, slots] = await Promise.all([
    sum(({ command }) => command[0]?.endsWith('/kubelet') === true),
    sum(({ command }) => isShim(command) || command[0] === 'containerd'),
    sum(({ command }) => command.includes('agent') && command.includes('--cluster')),
    sum(({ command }) => isSlot(command)),
  ]);
  return { kubelets, runtime, agents, slots };
}

const isShim = ([program = '']: readonly string[]) => program.includes('containerd-shim');
const isSlot = ([program = '']: readonly string[]) => program === '/rekindle/slot' || program.startsWith('rekindle-slot');

const total = (values: readonly number[]): number => values.reduce((sum, one) => sum + one, 0);

function split<T>(all: readonly T[], is: (one: T) => boolean): [T[], T[]] {
  return [all.filter(is), all.filter((one) => !is(one))];
}

/** Each thread's own count is exact; that of whole processes goes by hundredths of a second. */
async function cpuOf(pid: number): Promise<number> {
  const tasks = await readdir(`/proc/${pid}/task`).catch(() => []);
  const times = await Promise.all(tasks.map((task) => readFile(`/proc/${pid}/task/${task}/schedstat`, 'utf8').catch(() => '0')));
  return total(times.map((text) => Number(text.split(' ')[0]) / 1e9));
}
