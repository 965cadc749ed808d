import fc from 'fast-check';
import { expect, test } from 'vitest';
import { DEFAULT_POLICY, type PoolNode, type PoolPolicy, type PoolState } from '../../../src/pool/state.ts';
import { aNode, aWorkload } from './builders.ts';
import { type Load, Simulator } from './simulator.ts';

const WINDOWS = { idleMs: 2_000, stableWindowMs: 4_000, burstWindowMs: 1_000 };
/** Whatever a load needs is there by then: a window, a burst, idle instances and then idle slots, a seed and its pulls. */
const SETTLES_MS = 20_000;

const policy = fc
  .record({
    min: fc.integer({ min: 0, max: 2 }),
    more: fc.integer({ min: 1, max: 6 }),
    targetConcurrency: fc.constantFrom(1, 2, 5),
    parked: fc.integer({ min: 0, max: 2 }),
  })
  .map(({ more, ...some }): PoolPolicy => ({ ...DEFAULT_POLICY, ...WINDOWS, ...some, max: some.min + more }));
const load: fc.Arbitrary<Load> = fc.record({ clients: fc.integer({ min: 0, max: 12 }), serviceMs: fc.constantFrom(50, 300, 900) });
const member = fc.record({ policy, load, memoryBytes: fc.integer({ min: 1, max: 10 }) });
const members = fc.array(member, { minLength: 1, maxLength: 4 });
const node = fc.record({ cores: fc.integer({ min: 1, max: 3 }), machineClass: fc.constantFrom('x86', 'arm') });

function aFleet(all: readonly { policy: PoolPolicy; memoryBytes: number }[], nodes: readonly Partial<PoolNode>[]): PoolState {
  return {
    nodes: nodes.map((one, i) => aNode({ snapshots: new Set(), ...one, name: `n${i}` })),
    slots: [],
    workloads: all.map(({ policy, memoryBytes }, i) => aWorkload({ name: `w${i}`, policy, memoryBytes, snapshots: new Map() })),
  };
}

function instances(simulator: Simulator, workload: string): number {
  return simulator.state.slots.filter((slot) => slot.workload === workload && (slot.state === 'live' || slot.state === 'cold')).length;
}

test('a steady load converges, from nothing, to what it needs and the policy keeps, and then nothing changes any more', () => {
  fc.assert(
    fc.property(members, fc.array(node, { minLength: 1, maxLength: 3 }), (all, nodes) => {
      const simulator = new Simulator(
        aFleet(
          all,
          nodes.map((one) => ({ ...one, maxInstances: 100 })),
        ),
      );
      for (const [i, { load }] of all.entries()) simulator.load(`w${i}`, load);

      simulator.run(SETTLES_MS);
      const settled = simulator.taken.length;
      simulator.run(SETTLES_MS);

      expect(simulator.taken.slice(settled)).toEqual([]);
      for (const [i, { policy, load }] of all.entries()) {
        const { min, max, targetConcurrency } = policy;
        const needs = Math.min(max, Math.max(min, Math.ceil(load.clients / targetConcurrency)));
        const comfortable = Math.max(needs, Math.ceil(load.clients / targetConcurrency / 0.7));
        const has = instances(simulator, `w${i}`);
        expect(has).toBeGreaterThanOrEqual(needs);
        expect(has).toBeLessThanOrEqual(comfortable);
        expect(simulator.state.slots.filter(({ workload }) => workload === `w${i}`).length).toBe(Math.min(max, has + policy.parked));
      }
    }),
    { numRuns: 60 },
  );
}, 300_000);

test('when the load goes, pools fall back to their minimum and no further', () => {
  fc.assert(
    fc.property(members, fc.array(node, { minLength: 1, maxLength: 3 }), (all, nodes) => {
      const simulator = new Simulator(
        aFleet(
          all,
          nodes.map((one) => ({ ...one, maxInstances: 100 })),
        ),
      );
      for (const [i, { load }] of all.entries()) simulator.load(`w${i}`, load);
      simulator.run(SETTLES_MS);

      for (const i of all.keys()) simulator.load(`w${i}`, { clients: 0, serviceMs: 1 });
      simulator.run(SETTLES_MS);
      const settled = simulator.taken.length;
      simulator.run(SETTLES_MS);

      expect(simulator.taken.slice(settled)).toEqual([]);
      for (const [i, { policy }] of all.entries()) expect(instances(simulator, `w${i}`)).toBe(policy.min);
    }),
    { numRuns: 40 },
  );
}, 300_000);

test('where there is not room for all, every workload is served again and again', () => {
  fc.assert(
    fc.property(members, fc.integer({ min: 1, max: 2 }), fc.integer({ min: 1, max: 3 }), fc.boolean(), (all, count, places, stateful) => {
      const nodes = Array.from({ length: count }, () => ({ cores: 1, maxInstances: places, memoryBytes: 12 }));
      const fleet = aFleet(
        all.map((one) => ({ ...one, policy: { ...one.policy, stateful } })),
        nodes,
      );
      const digests = all.map((_, i) => `sha256:w${i}`);
      const simulator = new Simulator({
        ...fleet,
        nodes: fleet.nodes.map((one) => ({ ...one, snapshots: new Set(digests) })),
        workloads: fleet.workloads.map((one, i) => ({ ...one, snapshots: new Map([['x86', { at: 'ready', digest: `sha256:w${i}` }]]) })),
      });
      for (const [i, { load }] of all.entries()) simulator.load(`w${i}`, load);

      for (let round = 0; round < 3; round++) {
        const before = new Map(simulator.answered);
        simulator.run(SETTLES_MS);

        for (const [i, { load }] of all.entries()) {
          if (load.clients > 0) expect(simulator.answered.get(`w${i}`) ?? 0, `w${i}`).toBeGreaterThan(before.get(`w${i}`) ?? 0);
        }
      }
    }),
    { numRuns: 60 },
  );
}, 300_000);

test('a burst from zero is answered by restores, one for each free core at once', () => {
  const fleet = aFleet([{ policy: { ...DEFAULT_POLICY, ...WINDOWS, max: 8, parked: 8 }, memoryBytes: 1 }], [{ cores: 2 }]);
  const simulator = new Simulator(fleet);
  simulator.run(SETTLES_MS);
  const before = simulator.taken.length;

  simulator.load('w0', { clients: 8, serviceMs: 300 });
  simulator.run(1_000);

  const restores = simulator.taken.slice(before).filter(({ action }) => action.do === 'restore');
  expect(restores.filter(({ atMs }) => atMs === restores[0]?.atMs).length).toBe(2);
  expect(restores.every(({ action }) => action.do === 'restore' && action.snapshot !== undefined)).toBe(true);
  expect(instances(simulator, 'w0')).toBe(8);
});
