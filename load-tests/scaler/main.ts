// How long the scaler thinks: one pass over 1,000 workloads and 20,000 slots on 100 nodes, quiet and in a burst.
import { plan } from '../../src/pool/plan.ts';
import { loadTest } from '../lib/load-test.ts';
import { machineFacts } from '../lib/machine.ts';
import { summarize } from '../lib/stats.ts';
import { aFleet, type Fleet } from './fleet.ts';

const PASSES = 30;
const WARM_UPS = 10;
const LIMIT_MS = 50;
const NOW_MS = 10_000_000;

const { report } = loadTest(import.meta.dirname);

const size = { workloads: 1_000, slots: 20_000, nodes: 100 };
const fleets: Readonly<Record<string, Fleet>> = {
  'a quiet fleet': { ...size, bursting: 0, room: 2, snapshots: 'everywhere' },
  'a tenth of the workloads in a burst': { ...size, bursting: 0.1, room: 2, snapshots: 'half' },
  'all in a burst, twice what there is room for': { ...size, bursting: 1, room: 0.5, snapshots: 'half' },
  'nothing has a snapshot yet, all wait': { ...size, bursting: 1, room: 2, snapshots: 'none' },
};

report.header(`${size.workloads} workloads, ${size.slots} slots, ${size.nodes} nodes: one pass`);
for (const [name, fleet] of Object.entries(fleets)) {
  const state = aFleet(fleet, NOW_MS);
  for (let i = 0; i < WARM_UPS; i++) plan(state, NOW_MS);
  let actions = 0;
  const passes = Array.from({ length: PASSES }, () => {
    const began = performance.now();
    actions = plan(state, NOW_MS).actions.length;
    return performance.now() - began;
  });
  report.times(`${name} (${actions} actions)`, summarize(passes));
  report.figure(name, summarize(passes).p50, LIMIT_MS, 'lower', 'ms');
}

process.exitCode = report.end(await machineFacts());
