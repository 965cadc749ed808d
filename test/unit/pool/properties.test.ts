import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { Action } from '../../../src/pool/actions.ts';
import { assume } from '../../../src/pool/assume.ts';
import { plan } from '../../../src/pool/plan.ts';
import type { PoolNode, PoolSlot, PoolState, PoolWorkload, SlotState } from '../../../src/pool/state.ts';
import { aNode, aSlot, aWorkload, NOW } from './builders.ts';

const NAMES = ['w0', 'w1', 'w2', 'w3'];
const NODES = ['n0', 'n1', 'n2'];
const STATES: readonly SlotState[] = ['making', 'parked', 'restoring', 'live', 'cold', 'ending', 'suspended', 'failed'];

const machineClass = fc.constantFrom('x86', 'arm');
const digest = fc.constantFrom(...NAMES.flatMap((name) => [`${name}-x86`, `${name}-arm`]));
const digests = fc.uniqueArray(digest).map((all): ReadonlySet<string> => new Set(all));
const nodes = fc
  .array(
    fc.record({
      alive: fc.boolean(),
      machineClass,
      cores: fc.nat(3),
      maxInstances: fc.nat(6),
      memoryBytes: fc.nat(60),
      snapshots: digests,
      pulling: digests,
      trials: fc.nat(1),
    }),
    { maxLength: NODES.length },
  )
  .map((all) => all.map((node, i): PoolNode => aNode({ ...node, name: `n${i}` })));
const time = fc.integer({ min: NOW - 100_000, max: NOW + 10_000 });
const slots = fc
  .array(
    fc.record({
      node: fc.constantFrom(...NODES),
      workload: fc.constantFrom(...NAMES),
      state: fc.constantFrom(...STATES),
      sinceMs: time,
      ready: fc.boolean(),
      inFlight: fc.nat(2),
      lastUsedMs: time,
      draining: fc.boolean(),
    }),
    { maxLength: 25 },
  )
  .map((all) =>
    all.map((slot, i): PoolSlot => aSlot(`s${i}`, slot.state, slot.state === 'suspended' ? { ...slot, suspended: 'state' } : slot)),
  );
const workload = fc.record({
  policy: fc.record({
    min: fc.nat(3),
    max: fc.nat(8),
    targetConcurrency: fc.constantFrom(0, 0.5, 1, 10),
    parked: fc.nat(3),
    stateful: fc.boolean(),
    fixed: fc.boolean(),
  }),
  demand: fc.record({
    inFlight: fc.nat(20),
    waiting: fc.nat(20),
    oldestWaitingMs: fc.nat(5_000),
    ratePerSecond: fc.nat(5),
    stableAverage: fc.float({ min: 0, max: 20, noNaN: true }),
    burstAverage: fc.float({ min: 0, max: 20, noNaN: true }),
  }),
  memoryBytes: fc.nat(20),
  phases: fc.dictionary(machineClass, fc.constantFrom('ready', 'warming', 'refused', 'seed')),
  burst: fc.option(fc.record({ lastMs: time, instances: fc.nat(5) })),
  spread: fc.option(fc.uniqueArray(fc.constantFrom(...NODES)).map((all): ReadonlySet<string> => new Set(all))),
});
const workloads = fc.array(workload, { maxLength: NAMES.length }).map((all) =>
  all.map(({ phases, burst, spread, ...rest }, i): PoolWorkload => {
    const name = `w${i}`;
    const phase = (at: string, of: string) => {
      if (at === 'ready') return { at, digest: `${name}-${of}` } as const;
      if (at === 'refused') return { at } as const;
      return { at: 'warming', node: 'n0', ...(at === 'seed' ? { slot: `s${i}` } : {}) } as const;
    };
    const snapshots = new Map(Object.entries(phases).map(([of, at]) => [of, phase(at, of)]));
    // Ordinary pods are of a fixed pool without any slot.
    const ordinary = spread === null ? {} : { spread, policy: { ...rest.policy, fixed: true, min: 0, max: 0 } };
    return aWorkload({ name, ...rest, snapshots, ...(burst === null ? {} : { burst }), ...ordinary });
  }),
);
const state: fc.Arbitrary<PoolState> = fc.record({ nodes, slots, workloads });

const RUNNING: readonly SlotState[] = ['restoring', 'live', 'cold', 'ending'];

/** Instances of a workload on nodes alive, seeds to come among them. */
function instances({ nodes, slots, workloads }: PoolState, by: { workload?: string; node?: string }): { count: number; bytes: number } {
  const alive = new Set(nodes.filter((node) => node.alive).map(({ name }) => name));
  const counted = [
    ...slots.filter((slot) => RUNNING.includes(slot.state)),
    ...workloads.flatMap(({ name, snapshots }) =>
      [...snapshots.values()].flatMap((one) =>
        one.at === 'warming' && one.slot === undefined ? [{ workload: name, node: one.node }] : [],
      ),
    ),
  ].filter((one) => alive.has(one.node) && one.workload === (by.workload ?? one.workload) && one.node === (by.node ?? one.node));
  const bytes = (name: string) => workloads.find((one) => one.name === name)?.memoryBytes ?? 0;
  return { count: counted.length, bytes: counted.reduce((sum, one) => sum + bytes(one.workload), 0) };
}

function ofSlot(actions: readonly Action[]): string[] {
  return actions.flatMap((one) => ('slot' in one ? [one.slot] : []));
}

test('a plan is a pure function: same state, same plan, and the state is as it was', () => {
  fc.assert(
    fc.property(state, (before) => {
      const copy = structuredClone(before);

      const first = plan(before, NOW);

      expect(plan(copy, NOW)).toEqual(first);
      expect(before).toEqual(copy);
    }),
    { numRuns: 1_000 },
  );
});

test('no plan brings a workload above its maximum, or a node above its capacity and cores', () => {
  fc.assert(
    fc.property(state, (before) => {
      const after = assume(before, plan(before, NOW).actions, NOW);

      for (const { name, policy } of before.workloads) {
        const had = instances(before, { workload: name }).count;
        expect(instances(after, { workload: name }).count).toBeLessThanOrEqual(Math.max(had, policy.max));
      }
      for (const node of before.nodes) {
        const [had, has] = [instances(before, { node: node.name }), instances(after, { node: node.name })];
        expect(has.count).toBeLessThanOrEqual(Math.max(had.count, node.maxInstances));
        expect(has.bytes).toBeLessThanOrEqual(Math.max(had.bytes, node.memoryBytes));
        const restoring = (all: PoolState) => all.slots.filter((one) => one.node === node.name && one.state === 'restoring').length;
        expect(restoring(after)).toBeLessThanOrEqual(Math.max(restoring(before), node.cores));
      }
    }),
    { numRuns: 1_000 },
  );
});

test('nothing with requests in flight ends, nothing is asked of dead nodes, and each slot is acted upon once', () => {
  fc.assert(
    fc.property(state, (before) => {
      const { actions } = plan(before, NOW);

      const slotOf = new Map(before.slots.map((slot) => [slot.uid, slot]));
      for (const one of actions) {
        expect(before.nodes.find(({ name }) => name === one.node)?.alive).toBe(true);
        if (one.do === 'end' || one.do === 'suspend' || (one.do === 'remove' && one.why === 'idle')) {
          expect(slotOf.get(one.slot)).toMatchObject({ inFlight: 0, ready: true });
        }
        if (one.do === 'restore') expect(slotOf.get(one.slot)?.state).toMatch(/parked|suspended/);
      }
      expect(new Set(ofSlot(actions)).size).toBe(ofSlot(actions).length);
    }),
    { numRuns: 1_000 },
  );
});

test('planned again with its actions begun, nothing contradicts them, and after a few plans there is nothing left to ask for', () => {
  fc.assert(
    fc.property(state, (before) => {
      let now = before;
      const touched = new Set<string>();
      const warmed = new Set<string>();
      for (let i = 0; ; i++) {
        const { actions, bursts } = plan(now, NOW);
        for (const one of actions) {
          if ('slot' in one) expect(touched.has(one.slot), `${one.do} ${one.slot}`).toBe(false);
          if (one.do === 'warm') expect(warmed.has(`${one.workload} ${one.machineClass}`)).toBe(false);
          if ('slot' in one) touched.add(one.slot);
          if (one.do === 'warm') warmed.add(`${one.workload} ${one.machineClass}`);
          if (one.do === 'restore' && one.seed === true) {
            const seed = `${one.workload} ${before.nodes.find(({ name }) => name === one.node)?.machineClass}`;
            expect(warmed.has(seed)).toBe(false);
            warmed.add(seed);
          }
        }
        if (actions.length === 0) break;
        expect(i).toBeLessThan(10);
        const workloads = now.workloads.map(({ burst: _, ...one }) => ({
          ...one,
          ...(bursts.has(one.name) ? { burst: bursts.get(one.name) } : {}),
        }));
        now = assume({ ...now, workloads: workloads as readonly PoolWorkload[] }, actions, NOW);
      }
    }),
    { numRuns: 1_000 },
  );
});

test('of a fixed pool no slot is made or removed, and its seed is one of its slots, one per class', () => {
  fc.assert(
    fc.property(state, (before) => {
      const { actions } = plan(before, NOW);

      const fixed = new Set(before.workloads.filter(({ policy }) => policy.fixed).map(({ name }) => name));
      const classOf = new Map(before.nodes.map(({ name, machineClass }) => [name, machineClass]));
      const ofFixed = actions.filter(({ workload }) => fixed.has(workload));
      expect(ofFixed.filter((one) => one.do === 'park' || one.do === 'warm' || one.do === 'remove')).toEqual([]);
      const seeds = actions.flatMap((one) => (one.do === 'restore' && one.seed === true ? [one] : []));
      for (const { workload: name, node, snapshot } of seeds) {
        expect(fixed.has(name)).toBe(true);
        expect(snapshot).toBeUndefined();
        const phase = before.workloads.find((one) => one.name === name)?.snapshots.get(classOf.get(node) ?? '');
        // A class's snapshot that no node alive has is none, and so is a seed on a dead node.
        expect(phase?.at).not.toBe('refused');
      }
      const classes = seeds.map(({ workload: name, node }) => `${name} ${classOf.get(node)}`);
      expect(new Set(classes).size).toBe(classes.length);
    }),
    { numRuns: 1_000 },
  );
});

test('instances that should be there are never more than max nor fewer than min', () => {
  fc.assert(
    fc.property(state, (before) => {
      const { desired } = plan(before, NOW);

      for (const { name, policy, spread } of before.workloads) {
        if (spread !== undefined) {
          expect(desired.has(name)).toBe(false);
          continue;
        }
        expect(desired.get(name)).toBeLessThanOrEqual(policy.max);
        expect(desired.get(name)).toBeGreaterThanOrEqual(Math.min(policy.min, policy.max));
      }
    }),
  );
});
