import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';

/** Bytes that a process has to itself, and its fair part of what it shares (smaps_rollup). A page merged with others still counts as its own there. */
export async function processMemory(pid: number): Promise<{ readonly privateBytes: number; readonly pssBytes: number }> {
  const text = await readFile(`/proc/${pid}/smaps_rollup`, 'utf8');
  const kib = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(text)?.[1] ?? 0);
  return { privateBytes: 1024 * (kib('Private_Clean') + kib('Private_Dirty')), pssBytes: 1024 * kib('Pss') };
}

/** Bytes of memory that the cgroup of a process is charged for, the kernel's own included, but for file contents (which all share). */
export async function chargedBytes(pid: number): Promise<number> {
  const lines = (await readFile(`/proc/${pid}/cgroup`, 'utf8')).split('\n').map((line) => line.split(':'));
  const v1 = lines.find(([, controllers]) => controllers?.split(',').includes('memory'));
  const group = v1 ?? lines.find(([, controllers]) => controllers === '');
  const dir = join('/sys/fs/cgroup', v1 === undefined ? '' : 'memory', group?.[2] ?? '/');
  const used = Number(await readFile(join(dir, v1 === undefined ? 'memory.current' : 'memory.usage_in_bytes'), 'utf8'));
  const stat = await readFile(join(dir, 'memory.stat'), 'utf8');
  const files = new RegExp(`^${v1 === undefined ? 'file' : 'total_cache'} (\\d+)$`, 'm').exec(stat)?.[1];
  return used - Number(files ?? 0);
}

/** Processor time that the kernel's merging thread has taken, in seconds. */
export async function mergingCpuSeconds(): Promise<number> {
  for (const pid of await readdir('/proc')) {
    const stat = /^\d+$/.test(pid) ? await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '') : '';
    if (!stat.includes('(ksmd)')) continue;
    const fields = stat.slice(stat.indexOf(')') + 2).split(' ');
    return (Number(fields[11]) + Number(fields[12])) / 100; // USER_HZ, proc_pid_stat(5)
  }
  return Number.NaN;
}

/** The processes that have `pid` as their parent. */
export async function childrenOf(pid: number): Promise<number[]> {
  const text = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8');
  return text.split(' ').filter(Boolean).map(Number);
}
