import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { errno } from '../lib/errors.ts';

/**
 * Names of what is being written or removed in the store's directory. The writer stands in the name itself, so that there is no moment in
 * which a half-written thing exists without saying whose it is: `.partial-PID-STARTTIME-BOOT-RANDOM`.
 */

const PARTIAL = /^\.partial-(\d+)-(\d+)-([0-9a-f]{8})-[0-9a-f]+$/;

/** A fresh name for something this process is about to write. */
export async function partialName(): Promise<string> {
  return `.partial-${process.pid}-${(await startTime(process.pid)) ?? 0}-${await boot()}-${randomBytes(8).toString('hex')}`;
}

/** The name under which something is deleted: whoever opens the store next finishes the job. */
export function doomedName(why: 'removed' | 'corrupt', name: string): string {
  return `.${why}-${name}-${randomBytes(4).toString('hex')}`;
}

/** Whether this entry of the store's directory is left over: doomed, or half written by a process that is gone. */
export async function isLeftover(name: string): Promise<boolean> {
  if (name.startsWith('.removed-') || name.startsWith('.corrupt-')) return true;
  if (!name.startsWith('.partial-')) return false;
  const [, pid, started, when] = PARTIAL.exec(name) ?? [];
  if (pid === undefined || when !== (await boot())) return true;
  return (await startTime(Number(pid))) !== started;
}

async function boot(): Promise<string> {
  return (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).slice(0, 8);
}

/** Field 22 of /proc/PID/stat (proc_pid_stat(5)), or undefined for a process that is gone or a zombie. Field 2 may contain spaces and brackets. */
async function startTime(pid: number): Promise<string | undefined> {
  try {
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return fields[0] === 'Z' || fields[0] === 'X' ? undefined : fields[19];
  } catch (error) {
    if (errno(error) === 'ENOENT' || errno(error) === 'ESRCH') return undefined;
    throw error;
  }
}
