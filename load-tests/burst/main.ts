// 200 requests at once to a service of which nothing runs: restored, started cold, and kept on standby, in one run, with the memory that each holds.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { openMachine } from '../../src/commands/engine.ts';
import { readConfig } from '../../src/config.ts';
import type { ApiPool, ApiSlot } from '../../src/gateway/schemas.ts';
import { silentLog } from '../../src/lib/log.ts';
import { parseRekindleFile } from '../../src/workloads/file.ts';
import { Up } from '../../test/fixtures/up.ts';
import { loadTest, withRounds } from '../lib/load-test.ts';
import { machineFacts } from '../lib/machine.ts';
import { chargedBytes } from '../lib/memory.ts';
import { median, summarize } from '../lib/stats.ts';

const REQUESTS = 200;
const WORK_MS = 30;
const INSTANCES = 4;
const ROUNDS = 3;
const SETTLE_MS = 2_000;
const MIB = 2 ** 20;
const SAMPLES = join(import.meta.dirname, '../../images/samples');

type Way = {
  readonly name: 'restored' | 'cold' | 'standby';
  readonly pool: Readonly<Record<string, number>>;
  /** Besides what the sample says. */
  readonly container?: Readonly<Record<string, unknown>>;
  readonly rests: (slots: readonly ApiSlot[], pool: ApiPool) => boolean;
};

const all = (state: string) => (slots: readonly ApiSlot[], pool: ApiPool) =>
  pool.inFlight === 0 && slots.length === INSTANCES && slots.every((slot) => slot.state === state);
const ZERO = { min: 0, max: INSTANCES, parked: INSTANCES };
const WAYS: readonly Way[] = [
  { name: 'restored', pool: ZERO, rests: (slots, pool) => pool.phase === 'ready' && all('parked')(slots, pool) },
  // The environment of a clone would be wrong, so each starts cold.
  { name: 'cold', pool: ZERO, container: { instanceEnv: { INSTANCE: 'name' } }, rests: all('parked') },
  {
    name: 'standby',
    pool: { min: INSTANCES, max: INSTANCES, parked: 0 },
    rests: (slots, pool) => pool.inFlight === 0 && slots.filter(({ ready, seed }) => ready && !seed).length === INSTANCES,
  },
];

const { options, report } = loadTest<{ rounds: number }>(import.meta.dirname, withRounds(ROUNDS));
const samples = parseRekindleFile(await readFile(join(SAMPLES, 'rekindle.yaml'), 'utf8'), join(SAMPLES, 'rekindle.yaml'), SAMPLES);
const python = samples.find(({ name }) => name === 'python');
if (python === undefined) throw new Error('there is no sample python');

const results = new Map<string, { readonly seconds: number; readonly restingBytes: number; readonly busyBytes: number }>();
report.say(`${REQUESTS} requests at once, ${WORK_MS} ms of work each, at most ${INSTANCES} instances of the sample python`);
report.header('each request');
for (const way of WAYS) {
  const container = { ...python.container, ...way.container };
  const pool = { ...way.pool, targetConcurrency: 8, idleSeconds: 1, stableWindowSeconds: 2, burstWindowSeconds: 1 };
  // JSON is YAML.
  await using up = await Up.start(
    JSON.stringify({ workloads: { python: { container, checkpoint: python.checkpoint, restore: python.restore, pool } } }),
  );
  await (await up.invoke('python', '/healthz')).text();
  const rest = () => up.slots('python', `${way.name}: what rests`, way.rests, 120_000);
  const seconds: number[] = [];
  const times: number[] = [];
  let [resting, busy] = [0, 0];
  for (let round = 0; round < options.rounds; round++) {
    await rest();
    await delay(SETTLE_MS);
    resting = await memoryOf(up);
    const began = performance.now();
    await Promise.all(
      Array.from({ length: REQUESTS }, async () => {
        const answer = await up.invoke('python', `/work?ms=${WORK_MS}`);
        await answer.text();
        if (answer.status !== 200) throw new Error(`a request was answered ${answer.status}`);
        times.push(performance.now() - began);
      }),
    );
    seconds.push((performance.now() - began) / 1000);
    busy = await memoryOf(up);
  }
  results.set(way.name, { seconds: median(seconds), restingBytes: resting, busyBytes: busy });
  report.times(way.name, summarize(times));
}
report.say();
report.say('                 all answered after   memory held before   and afterwards');
for (const [name, { seconds, restingBytes, busyBytes }] of results)
  report.say(
    `  ${name.padEnd(12)} ${seconds.toFixed(2).padStart(14)} s ${(restingBytes / MIB).toFixed(1).padStart(16)} MiB ${(busyBytes / MIB).toFixed(1).padStart(13)} MiB`,
  );
const of = (name: Way['name']) => {
  const found = results.get(name);
  if (found === undefined) throw new Error(`${name} was not measured`);
  return found;
};
report.figure('until all are answered, against cold starts', of('restored').seconds / of('cold').seconds, 0.5, 'lower', 'x');
report.figure('memory held at rest, against a standby pool', of('restored').restingBytes / of('standby').restingBytes, 0.05, 'lower', 'x');
process.exitCode = report.end(await machineFacts());

/** What the cgroups of all its containers are charged for. */
async function memoryOf(up: Up): Promise<number> {
  const { host } = await openMachine(readConfig(up.cli.env), silentLog);
  const bytes = await Promise.all((await host.list()).map(({ pid }) => chargedBytes(pid).catch(() => 0)));
  return bytes.reduce((sum, one) => sum + one, 0);
}
