import { RekindleError } from '../lib/errors.ts';
import type { WorkloadSpec } from '../workloads/workload.ts';
import { type Context, readWorkload } from './context.ts';
import { type Served, serve } from './instances.ts';
import { type Instance, type RunOptions, removeAll, report, startAll, stayUntilTold } from './run.ts';

/** `rekindle restore`: as `run`, but there must be a snapshot, and every instance must come from it; else none of them stays. */
export async function restore(context: Context, name: string, options: RunOptions): Promise<void> {
  const workload = await readWorkload(options.file, name);
  await serve(context, (served) => restoreServed(context, served, workload, options));
}

async function restoreServed(context: Context, served: Served, workload: WorkloadSpec, options: RunOptions): Promise<void> {
  await mustHaveSnapshot(served, workload.name);
  const instances = await startAll(served, workload, options.count);
  try {
    mustBeRestored(workload.name, instances);
  } catch (error) {
    await removeAll(served, instances);
    throw error;
  }
  report(instances, options);
  if (!options.detach) await stayUntilTold(context, served, instances);
}

async function mustHaveSnapshot({ store }: Served, workload: string): Promise<void> {
  const kept = (await store.list()).filter(({ manifest }) => manifest.workload === workload);
  if (kept.length === 0)
    throw new RekindleError('not_found', `there is no snapshot of ${workload}: make one with \`rekindle checkpoint ${workload}\``);
  const marks = store.quarantined();
  const quarantines = kept.map(({ digest }) => marks.get(digest));
  const [first] = quarantines;
  if (first === undefined || quarantines.includes(undefined)) return;
  throw new RekindleError(
    'quarantined',
    `the snapshot of ${workload} is left alone: ${first.reason}. Remove it (\`rekindle snapshots rm\`) and make another`,
  );
}

function mustBeRestored(workload: string, instances: readonly Instance[]): void {
  const others = instances.filter(({ started }) => started.start !== 'restore');
  const [first] = others;
  if (first === undefined) return;
  if (first.started.start === 'seed') {
    throw new RekindleError(
      'snapshot_incompatible',
      `no snapshot of ${workload} fits any more: its definition, image or configuration changed, or this machine did. Make one with \`rekindle checkpoint ${workload}\``,
    );
  }
  throw new RekindleError(
    'restore_failed',
    `${others.length} of ${instances.length} instances started cold, so all were ended: ${first.started.reason}`,
  );
}
