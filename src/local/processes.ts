import { readFileSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';

/** A process that is not mistaken for a later one with the same number. */
export type ProcessId = { readonly pid: number; readonly startTime: string };

/** Fields of /proc/PID/stat (proc_pid_stat(5)) after the program's name, which may itself hold spaces and brackets; undefined when the process is gone. */
function statFields(pid: number): readonly string[] | undefined {
  try {
    // At once: /proc never waits for a disk, and this is asked before every restore.
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1');
    return text.slice(text.lastIndexOf(')') + 2).split(' ');
  } catch {
    return undefined;
  }
}

/** The process with this number now, or undefined when there is none or only its zombie. */
export function identify(pid: number): ProcessId | undefined {
  const fields = statFields(pid);
  const startTime = fields?.[19];
  if (startTime === undefined || fields?.[0] === 'Z' || fields?.[0] === 'X') return undefined;
  return { pid, startTime };
}

/** Whether exactly this process still runs. */
export function isAlive(process: ProcessId): boolean {
  return identify(process.pid)?.startTime === process.startTime;
}

/** Sends a signal; no error when the process is gone. */
export function signalProcess(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // Gone: what the caller wanted.
  }
}

/** The process and every descendant it has now, parents first. */
export async function processTree(pid: number): Promise<readonly number[]> {
  const found = [pid];
  for (let i = 0; i < found.length; i++) {
    const threads = await readdir(`/proc/${found[i]}/task`).catch(() => []);
    for (const thread of threads) {
      const children = await readFile(`/proc/${found[i]}/task/${thread}/children`, 'latin1').catch(() => '');
      found.push(...children.split(' ').filter(Boolean).map(Number));
    }
  }
  return found;
}

const RUNTIME_PROGRAMS: ReadonlySet<string> = new Set(['conmon', 'crun', 'runc']);

/** The conmon, crun and runc processes that work for this container, found by their command lines. */
export async function runtimeProcessesOf(uid: string): Promise<readonly number[]> {
  const found: number[] = [];
  for (const entry of await readdir('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    const args = (await readFile(`/proc/${entry}/cmdline`, 'utf8').catch(() => '')).split('\0');
    const program = args[0]?.split('/').at(-1) ?? '';
    if (RUNTIME_PROGRAMS.has(program) && args.includes(uid)) found.push(Number(entry));
  }
  return found;
}
