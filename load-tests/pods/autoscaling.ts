import { AUTOSCALERS } from '../../src/cluster/kinds.ts';
import { get } from '../../test/cluster/fixture/snapshots.ts';
import { anAutoscaler, PORT } from '../../test/cluster/fixture/workloads.ts';
import type { Report } from '../lib/report.ts';
import { type Summary, summarize } from '../lib/stats.ts';
import { deploymentOf, NODE, policyOf } from './applications.ts';
import type { Caller } from './caller.ts';
import type { Stage } from './stage.ts';

const ROUNDS = 3;
const CONNECTIONS = 20;
/** Connections that one pod is to have, so that the step asks for all that there may be. */
const TARGET = 5;
const PODS = CONNECTIONS / TARGET;
const WAYS = ['scaled-restored', 'scaled-cold'] as const;

export async function prepareAutoscaling(stage: Stage): Promise<void> {
  await stage.space.apply(
    // Counted as the others are, and never restored.
    policyOf(NODE, { name: 'cold', lines: ['cr.restore.cold=compared with restores'] }),
    deploymentOf(NODE, { name: 'scaled-restored', enabled: true, properties: NODE.name }),
    deploymentOf(NODE, { name: 'scaled-cold', enabled: true, properties: 'cold' }),
    ...WAYS.map((name) => ({
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name },
      spec: { selector: { app: name }, ports: [{ port: 80, targetPort: PORT }] },
    })),
  );
  await stage.makeSnapshot('scaled-restored');
}

/** From the moment when many connect to one pod until the autoscaler's further pods serve. */
export async function autoscaling(stage: Stage, caller: Caller, report: Report): Promise<void> {
  const found = new Map<string, Summary>();
  for (const name of WAYS) {
    const times: number[] = [];
    for (let i = 0; i < ROUNDS; i++) times.push(await scaleByLoad(stage, caller, name));
    found.set(name, summarize(times));
  }
  report.header(`${CONNECTIONS} connections at once: until ${PODS} pods serve instead of one`);
  for (const [name, summary] of found) report.times(name.replace('scaled-', ''), summary);
  const [restored, cold] = WAYS.map((name) => found.get(name)?.p50 ?? Number.NaN);
  report.figure('autoscaled pods serve, before cold starts would', ((cold ?? 0) - (restored ?? 0)) / 1_000, 0.5, 'higher', 's', 1);
}

async function scaleByLoad(stage: Stage, caller: Caller, name: string): Promise<number> {
  const { space } = stage;
  await stage.scaleOut(name, 1);
  await space.apply(anAutoscaler(name, 'rekindle_connections', String(TARGET), { maxReplicas: PODS }));
  await space.until(
    'the autoscaler to have its metric',
    async () =>
      (await space.kubectl('get', 'hpa', name, '-o', 'jsonpath={.status.conditions[?(@.type=="ScalingActive")].status}')) === 'True',
  );
  const began = performance.now();
  await caller.hold(name, CONNECTIONS);
  const pods = await stage.untilAll(name, PODS, 'ready');
  await Promise.all(pods.map(({ pod }) => get(space, pod, '/healthz')));
  const took = performance.now() - began;
  await caller.hold(name, 0);
  await space.kube.remove(AUTOSCALERS, { name, namespace: space.name }, AbortSignal.timeout(10_000));
  await stage.clear(name);
  return took;
}
