import { RekindleError } from '../lib/errors.ts';
import type { Exec } from '../lib/exec.ts';
import type { HostVolume } from '../workloads/host.ts';
import { privateVolumes } from './dump.ts';
import { externalMounts, type Mount, readMounts } from './mountinfo.ts';
import type { CheckpointTools } from './tools.ts';

export type ResetRequest = {
  /** Process 1 of the container, a slot without application. */
  readonly slotPid: number;
  readonly volumes: readonly HostVolume[];
  readonly timeoutMs: number;
};

/** How many things went (a tree counts once), and how many are as in the image again. */
export type ResetFacts = { readonly removed: number; readonly putBack: number };

/**
 * Makes the files of a slot whose application has ended as they were when its container started: the root filesystem is the image's again (with what the
 * runtime made there for its mounts), private volumes, /dev/shm and /dev hold nothing of the application's. Looks at the end that it is
 * so. Safe to repeat, also after an end half way. Throws `container_failed` when the files cannot be made so: then nothing may be
 * restored into this slot any more, and the container has to be started again.
 */
export async function resetFiles(
  tools: Pick<CheckpointTools, 'helper' | 'hostRoot'> & { readonly exec: Exec },
  request: ResetRequest,
  signal: AbortSignal,
): Promise<ResetFacts> {
  const { slotPid, timeoutMs } = request;
  const volumes = privateVolumes(request.volumes, externalMounts(mountsOf(slotPid)));
  const group = request.volumes.find((volume) => volume.group !== undefined)?.group;
  const args = [
    ...['reset', '--pid', String(slotPid)],
    ...nodeArguments(tools.hostRoot),
    ...(group === undefined ? [] : ['--group', String(group)]),
    ...volumes.flatMap(({ at }) => ['--volume', at]),
  ];
  const result = await tools.exec(tools.helper, args, { timeoutMs, signal });
  if (result.status !== 0) throw notReset(result.stderr.replaceAll('helper: ', '').trim() || `the helper ended with ${result.status}`);
  return parseFacts(result.stdout);
}

function mountsOf(slotPid: number): readonly Mount[] {
  try {
    return readMounts(slotPid);
  } catch (cause) {
    throw notReset(`its process ${slotPid} is gone`, cause);
  }
}

/** The container's layers are named as the node sees them. */
function nodeArguments(hostRoot: string): readonly string[] {
  if (hostRoot === '') return [];
  const pid = /^\/proc\/(\d+)\/root$/.exec(hostRoot)?.[1];
  if (pid === undefined) throw new RekindleError('internal', `the machine's files are below ${hostRoot}, which is no process's root`);
  return ['--node', pid];
}

function notReset(why: string, cause?: unknown): RekindleError {
  return new RekindleError('container_failed', `the files of the container cannot be made as they were at its start: ${why}`, { cause });
}

function parseFacts(line: string): ResetFacts {
  const parsed: unknown = JSON.parse(line);
  const number = (key: string): number => {
    const value = typeof parsed === 'object' && parsed !== null ? Reflect.get(parsed, key) : undefined;
    if (typeof value !== 'number') throw new RekindleError('internal', `the helper answered ${line}`);
    return value;
  };
  return { removed: number('removed'), putBack: number('putBack') };
}
