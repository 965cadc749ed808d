import { randomInt } from 'node:crypto';
import { access, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { RekindleError } from '../lib/errors.ts';
import type { WorkloadSpec } from '../workloads/workload.ts';
import { type Context, type JsonOption, print, readWorkloads, say } from './context.ts';
import { playBursts } from './demo-burst.ts';
import { cloneOrFail } from './demo-clones.ts';
import { openEngine, removeRunDir } from './engine.ts';
import { type BurstFigures, burstTable, type Outcome, resultTable } from './figures.ts';
import { EventLog } from './instances.ts';

export type DemoOptions = JsonOption & {
  readonly only?: readonly string[];
  readonly clones: number;
  /** False: the first act only. */
  readonly burst: boolean;
  /** Wait for Enter before the bursts, and for Ctrl-C after them. */
  readonly stay?: boolean;
};

const SAMPLES = join(import.meta.dirname, '..', '..', 'images', 'samples');

/**
 * `rekindle demo`, on a machine of its own that is gone afterwards: the samples cold against restored, and then as a service that a burst wakes
 * from zero. Throws `restore_failed` after the results.
 */
export async function demo(context: Context, options: DemoOptions): Promise<void> {
  const workloads = await chosen(options.only);
  const show = options.json ? say : print;
  const outcomes: Outcome[] = [];
  let bursts: BurstFigures[] | undefined;
  await onMachine(context, async (own) => {
    await firstAct(own, workloads, options.clones, outcomes);
    show(`\n${resultTable(outcomes)}\n`);
    show("cold start and restore: from the slot's hello to the first answer.");
    // Of what cannot be restored no burst would show more.
    const restorable = outcomes.filter(({ figures }) => figures.failed < figures.clones).map(({ figures }) => figures);
    if (!options.burst || restorable.length === 0) return;
    const samples = workloads.filter(({ name }) => restorable.some((one) => one.name === name));
    bursts = await playBursts(own, samples, {
      stay: (options.stay ?? false) && process.stdout.isTTY,
      coldMs: (name) => restorable.find((one) => one.name === name)?.coldMs ?? 0,
      onEnd: (figures) => {
        show(`\n${burstTable(figures)}\n`);
        show(
          'from zero instances: requests of 30 ms each, all sent at once; times from then on. Cold start: one alone, without waiting for others.',
        );
      },
    });
  });
  show('\nNothing was left behind.');
  const figures = outcomes.map((outcome) => outcome.figures);
  const passed = figures.every(({ failed }) => failed === 0) && (bursts ?? []).every(({ failed, cold }) => failed + cold === 0);
  if (options.json) print(JSON.stringify({ passed, workloads: figures, ...(bursts === undefined ? {} : { bursts }) }));
  if (!passed) throw new RekindleError('restore_failed', 'not everything was restored, or answered: see above');
}

/** Directories, a bridge and addresses of its own, removed whatever happens. */
async function onMachine(context: Context, act: (own: Context) => Promise<void>): Promise<void> {
  const stateDir = await mkdtemp(join(tmpdir(), 'rekindle-demo-'));
  const id = basename(stateDir).slice('rekindle-demo-'.length).toLowerCase();
  // 198.18.0.0/15 is for such trials (RFC 2544), so it is nobody's; one of its 512 parts, as two demos may run at once.
  const subnet = `198.${18 + randomInt(2)}.${randomInt(256)}.0/24`;
  const own = { stateDir, runDir: `/run/rekindle-demo-${id}`, bridge: `rkd-${id}`, subnet, redisUrl: undefined };
  const config = { ...context.config, ...own };
  try {
    await act({ ...context, config });
  } finally {
    // It is there even where nothing could be opened.
    await removeRunDir(config);
    await rm(stateDir, { recursive: true, force: true });
  }
}

/** One sample after the other, by an engine in this process. Snapshots stay. */
async function firstAct(
  { config, log, signal }: Context,
  workloads: readonly WorkloadSpec[],
  clones: number,
  outcomes: Outcome[],
): Promise<void> {
  const events = new EventLog();
  const engine = await openEngine(config, { log, signal, listener: events.add });
  try {
    for (const workload of workloads) outcomes.push(await cloneOrFail({ engine, events, signal }, workload, clones));
  } finally {
    if (signal.aborted) say('ending …');
    await engine.removeAll();
  }
}

async function chosen(only: readonly string[] | undefined): Promise<WorkloadSpec[]> {
  const all = await readWorkloads(join(SAMPLES, 'rekindle.yaml'));
  const unknown = only?.find((name) => !all.some((workload) => workload.name === name));
  if (unknown !== undefined)
    throw new RekindleError('usage', `there is no sample ${unknown}: they are ${all.map(({ name }) => name).join(', ')}`);
  const wanted = all.filter(({ name }) => only === undefined || only.includes(name));
  const jar = await access(join(SAMPLES, 'java', 'target', 'app.jar')).then(
    () => true,
    () => false,
  );
  if (jar) return wanted;
  if (wanted.some(({ name }) => name === 'java'))
    say('java: left out, because there is no JDK and Maven on this machine (apt-get install openjdk-17-jdk-headless maven)');
  return wanted.filter(({ name }) => name !== 'java');
}
