import { resolve } from 'node:path';
import { ERRORS, RekindleError } from '../lib/errors.ts';
import type { Snapshot } from '../snapshots/shelf.ts';
import type { Opened, SnapshotStore } from '../snapshots/store.ts';
import { retentionOf } from '../workloads/normalise.ts';
import { age, type Context, type JsonOption, megabytes, print, readWorkloads, say, table } from './context.ts';
import { openMachine } from './engine.ts';

/** `rekindle snapshots ls` */
export async function list(context: Context, options: JsonOption): Promise<void> {
  const { store } = await openMachine(context.config, context.log);
  const marks = store.quarantined();
  const snapshots = (await store.list()).map(({ digest, manifest }) => ({
    digest,
    workload: manifest.workload,
    specHash: manifest.specHash,
    createdAt: manifest.createdAt,
    totalBytes: manifest.totalBytes,
    freezeMs: manifest.freezeMs,
    quarantined: marks.get(digest)?.reason,
  }));
  if (options.json) return print(JSON.stringify(snapshots));
  if (snapshots.length === 0) return print('no snapshots; `rekindle checkpoint WORKLOAD` makes one');
  const rows = snapshots.map((one) => [
    one.digest.slice(0, 12),
    one.workload,
    megabytes(one.totalBytes),
    age(Date.now() - Date.parse(one.createdAt)),
    `${one.freezeMs.toFixed(0)} ms`,
    one.quarantined === undefined ? '' : `quarantined: ${one.quarantined}`,
  ]);
  print(table([['SNAPSHOT', 'WORKLOAD', 'SIZE', 'AGE', 'FREEZE', ''], ...rows]));
}

/** `rekindle snapshots inspect` */
export async function inspect(context: Context, digest: string, options: JsonOption): Promise<void> {
  const { store } = await openMachine(context.config, context.log);
  const found = await store.get(digest);
  if (options.json) return print(JSON.stringify({ digest: found.digest, dir: found.dir, manifest: found.manifest }));
  const { files, class: machine, ...facts } = found.manifest;
  print(`${found.digest}\n${found.dir}`);
  for (const [key, value] of Object.entries(facts)) print(`${key}: ${typeof value === 'object' ? JSON.stringify(value) : value}`);
  print(`class: ${machine.arch}, kernel ${machine.kernel}, CRIU ${machine.criu}, ${machine.cpuFeatures.length} CPU features`);
  print(
    `files: ${files.filter(({ path }) => path.startsWith('images/')).length} images, ${files.filter(({ path }) => path.startsWith('files/')).length} entries that travel`,
  );
}

/** `rekindle snapshots verify`: ends with `snapshot_corrupt`'s status when one was corrupt. */
export async function verify(context: Context, digest: string | undefined, options: JsonOption): Promise<void> {
  const { store } = await openMachine(context.config, context.log);
  const chosen = digest === undefined ? await store.list() : [await store.get(digest)];
  say(`reading ${megabytes(chosen.reduce((sum, { manifest }) => sum + manifest.totalBytes, 0))} …`);
  const { intact, corrupt } = digest === undefined ? await store.open(context.signal) : await verifyOne(store, chosen, context.signal);
  if (corrupt.length > 0) context.exitCode = ERRORS.snapshot_corrupt.exit;
  if (options.json) return print(JSON.stringify({ intact: intact.map((one) => one.digest), corrupt }));
  for (const { problem } of corrupt) print(problem);
  print(`${intact.length} intact, ${corrupt.length} corrupt and removed`);
}

async function verifyOne(
  store: SnapshotStore,
  chosen: readonly Snapshot[],
  signal: AbortSignal,
): Promise<Pick<Opened, 'intact' | 'corrupt'>> {
  try {
    return { intact: await Promise.all(chosen.map(({ digest }) => store.verify(digest, signal))), corrupt: [] };
  } catch (error) {
    if (!(error instanceof RekindleError && error.code === 'snapshot_corrupt')) throw error;
    return { intact: [], corrupt: chosen.map(({ digest }) => ({ digest, problem: error.message })) };
  }
}

/** `rekindle snapshots import` */
export async function importFrom(context: Context, directory: string, options: JsonOption): Promise<void> {
  const { store } = await openMachine(context.config, context.log);
  say('copying, and comparing all of it with its manifest …');
  const { digest } = await store.importDirectory(resolve(directory), context.signal);
  print(options.json ? JSON.stringify({ digest }) : digest);
}

/** `rekindle snapshots rm` */
export async function remove(context: Context, digests: readonly string[], options: JsonOption): Promise<void> {
  const { store } = await openMachine(context.config, context.log);
  // All of them are looked up first: a typo removes nothing.
  const found = await Promise.all(digests.map((digest) => store.get(digest)));
  for (const { digest } of found) await store.remove(digest);
  const removed = found.map(({ digest }) => digest);
  print(options.json ? JSON.stringify({ removed }) : `removed ${removed.map((one) => one.slice(0, 12)).join(', ')}`);
}

/** `rekindle snapshots prune` */
export async function prune(context: Context, options: JsonOption & { readonly file: string; readonly keep?: number }): Promise<void> {
  const { store } = await openMachine(context.config, context.log);
  const workloads = await readWorkloads(options.file);
  const policies = new Map(
    workloads.map((workload) => [
      workload.name,
      { ...retentionOf(workload), ...(options.keep === undefined ? {} : { keep: options.keep }), live: new Set<string>() },
    ]),
  );
  const removed = await store.prune(policies);
  if (options.json) return print(JSON.stringify({ removed }));
  print(
    removed.length === 0
      ? 'nothing to remove'
      : removed.map(({ digest, because }) => `removed ${digest.slice(0, 12)} (${because})`).join('\n'),
  );
}
