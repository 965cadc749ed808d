import { setTimeout as delay } from 'node:timers/promises';
import type { Report } from '../lib/report.ts';
import { median } from '../lib/stats.ts';
import { deploymentOf, NODE, policyOf } from './applications.ts';
import { cpuSeconds, ownNodes, processes, processesOfPod, pssBytes } from './processes.ts';
import type { Stage } from './stage.ts';

const MIB = 2 ** 20;
const PODS = 100;
/** Until new pods make no more work. */
const SETTLE_MS = 20_000;
/** What kubelet and runtime do once a minute is in it. */
const LOOK_MS = 60_000;

/**
 * What pods cost in which nothing runs: memory of each, and processor time of a hundred with what asks whether they are ready. With and without that it is as
 * many pods of the same age, since what a kubelet and a runtime do does not grow evenly with them.
 */
export async function parked(stage: Stage, report: Report): Promise<void> {
  if (!ownNodes) return report.say('\nparked pods: left out, since processes of this cluster cannot be looked at from here');
  const annotations = { 'rekindle.dev/mode': 'on-demand' };
  const common = { enabled: true, properties: 'parked', annotations };
  await stage.space.apply(
    // None is to be the first of its kind.
    policyOf(NODE, { name: 'parked', lines: ['cr.restore.cold=nobody asks for it', 'cr.pool.max=100'] }),
    deploymentOf(NODE, { ...common, name: 'parked-asked' }),
    deploymentOf(NODE, { ...common, name: 'parked-unasked', probed: false }),
  );
  const idle = await busy();
  await stage.scaleOut('parked-unasked', PODS);
  const unasked = await busy();
  await stage.clear('parked-unasked');
  const pods = await stage.scaleOut('parked-asked', PODS);
  const asked = await busy();

  const all = await processes();
  const memory = await Promise.all(pods.map(({ pod }) => memoryOf(pod.metadata?.uid ?? '', all)));
  await stage.clear('parked-asked');
  report.say();
  report.say(`a parked pod, median of ${PODS}: MiB of memory (each process with its part of what it shares)`);
  for (const part of ['shims', 'pauses', 'slots', 'all'] as const)
    report.say(`  ${part.padEnd(10)} ${(median(memory.map((one) => one[part])) / MIB).toFixed(2).padStart(8)}`);
  report.say();
  report.say(`milliseconds of processor time per second      none   ${PODS} without a probe   ${PODS} asked every second`);
  for (const who of WHO) {
    const row = [idle, unasked, asked].map((times) => (times[who] * 1_000).toFixed(1));
    report.say(`  ${who.padEnd(38)} ${row[0]?.padStart(10)} ${row[1]?.padStart(21)} ${row[2]?.padStart(23)}`);
  }
  const sum = (times: Busy) => WHO.reduce((total, who) => total + times[who], 0);
  report.figure('a parked pod, all that the runtime holds for it', median(memory.map((one) => one.all)) / MIB, 16, 'lower', 'MiB', 10);
  report.figure('of that ours: the slot', median(memory.map((one) => one.slots)) / MIB, 0.5, 'lower', 'MiB', 0.2);
  report.figure(`probes of ${PODS} parked pods, per second`, (sum(asked) - sum(unasked)) * 1_000, 100, 'lower', 'ms', 50);
  report.figure('of that ours: the slots', (asked.slots - unasked.slots) * 1_000, 20, 'lower', 'ms', 10);
}

const WHO = ['kubelets', 'runtime', 'agents', 'slots'] as const;
type Busy = Readonly<Record<(typeof WHO)[number], number>>;

/** Processor time per second, over a minute in which nothing changes. */
async function busy(): Promise<Busy> {
  await delay(SETTLE_MS);
  const [began, before] = [performance.now(), await cpuSeconds()];
  await delay(LOOK_MS);
  const [ended, after] = [performance.now(), await cpuSeconds()];
  const rate = (who: keyof Busy) => ((after[who] - before[who]) * 1_000) / (ended - began);
  return { kubelets: rate('kubelets'), runtime: rate('runtime'), agents: rate('agents'), slots: rate('slots') };
}

async function memoryOf(uid: string, all: Awaited<ReturnType<typeof processes>>) {
  const found = processesOfPod(uid, all);
  const others = all.filter(({ pid }) => found.application.includes(pid)).map(({ command }) => command.join(' '));
  if (others.length > 0) throw new Error(`pod ${uid} is not parked: ${others.join(', ')} runs in it`);
  const [shims, pauses, slots] = [await pssBytes(found.shims), await pssBytes(found.pauses), await pssBytes(found.slots)];
  return { shims, pauses, slots, all: shims + pauses + slots };
}
