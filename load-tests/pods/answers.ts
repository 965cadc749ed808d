import type { RestoreTiming } from '../../src/agent/events.ts';
import { snapshotsOf } from '../../test/cluster/fixture/snapshots.ts';
import { floorMs } from '../lib/floor.ts';
import { largePages } from '../lib/large-pages.ts';
import type { Report } from '../lib/report.ts';
import { type Summary, summarize } from '../lib/stats.ts';
import { APPLICATIONS, type Application, deploymentOf, NODE } from './applications.ts';
import { ownNodes, processes, processesOfPod, rssBytes } from './processes.ts';
import type { Stage } from './stage.ts';
import { restoredMs } from './timelines.ts';
import { lastTimings } from './timings.ts';

const LIMIT_MS = 60;
const AIM_MS = 30;
/** Memory that the pod may have, for each byte that is resident of its application. */
const SPARE = 1.2;
const MIB = 2 ** 20;
const RESTED_MS = 4_000;
const ROUNDS_FACTOR = 0.8;
const nameOf = ({ name }: Application) => `answer-${name}`;
const TIGHT = 'answer-tight';

export async function prepareAnswers(stage: Stage): Promise<void> {
  for (const application of APPLICATIONS)
    await stage.space.apply(deploymentOf(application, { name: nameOf(application), enabled: true, properties: application.name }));
  for (const application of APPLICATIONS) await stage.makeSnapshot(nameOf(application));
}

/** From the slot's hello until the readiness check was answered, as the agents say it: one restore at a time. */
export async function firstAnswers(stage: Stage, report: Report, rounds: number): Promise<void> {
  const count = Math.ceil(rounds * ROUNDS_FACTOR);
  const found: [string, Summary][] = [];
  for (const application of APPLICATIONS) found.push([application.name, await restores(stage, nameOf(application), count)]);
  report.header("the slot's hello until the first answer");
  for (const [name, summary] of found) report.times(name, summary);
  for (const application of APPLICATIONS) {
    report.say(`  ${application.name}: of it, ${await partsOf(stage, nameOf(application), count)}`);
    const [snapshot] = await snapshotsOf(stage.space, nameOf(application));
    if (snapshot === undefined) throw new Error(`${nameOf(application)} has no snapshot any more`);
    const mebibytes = Math.ceil(snapshot.memoryBytes / MIB);
    const [kept, rested] = await floorsMs(mebibytes);
    const times = `${kept.toFixed(0)} ms in memory that was just in use, ${rested.toFixed(0)} ms in what was free for some seconds`;
    report.say(`  ${application.name}: copying its ${mebibytes} MiB into fresh pages, and nothing else, takes ${times}`);
  }
  for (const [name, { p50 }] of found) report.figure(`${name}: first answer`, p50, LIMIT_MS, 'lower', 'ms', AIM_MS);
}

/** Medians, so that they need not add up. */
async function partsOf(stage: Stage, app: string, count: number): Promise<string> {
  const timings = await lastTimings(`${stage.space.name}.${app}`, count);
  if (timings.length === 0) return 'nobody knows which part';
  const p50 = (pick: (timing: RestoreTiming) => number) => summarize(timings.map(pick)).p50.toFixed(0);
  const own = ({ readyMs, restoredMs, decidedMs, filesMs, criuMs }: RestoreTiming) =>
    (readyMs ?? restoredMs) - decidedMs - filesMs - criuMs;
  return `the decision ${p50(({ decidedMs }) => decidedMs)} ms, files ${p50(({ filesMs }) => filesMs)}, criu ${p50(({ criuMs }) => criuMs)}, the rest ${p50(own)}`;
}

/** With the kernel set as agents set it for their restores; without and with a rest in which a host can take free memory back, as between two restores. */
async function floorsMs(mebibytes: number): Promise<[kept: number, rested: number]> {
  await using pages = largePages();
  using _large = pages.hold();
  await pages.settle();
  return [await floorMs(mebibytes), await floorMs(mebibytes, RESTED_MS)];
}

/** The same where the pod may use half a processor, and little more memory than it has. */
export async function tightAnswers(stage: Stage, report: Report, rounds: number): Promise<void> {
  if (!ownNodes) return report.say('\ntight limits: left out, since processes of this cluster cannot be looked at from here');
  const plain = await stage.startOne(nameOf(NODE));
  const { application } = processesOfPod(plain.pod.metadata?.uid ?? '', await processes());
  const resident = await rssBytes(application);
  await stage.clear(nameOf(NODE));
  const memory = `${Math.ceil((resident * SPARE) / MIB)}Mi`;
  const resources = { requests: { cpu: '10m', memory: '32Mi' }, limits: { cpu: '500m', memory } };
  await stage.space.apply(deploymentOf(NODE, { name: TIGHT, enabled: true, properties: NODE.name, resources }));
  await stage.makeSnapshot(TIGHT);
  const summary = await restores(stage, TIGHT, Math.ceil(rounds * ROUNDS_FACTOR));
  report.header(`the same, limited to half a processor and ${memory}`);
  report.times(NODE.name, summary);
  report.figure(`${NODE.name}: first answer within tight limits`, summary.p50, LIMIT_MS, 'lower', 'ms', AIM_MS);
}

async function restores(stage: Stage, app: string, count: number): Promise<Summary> {
  const times: number[] = [];
  for (let i = 0; i < count; i++) {
    times.push(restoredMs(await stage.startOne(app, 'told')));
    await stage.resize(app, 0);
  }
  await stage.untilNone(app);
  return summarize(times);
}
