import type { InstanceState } from '../agent/events.ts';
import { lastWords } from '../agent/last-words.ts';
import { RekindleError } from '../lib/errors.ts';
import type { Container } from '../workloads/host.ts';
import type { WorkloadSpec } from '../workloads/workload.ts';
import { type Context, type JsonOption, print, readWorkload, say } from './context.ts';
import { type Served, serve, settledOrEnded } from './instances.ts';

export type RunOptions = JsonOption & { readonly file: string; readonly count: number; readonly detach?: boolean };

/** What became of one instance, for people and scripts. */
export type Started = {
  readonly name: string;
  readonly uid: string;
  readonly address: string;
  /** `seed`: cold, and being made into the snapshot. */
  readonly start: 'restore' | 'seed' | 'cold';
  /** From the slot's hello until it was ready; of restored ones. */
  readonly ms?: number;
  readonly reason?: string;
};

export type Instance = { readonly container: Container; readonly started: Started };

/** How long instances may take to end by themselves. */
const GRACE_MS = 10_000;

/**
 * `rekindle run`: instances that are restored where they can be, in the foreground until told to end, or left running. As the agent, it sees the
 * first one through to its snapshot, which would be lost otherwise.
 */
export async function run(context: Context, name: string, options: RunOptions): Promise<void> {
  const workload = await readWorkload(options.file, name);
  await serve(context, (served) => runServed(context, served, workload, options));
}

async function runServed(context: Context, served: Served, workload: WorkloadSpec, options: RunOptions): Promise<void> {
  const instances = await startAll(served, workload, options.count);
  report(instances, options);
  const seeds = instances.some(({ started }) => started.start === 'seed');
  const snapshot = seeds && served.own !== undefined ? tellSnapshot(served, workload.name) : undefined;
  if (!options.detach) return stayUntilTold(context, served, instances);
  if (snapshot !== undefined) say('waiting for the snapshot; Ctrl-C gives it up and leaves the instances running');
  else if (seeds) say('the agent makes the snapshot; `rekindle status` shows how far it is');
  await snapshot;
  await mustRun(served, instances);
}

async function mustRun(served: Served, instances: readonly Instance[]): Promise<void> {
  for (const { container } of instances) {
    if ((await served.host.find(container.uid)) !== undefined) continue;
    throw new RekindleError('container_failed', `${container.name} has ended${await lastWords(served.host, container)}`);
  }
}

/**
 * Starts instances one after the other as fast as slots are made, and waits until it is known of each how it started. Those that ended at once
 * make it throw `container_failed`. When it throws, none of them is left.
 */
export async function startAll(served: Served, workload: WorkloadSpec, count: number): Promise<Instance[]> {
  const { signal } = served;
  const containers: Container[] = [];
  const settle = async (container: Container): Promise<Instance> => {
    const state = await settledOrEnded(served, container);
    return { container, started: await describe(served, container, state) };
  };
  try {
    for (let i = 0; i < count; i++) {
      if (count > 1) say(`starting ${i + 1} of ${count} …`);
      containers.push(await served.host.create(workload, { signal }));
    }
    const instances = await Promise.all(containers.map(settle));
    // Whatever becomes of this process, the next one knows how they started.
    await served.own?.written();
    return instances;
  } catch (error) {
    await Promise.all(containers.map(({ uid }) => served.host.remove(uid)));
    throw error;
  }
}

async function describe(served: Served, container: Container, state: InstanceState): Promise<Started> {
  const base = { name: container.name, uid: container.uid, address: container.addresses[0] ?? '' };
  switch (state.at) {
    case 'live':
      return { ...base, start: 'restore', ms: Math.round(state.timing.readyMs ?? state.timing.restoredMs) };
    case 'seed':
      return { ...base, start: 'seed', reason: 'the first of its kind: it becomes the snapshot' };
    case 'cold':
      return { ...base, start: 'cold', reason: state.reason };
    default:
      throw new RekindleError('container_failed', `${container.name} ended at once${await lastWords(served.host, container)}`);
  }
}

export function report(instances: readonly Instance[], options: JsonOption): void {
  if (options.json) return print(JSON.stringify(instances.map(({ started }) => started)));
  for (const { started } of instances) {
    const how = started.start === 'restore' ? `restored in ${started.ms} ms` : `started cold: ${started.reason}`;
    print(`${started.name}  ${started.address}  ${how}`);
  }
}

/** Waits for Ctrl-C, then ends the instances; ends earlier when they have. Throws `container_failed` when one ended with another status than 0. */
export async function stayUntilTold({ signal }: Context, served: Served, instances: readonly Instance[]): Promise<void> {
  say(`running; Ctrl-C ends ${instances.length === 1 ? 'it' : 'them'}`);
  const failed: string[] = [];
  const watch = async ({ container }: Instance): Promise<void> => {
    const status = await served.host.wait(container, signal);
    say(`${container.name}: ended with status ${status}`);
    if (status !== 0) failed.push(`${container.name} ended with status ${status}${await lastWords(served.host, container)}`);
  };
  try {
    await Promise.all(instances.map(watch));
  } catch (error) {
    if (!signal.aborted) throw error;
    say(`ending, within ${GRACE_MS / 1000} s`);
  } finally {
    await removeAll(served, instances, GRACE_MS);
  }
  if (failed.length > 0) throw new RekindleError('container_failed', failed.join('\n'));
}

export async function removeAll(served: Served, instances: readonly Instance[], graceMs = 0): Promise<void> {
  await Promise.all(instances.map(({ container }) => served.host.remove(container.uid, { graceMs })));
}

/** Never rejects: the instances run whatever becomes of the snapshot. */
async function tellSnapshot(served: Served, workload: string): Promise<void> {
  try {
    const outcome = await served.events.checkpointed(workload, served.signal, say);
    if (outcome.type === 'snapshot') say(`snapshot ${outcome.digest.slice(0, 12)}: the next instances are restored`);
    else say(`no snapshot, so the next instances start cold too: ${outcome.reason} [${outcome.code}]`);
  } catch {
    say('the snapshot was given up');
  }
}
