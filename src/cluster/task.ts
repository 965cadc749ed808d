import { readFileSync } from 'node:fs';

/** A process. Its number may become another's, but not with the same time of start. */
export type Task = { readonly pid: number; readonly parent: number; readonly startTick: number };

/** From /proc/PID/stat (proc_pid_stat(5)), whose second field may itself hold spaces and brackets; undefined for what is gone, or dead and not yet reaped. */
export function taskOf(pid: number): Task | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    if (fields[0] === 'Z' || fields[0] === 'X') return undefined;
    return { pid, parent: Number(fields[1]), startTick: Number(fields[19]) };
  } catch {
    return undefined;
  }
}

/** Whether it is still there, and no other that has its number. */
export function isAlive(task: Task): boolean {
  return taskOf(task.pid)?.startTick === task.startTick;
}
