// How long until one more instance of a warmed application answers: rekindle beside podman, runc, criu alone and a cold start, in one run.
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { checkpointTools } from '../../src/checkpoint/tools.ts';
import { exec } from '../../src/lib/exec.ts';
import { TestEngine } from '../../test/fixtures/engine.ts';
import { floorMs } from '../lib/floor.ts';
import { largePages } from '../lib/large-pages.ts';
import { loadTest, someOf, withRounds } from '../lib/load-test.ts';
import { machineFacts, tidyMemory } from '../lib/machine.ts';
import { barPlot, type Panel } from '../lib/plot.ts';
import { median, summarize } from '../lib/stats.ts';
import { BareCriu } from './bare-criu.ts';
import { burst } from './burst.ts';
import type { Contender, Round } from './contender.ts';
import { freezeOnce } from './freeze.ts';
import { mergeClones } from './merging.ts';
import { Podman } from './podman.ts';
import { Cold, Rekindle } from './rekindle.ts';
import { Runc } from './runc.ts';
import { readSamples, type Sample } from './samples.ts';
import { service } from './service.ts';

const ROUNDS = 15;
const FREEZES = 9;
const SETTLE_MS = 150;
const MIB = 2 ** 20;
/** Times faster than a cold start, by sample: limit and aim. */
const AGAINST_COLD: Readonly<Record<string, readonly [number, number]>> = { python: [25, 35], node: [2.2, 3], java: [15, 20] };
const COLOUR = { rekindle: '#0a7f5a', runc: '#7a8aa0', podman: '#a3afc0', cold: '#d9a066' };

const SAMPLE_NAMES = Object.keys(AGAINST_COLD);

const { options, report } = loadTest<{ rounds: number; samples?: readonly string[] }>(import.meta.dirname, (command) =>
  withRounds(ROUNDS)(command).option('--samples <names>', `some of ${SAMPLE_NAMES.join(',')} (default: all)`, someOf(SAMPLE_NAMES)),
);
const dir = await mkdtemp(join(tmpdir(), 'rekindle-load-'));
try {
  await using engine = await TestEngine.open();
  await using large = largePages();
  const tools = await checkpointTools(exec, { ...engine.config, criu: '/usr/sbin/criu', hostRoot: '' });
  const panels: Panel[] = [];
  for (const sample of await readSamples()) {
    if (options.samples !== undefined && !options.samples.includes(sample.name)) continue;
    panels.push(await compare(engine, sample));
  }
  if (options.samples === undefined) await writeFile(join(import.meta.dirname, 'result.svg'), plot(panels));
  await manyClones(engine);

  async function compare(engine: TestEngine, sample: Sample): Promise<Panel> {
    const own = join(dir, sample.name);
    const snapshot = async () => {
      const found = (await engine.engine.store.list()).find(({ manifest }) => manifest.workload === sample.name);
      if (found === undefined) throw new Error(`${sample.name} has no snapshot`);
      return found;
    };
    await tidyMemory();
    await using stack = new AsyncDisposableStack();
    const rekindle = stack.use(new Rekindle({ engine, sample }));
    const bare = stack.use(new BareCriu({ dir: own, sample, tools, largePages: large, slotDir: engine.engine.host.slotDir, snapshot }));
    const runc = stack.use(new Runc({ dir: own, sample }));
    const podman = stack.use(new Podman({ dir: own, sample }));
    const cold = stack.use(new Cold({ engine, sample }));
    const contenders: Contender[] = [rekindle, bare, runc, podman, cold];
    for (const contender of contenders) await contender.prepare();
    const rounds = new Map<Contender, Round[]>(contenders.map((contender) => [contender, []]));
    for (let i = 0; i < options.rounds; i++) {
      // In turn, so that what else the machine does meets all alike; each once the one before has been cleared away, and not always after the
      // same one: what that leaves of memory, in which pieces, or taken back by the machine's host, makes a difference.
      for (const contender of shuffled(contenders)) {
        await delay(SETTLE_MS);
        rounds.get(contender)?.push(await contender.round());
      }
    }
    const freezes = [];
    const seed = (await engine.engine.host.list()).find(({ name }) => name === `${sample.name}-seed`);
    for (let i = 0; seed !== undefined && i < FREEZES; i++) freezes.push(await freezeOnce(tools, seed, dir));

    const { manifest } = await snapshot();
    report.header(`${sample.name}, ${(manifest.totalBytes / MIB).toFixed(0)} MiB: first answer after`);
    const times = (contender: Contender, pick: (round: Round) => number | undefined): number => {
      const summary = summarize((rounds.get(contender) ?? []).flatMap((round) => pick(round) ?? []));
      report.times(contender.name + (pick === fromHello ? ", from the slot's hello" : ''), summary);
      return summary.p50;
    };
    const fromHello = ({ fromHelloMs }: Round) => fromHelloMs;
    const answer = ({ answerMs }: Round) => answerMs;
    const ours = times(rekindle, fromHello);
    times(rekindle, answer);
    const [bareMs, runcMs, podmanMs] = [times(bare, answer), times(runc, answer), times(podman, answer)];
    const coldMs = times(cold, fromHello);
    times(cold, answer);
    report.times('freeze', summarize(freezes.map(({ oursMs }) => oursMs)));
    report.times('freeze, criu dump alone and a copy', summarize(freezes.map(({ bareMs }) => bareMs)));
    report.say(
      `  copying ${(manifest.memoryBytes / MIB).toFixed(0)} MiB into fresh pages takes ${(await floorMs(Math.round(manifest.memoryBytes / MIB))).toFixed(1)} ms`,
    );
    const named = (what: string) => `${sample.name}: ${what}`;
    report.figure(named('times faster than podman container restore'), podmanMs / ours, 4, 'higher', 'x', 5);
    report.figure(named('times faster than runc restore'), runcMs / ours, 2, 'higher', 'x', 2.5);
    const [limit, aim] = AGAINST_COLD[sample.name] ?? [1, 1];
    report.figure(named('times faster than a cold start'), coldMs / ours, limit, 'higher', 'x', aim);
    report.figure(named('ours beyond the bare criu restore'), ours - bareMs, 15, 'lower', 'ms', 5);
    const ratio = median(freezes.map(({ oursMs, bareMs }) => oursMs / bareMs));
    report.figure(named('freeze against a bare dump and a copy'), ratio, 1.3, 'lower', 'x');
    return {
      title: `${sample.name} (${(manifest.memoryBytes / MIB).toFixed(0)} MiB of memory)`,
      bars: [
        { label: 'rekindle restore', value: ours, colour: COLOUR.rekindle },
        { label: 'runc restore', value: runcMs, colour: COLOUR.runc },
        { label: 'podman container restore', value: podmanMs, colour: COLOUR.podman },
        { label: 'cold start', value: coldMs, colour: COLOUR.cold },
      ],
    };
  }

  async function manyClones(engine: TestEngine): Promise<void> {
    report.say();
    report.say('many clones of a service of 100 MB');
    const { container: seed, snapshot } = await engine.seed(service({ mergeMemory: true }), 'service-seed');
    const merged = await mergeClones(engine);
    await engine.engine.host.remove(seed.uid, { graceMs: 0 });
    const mib = (bytes: number): string => (bytes / MIB).toFixed(1);
    report.say(
      `  ${merged.clones} clones that share memory: one more costs ${mib(merged.marginalBytes)} MiB instead of ${mib(merged.eagerBytes)} MiB,`,
    );
    report.say(
      `  settled after ${merged.settleSeconds.toFixed(1)} s, which took the kernel ${merged.cpuSeconds.toFixed(1)} s of processor time`,
    );
    report.figure('memory of one more clone, merged, against its eager copy', merged.marginalBytes / merged.eagerBytes, 0.05, 'lower', 'x');
    await tidyMemory();
    const { clones, seconds, perSecondPerCore, privateBytes, pssBytes } = await burst(engine, tools, snapshot.digest);
    report.say(
      `  ${clones} restores in ${seconds.toFixed(2)} s; memory of a clone: private ${mib(privateBytes)} MiB, PSS ${mib(pssBytes)} MiB`,
    );
    report.figure('restores per second and core', perSecondPerCore, 8, 'higher', '/s', 12);
  }
} finally {
  await rm(dir, { recursive: true, force: true });
}
process.exitCode = report.end(await machineFacts());

function plot(panels: readonly Panel[]): string {
  const note = `Median of ${options.rounds} interleaved rounds on one machine; rekindle from the slot's hello. npm run load -- restore`;
  return barPlot('Time to first answer of one more instance', panels, 'ms', note);
}

function shuffled<T>(all: readonly T[]): readonly T[] {
  return all
    .map((one) => [Math.random(), one] as const)
    .toSorted(([a], [b]) => a - b)
    .map(([, one]) => one);
}
