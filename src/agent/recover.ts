import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { endRestore } from '../checkpoint/restore.ts';
import type { CheckpointTools } from '../checkpoint/tools.ts';
import type { Log } from '../lib/log.ts';
import type { ContainerMaker } from '../workloads/host.ts';
import { isSlot } from './container-process.ts';

/** `<uid>-<8 hex digits>.journal`: what `Restorer` calls a restore, and restore.ts the journal of one. */
const JOURNAL = /^([0-9a-f-]{36})-[0-9a-f]{8}\.journal$/;

/**
 * Ends the restores that agent and helper, both killed, left half done: one whose application lives is completed; a container that gave up and started
 * its own command among half of the snapshot's files is put in order and started again. `names` are entries of `workDir` that no process works on.
 */
export async function endInterrupted(
  deps: {
    readonly host: Pick<ContainerMaker, 'find' | 'restart'>;
    readonly tools: Pick<CheckpointTools, 'helper'>;
    readonly log: Log;
    readonly workDir: string;
  },
  names: readonly string[],
  signal: AbortSignal,
): Promise<void> {
  for (const name of names) {
    const uid = JOURNAL.exec(name)?.[1];
    const container = uid === undefined ? undefined : await deps.host.find(uid);
    if (container === undefined) continue;
    const journal = join(deps.workDir, name);
    // Its helper may have ended it since the names were read.
    if (!existsSync(journal)) continue;
    const cold = !isSlot(container.pid);
    deps.log.warn({ slot: container.uid, cold }, 'a restore was interrupted, with its helper');
    await endRestore(deps.tools, { slotPid: container.pid, journal, cold });
    if (cold) await deps.host.restart(container, signal);
  }
}
