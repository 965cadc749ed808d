import type { InstanceState } from '../agent/events.ts';
import { lastWords } from '../agent/last-words.ts';
import { RekindleError } from '../lib/errors.ts';
import type { Container } from '../workloads/host.ts';
import type { WorkloadSpec } from '../workloads/workload.ts';
import { agentFile, readAgentFile } from './agent-file.ts';
import { type Context, type JsonOption, megabytes, print, readWorkload, say } from './context.ts';
import { type Served, serve, settledOrEnded } from './instances.ts';

/** What a person and a script are told. `created` is false for one that was there already. */
type Kept = {
  readonly digest: string;
  readonly created: boolean;
  readonly freezeMs: number;
  readonly totalBytes: number;
  readonly warnings: readonly string[];
};

/** What was started only to be checkpointed has little to finish. */
const GRACE_MS = 2_000;

/** `rekindle checkpoint`: one instance cold, warmed up, checkpointed, verified by a trial restore, ended. Prints the snapshot's digest. */
export async function checkpoint(context: Context, name: string, options: JsonOption & { readonly file: string }): Promise<void> {
  const workload = await readWorkload(options.file, name);
  await serve(context, (served) => checkpointServed(context, served, workload, options));
}

async function checkpointServed(context: Context, served: Served, workload: WorkloadSpec, options: JsonOption): Promise<void> {
  say(`${workload.name}: starting cold …`);
  const container = await served.host.create(workload, { signal: served.signal });
  try {
    show(await snapshotOf(context, served, container), options);
  } catch (error) {
    if (!(error instanceof RekindleError && error.code === 'container_failed')) throw error;
    throw new RekindleError('container_failed', `${error.message}${await lastWords(served.host, container)}`, { cause: error });
  } finally {
    await served.host.remove(container.uid, { graceMs: GRACE_MS });
  }
}

async function snapshotOf(context: Context, served: Served, container: Container): Promise<Kept> {
  const workload = container.workload.name;
  const state = await settledOrEnded(served, container);
  if (state.at === 'live') {
    const { manifest, digest } = await served.store.get(state.snapshot);
    say('a snapshot that fits is there already; after `rekindle snapshots rm` another can be made');
    return { digest, created: false, freezeMs: manifest.freezeMs, totalBytes: manifest.totalBytes, warnings: [] };
  }
  if (state.at === 'ended') throw new RekindleError('container_failed', `${container.name} ended at once`);
  // A seed whose checkpoint has ended already has its outcome among the events.
  if (state.at === 'cold' && state.why !== 'seed') await explainCold(context, workload, state);
  const outcome = await served.events.checkpointed(workload, served.signal, say);
  if (outcome.type === 'checkpoint-failed') throw new RekindleError(outcome.code, outcome.reason);
  return { ...outcome, created: true };
}

/** Returns when another instance is being made into the snapshot, and throws why none can be made. */
async function explainCold(context: Context, workload: string, state: Extract<InstanceState, { at: 'cold' }>): Promise<void> {
  const before = (await readAgentFile(agentFile(context.config)))?.events.filter((event) => event.workload === workload) ?? [];
  const seed = before.find((event) => event.type === 'instance' && event.state.at === 'seed');
  if (seed?.type === 'instance') return say(`${seed.name} is being made into the snapshot already: waiting for that`);
  const failed = before.find((event) => event.type === 'checkpoint-failed' && event.reason === state.reason);
  throw new RekindleError(
    state.code ?? (failed?.type === 'checkpoint-failed' ? failed.code : 'dump_refused'),
    `${workload} cannot be checkpointed${failed === undefined ? '' : ' (tried a short while ago)'}: ${state.reason}`,
  );
}

function show(snapshot: Kept, options: JsonOption): void {
  const { digest, created, freezeMs, totalBytes, warnings } = snapshot;
  for (const warning of warnings) say(`warning: ${warning}`);
  if (options.json) return print(JSON.stringify({ digest, created, freezeMs, totalBytes, warnings }));
  print(digest);
  say(`${megabytes(totalBytes)}; the application stood still for ${freezeMs.toFixed(0)} ms`);
}
