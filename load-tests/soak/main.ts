// A thousand restores in a row leave no process, mount, namespace, cgroup, veth, file or descriptor behind.
import { TestEngine } from '../../test/fixtures/engine.ts';
import { loadTest, wholeNumber } from '../lib/load-test.ts';
import { machineFacts } from '../lib/machine.ts';
import { summarize } from '../lib/stats.ts';
import { keysOf, soak } from './rounds.ts';
import { soakWorkload } from './workload.ts';

/** A garbage-collected heap breathes; a leak of 50 KB per restore does not fit. */
const RSS_GROWTH_MIB = 50;
/** Timers of ten seconds that run at one look and not at the other are as much. */
const KEPT_BYTES = 2048;

const { options, report } = loadTest<{ count: number }>(import.meta.dirname, (command) =>
  command.option('--count <n>', 'restores', wholeNumber, 1_000),
);
{
  await using engine = await TestEngine.open();
  const { before, after, rssGrowthBytes, keptBytesPerRound, readyMs } = await soak(engine, soakWorkload(), options.count, (round) => {
    if ((round + 1) % 100 === 0) report.say(`  ${round + 1} restores`);
  });
  report.header(`${readyMs.length} restores, one after the other`);
  const part = Math.ceil(readyMs.length / 10);
  report.times("first answer, from the slot's hello", summarize(readyMs));
  report.times('  the first tenth', summarize(readyMs.slice(0, part)));
  report.times('  the last tenth', summarize(readyMs.slice(-part)));
  for (const what of keysOf(before)) report.figure(`${what} left behind`, after[what] - before[what], 0, 'lower', what);
  report.figure('growth of our own memory', rssGrowthBytes / 2 ** 20, RSS_GROWTH_MIB, 'lower', 'MiB');
  report.figure('kept in the heap by each restore', keptBytesPerRound, KEPT_BYTES, 'lower', 'bytes');
}
process.exitCode = report.end(await machineFacts());
