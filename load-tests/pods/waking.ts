import { setTimeout as delay } from 'node:timers/promises';
import { STATE_LABEL } from '../../src/workloads/kubernetes.ts';
import type { Report } from '../lib/report.ts';
import { type Summary, summarize } from '../lib/stats.ts';
import { deploymentOf, NODE, policyOf } from './applications.ts';
import type { Caller } from './caller.ts';
import type { Stage } from './stage.ts';

const LIMIT_MS = 300;
const AIM_MS = 150;
const WITHIN_MS = 60_000;
/** Until what the parking of a pod leaves to others is done. */
const SETTLE_MS = 500;
/** Requests that are given back while a pod is parked, and had again when it wakes; a pod without any is never resized. */
const WAYS = {
  'wakes-resized': { requests: { cpu: '100m', memory: '128Mi' } },
  'wakes-as-it-is': {},
} as const;

export async function prepareWaking(stage: Stage): Promise<void> {
  const annotations = { 'rekindle.dev/mode': 'on-demand' };
  const lines = ['idleSeconds=1', 'stableWindowSeconds=1', 'burstWindowSeconds=1'].map((line) => `cr.pool.${line}`);
  await stage.space.apply(policyOf(NODE, { name: 'wakes', lines }));
  for (const [name, resources] of Object.entries(WAYS)) {
    await stage.space.apply(deploymentOf(NODE, { name, enabled: true, properties: 'wakes', annotations, resources }));
    await stage.resize(name, 2);
  }
  for (const name of Object.keys(WAYS)) await untilParked(stage, name);
}

/** One request to a workload of which all pods are parked, as a client in the cluster sees it. */
export async function waking(stage: Stage, caller: Caller, report: Report, rounds: number): Promise<void> {
  const seen = new Map<string, number[]>(Object.keys(WAYS).map((name) => [name, []]));
  for (let i = -1; i < rounds; i++) {
    for (const [name, times] of seen) {
      await untilParked(stage, name);
      await delay(SETTLE_MS);
      const { ms, start } = await caller.ask(`http://rekindle-gateway.rekindle/invoke/${stage.space.name}/${name}/`);
      if (start !== 'restore') throw new Error(`${name} was woken by a ${start} start`);
      // The first restore of all is the trial.
      if (i >= 0) times.push(ms);
    }
  }
  report.header('a request from zero, until its answer');
  const found = [...seen].map(([name, times]): [string, Summary] => [name.replaceAll('-', ' '), summarize(times)]);
  for (const [name, summary] of found) report.times(name, summary);
  for (const [name, { p50 }] of found) report.figure(`from zero, ${name}`, p50, LIMIT_MS, 'lower', 'ms', AIM_MS);
}

async function untilParked(stage: Stage, app: string): Promise<void> {
  const isParked = (all: Parameters<Parameters<Stage['timelines']['until']>[1]>[0]) => {
    const pods = all.filter((pod) => pod.app === app && !pod.gone);
    return (pods.length > 0 && pods.every(({ pod }) => pod.metadata?.labels?.[STATE_LABEL] === 'parked')) || undefined;
  };
  await stage.timelines.until(`parked pods of ${app}`, isParked, WITHIN_MS);
}
