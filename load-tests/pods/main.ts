// How soon pods of a real Kubernetes are Ready and answer: restored, beside empty pods and cold starts; autoscaling, waking from zero, and what parked pods cost.
import { bringUp, foreign, installed, isUp, stateOf, takeDown } from '../../test/cluster/fixture/cluster.ts';
import { loadTest, someOf, withRounds } from '../lib/load-test.ts';
import { machineFacts, tidyMemory } from '../lib/machine.ts';
import { firstAnswers, prepareAnswers, tightAnswers } from './answers.ts';
import { APPLICATIONS, policyOf } from './applications.ts';
import { autoscaling, prepareAutoscaling } from './autoscaling.ts';
import { Caller } from './caller.ts';
import { parked } from './parked.ts';
import { manyAtOnce, oneMore, prepareReadiness } from './readiness.ts';
import { Stage } from './stage.ts';
import { prepareWaking, waking } from './waking.ts';

const ROUNDS = 12;
const PARTS = ['ready', 'burst', 'answers', 'tight', 'autoscaling', 'waking', 'parked'] as const;

type Part = (typeof PARTS)[number];

const { options, report } = loadTest<{ rounds: number; parts?: readonly Part[]; asIs?: boolean }>(import.meta.dirname, (command) =>
  withRounds(ROUNDS)(command)
    .option('--parts <names>', `some of ${PARTS.join(',')} (default: all)`, someOf(PARTS))
    .option('--as-is', 'measure what runs in the cluster already, whatever the work tree has'),
);
const { rounds, parts: chosen = PARTS } = options;
const has = (...parts: readonly Part[]) => parts.some((part) => chosen.includes(part));

let versions = {};
const ranBefore = foreign || (await isUp());
if (!options.asIs) await bringUp((line) => report.say(line));
try {
  await installed();
  await tidyMemory();
  await using stage = await Stage.open();
  // What is ended early leaves nothing behind either.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stage.space.remove().finally(() => process.exit(1)));
  versions = await stage.versions();
  const caller = new Caller(stage);
  try {
    await stage.space.apply(...APPLICATIONS.map((application) => policyOf(application)));
    await Promise.all([
      has('ready', 'burst') && prepareReadiness(stage),
      has('answers', 'tight') && prepareAnswers(stage),
      has('autoscaling') && prepareAutoscaling(stage),
      has('waking') && prepareWaking(stage),
      has('autoscaling', 'waking') && caller.start(),
    ]);
    if (has('ready')) await oneMore(stage, report, rounds);
    if (has('burst')) await manyAtOnce(stage, report);
    if (has('answers')) await firstAnswers(stage, report, rounds);
    if (has('tight')) await tightAnswers(stage, report, rounds);
    if (has('autoscaling')) await autoscaling(stage, caller, report);
    if (has('waking')) await waking(stage, caller, report, rounds);
    if (has('parked')) await parked(stage, report);
  } catch (error) {
    report.say(await stateOf(stage.space.name));
    throw error;
  }
} finally {
  if (!ranBefore) await takeDown();
}
process.exitCode = report.end({ ...(await machineFacts()), ...versions });
