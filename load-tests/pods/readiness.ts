import type { Report } from '../lib/report.ts';
import { summarize } from '../lib/stats.ts';
import { DEFAULT_PERIOD, deploymentOf, EMPTY, NODE } from './applications.ts';
import type { Stage } from './stage.ts';
import { between, restoredMs, type Timeline } from './timelines.ts';

const WAYS = ['restored', 'empty', 'cold'] as const;
type Way = (typeof WAYS)[number];
/** Of the burst. */
const REPLICAS = 20;
const SLOW = { periodSeconds: DEFAULT_PERIOD };

/** The Deployments that are compared. Those with the suffix have the probe period that Kubernetes takes where none is said, and keep it. */
export async function prepareReadiness(stage: Stage): Promise<void> {
  await stage.space.apply(
    deploymentOf(NODE, { name: 'restored', enabled: true, properties: NODE.name }),
    deploymentOf(EMPTY, { name: 'empty', enabled: false }),
    deploymentOf(NODE, { name: 'cold', enabled: false }),
    deploymentOf(NODE, {
      ...SLOW,
      name: 'restored-slow',
      enabled: true,
      properties: NODE.name,
      annotations: { 'rekindle.dev/probe-period': 'keep' },
    }),
    deploymentOf(EMPTY, { ...SLOW, name: 'empty-slow', enabled: false }),
    deploymentOf(NODE, { ...SLOW, name: 'cold-slow', enabled: false }),
  );
  await stage.makeSnapshot('restored');
  await stage.makeSnapshot('restored-slow');
}

/** One pod more, again and again, each way in turn, so that what else the machine does meets all alike. */
export async function oneMore(stage: Stage, report: Report, rounds: number): Promise<void> {
  const usual = await timeEach(stage, '', rounds);
  const slow = await timeEach(stage, '-slow', Math.ceil(rounds / 4));
  report.header('one more pod: created until Ready, probed every second');
  for (const way of WAYS) report.times(way, summarize(usual[way].map((pod) => between(pod, 'created', 'ready'))));
  for (const moment of ['scheduled', 'running', 'told', 'containersReady'] as const) {
    for (const way of ['restored', 'empty'] as const) {
      if (moment === 'told' && way === 'empty') continue;
      report.times(`  ${way}: until ${MOMENTS[moment]}`, summarize(usual[way].map((pod) => between(pod, 'created', moment))));
    }
  }
  report.header(`the same, probed every ${DEFAULT_PERIOD} s`);
  for (const way of WAYS) report.times(way, summarize(slow[way].map((pod) => between(pod, 'created', 'ready'))));
  const p50 = (way: Way) => summarize(usual[way].map((pod) => between(pod, 'created', 'ready'))).p50;
  report.figure('until Ready, beyond an empty pod', (p50('restored') - p50('empty')) / 1_000, 0.3, 'lower', 's', 0.2);
  report.figure('until Ready, times sooner than a cold start', p50('cold') / p50('restored'), 1.3, 'higher', 'x', 2);
}

const MOMENTS = {
  scheduled: 'it has a node',
  running: 'its container runs',
  told: 'its agent has told of it',
  containersReady: 'its probe passed',
};

async function timeEach(stage: Stage, suffix: string, rounds: number): Promise<Record<Way, Timeline[]>> {
  const seen: Record<Way, Timeline[]> = { restored: [], empty: [], cold: [] };
  for (let i = 0; i < rounds; i++) {
    for (let j = 0; j < WAYS.length; j++) {
      // Not always after the same other, whose end is still under way.
      const way = WAYS[(i + j) % WAYS.length] ?? 'restored';
      const pod = await stage.startOne(way + suffix);
      // It may be ready before its agent has told how it came to be.
      if (way === 'restored') (await stage.untilAll(way + suffix, 1, 'told')).forEach(restoredMs);
      seen[way].push(pod);
      await stage.resize(way + suffix, 0);
    }
  }
  for (const way of WAYS) await stage.untilNone(way + suffix);
  return seen;
}

/** Many replicas at once: from the first pod until all are Ready. */
export async function manyAtOnce(stage: Stage, report: Report): Promise<void> {
  report.say();
  report.say(`${REPLICAS} replicas at once, until all are Ready`);
  const took = { restored: 0, empty: 0, cold: 0 };
  for (const way of WAYS) {
    const pods = await stage.scaleOut(way, REPLICAS);
    const created = Math.min(...pods.map(({ at }) => at.created ?? Number.NaN));
    took[way] = Math.max(...pods.map(({ at }) => at.ready ?? Number.NaN)) - created;
    const nodes = new Set(pods.map(({ pod }) => pod.spec?.nodeName)).size;
    report.say(`  ${way.padEnd(10)} ${(took[way] / 1_000).toFixed(1).padStart(6)} s on ${nodes} nodes`);
    if (way === 'restored') {
      const restores = (await stage.untilAll(way, REPLICAS, 'told')).map(restoredMs);
      report.header("each of them: the slot's hello until its first answer");
      report.times('restored', summarize(restores));
    }
    await stage.clear(way);
  }
  report.figure(`${REPLICAS} replicas, times sooner than cold starts`, took.cold / took.restored, 1.3, 'higher', 'x', 2);
  report.figure(`${REPLICAS} replicas, against empty pods`, took.restored / took.empty, 2.5, 'lower', 'x', 1.5);
}
