import { readFileSync } from 'node:fs';
import { processTree } from '../checkpoint/process.ts';
import { errno, RekindleError } from '../lib/errors.ts';
import type { Container, ContainerMaker } from '../workloads/host.ts';

/** Whether process 1 of a container is still the slot; a cold application takes its place. False when it is gone. */
export function isSlot(pid: number): boolean {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').startsWith('/rekindle/slot\0');
  } catch {
    return false;
  }
}

/** The application in a slot, as this process numbers it: the slot's first child. Throws `container_failed`. */
export function applicationOf(slotPid: number): number {
  const [, application] = processTree(slotPid);
  if (application === undefined) throw new RekindleError('container_failed', `the slot ${slotPid} has no application`);
  return application;
}

/** Whether process 1 is a slot with no application in it. */
export function waits(pid: number): boolean {
  return isSlot(pid) && processTree(pid).length === 1;
}

/** Sends a signal; no error when the process is gone. */
export function signalIfThere(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    if (errno(error) !== 'ESRCH') throw error;
  }
}

/** Whether a process stands still until it gets SIGCONT. False when it is gone. */
export function isStopped(pid: number): boolean {
  try {
    return /\) T /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}

/** Lets a stopped application go on, whole. */
export function resume(application: number): void {
  for (const pid of processTree(application)) signalIfThere(pid, 'SIGCONT');
}

/** Ends what runs in a container, unless it has ended by itself, and starts it again: it keeps its volumes, and is not restored into. */
export async function startAgain(
  host: Pick<ContainerMaker, 'find' | 'wait' | 'restart'>,
  container: Container,
  signal: AbortSignal,
): Promise<Container> {
  if ((await host.find(container.uid))?.pid === container.pid) signalIfThere(container.pid, 'SIGKILL');
  await host.wait(container, signal);
  return host.restart(container, signal);
}
