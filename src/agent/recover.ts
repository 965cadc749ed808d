import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { endRestore } from '../checkpoint/restore.ts';
import type { CheckpointTools } from '../checkpoint/tools.ts';
import type { Clock } from '../lib/clock.ts';
import type { Log } from '../lib/log.ts';
import type { ContainerMaker } from '../workloads/host.ts';
import { isSlot } from './container-process.ts';

/** `<uid>-<process 1 of the slot>-<8 hex digits>.journal`: what `Restorer` calls a restore, and restore.ts the journal of one. */
const JOURNAL = /^([0-9a-f-]{36})-(\d+)-[0-9a-f]{8}\.journal$/;
/** A container that was ended is started again by then; in a cluster the kubelet may put that off for minutes, for which the others do not wait. */
const STARTED_MS = 5_000;

/**
 * Ends the restores that agent and helper, both killed, left half done: one whose application lives is completed; a container that gave up and started
 * its own command among half of the snapshot's files is put in order and started again. So is one that was started anew meanwhile: its volumes are those of
 * the restore, its root filesystem is not. `names` are entries of `workDir` that no process works on. What is wrong with one keeps no other.
 */
export async function endInterrupted(
  deps: {
    readonly host: Pick<ContainerMaker, 'find' | 'restart'>;
    readonly tools: Pick<CheckpointTools, 'helper'>;
    readonly clock: Pick<Clock, 'sleep'>;
    readonly log: Log;
    readonly workDir: string;
  },
  names: readonly string[],
  signal: AbortSignal,
): Promise<void> {
  const { host, tools, clock, log, workDir } = deps;
  const starting: Promise<unknown>[] = [];
  const complain = (slot: string) => (err: unknown) => {
    if (!signal.aborted) log.error({ err, slot }, 'an interrupted restore could not be ended whole');
  };
  for (const name of names) {
    const [, uid, pid] = JOURNAL.exec(name) ?? [];
    if (uid === undefined) continue;
    try {
      const container = await host.find(uid);
      const journal = join(workDir, name);
      // Its helper may have ended it since the names were read.
      if (container === undefined || !existsSync(journal)) continue;
      const cold = container.pid !== Number(pid) || !isSlot(container.pid);
      log.warn({ slot: uid, cold }, 'a restore was interrupted, with its helper');
      await endRestore(tools, { slotPid: container.pid, journal, cold });
      if (cold) starting.push(host.restart(container, signal).catch(complain(uid)));
    } catch (error) {
      complain(uid)(error);
    }
  }
  const enough = new AbortController();
  const late = clock.sleep(STARTED_MS, AbortSignal.any([signal, enough.signal])).catch(() => undefined);
  await Promise.race([Promise.all(starting), late]);
  enough.abort();
}
