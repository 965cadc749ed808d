import { expect, test } from 'vitest';
import { plan } from '../../../src/pool/plan.ts';
import { aNode, aSlot, aState, aWorkload, DIGEST, NOW } from './builders.ts';

/** Slots that Kubernetes gives: pods with `rekindle.dev/mode: on-demand`. */

const NONE = new Map();
const WAITING = { waiting: 1, oldestWaitingMs: 10 };

test('a waiting request wakes a parked slot, and none is made when there is no other', () => {
  const wakes = aState({ slots: [aSlot('s', 'parked')], workloads: [aWorkload({ policy: { fixed: true, max: 1 }, demand: WAITING })] });
  const empty = aState({ workloads: [aWorkload({ policy: { fixed: true, max: 3 }, demand: WAITING })] });

  expect(plan(wakes, NOW).actions).toEqual([{ do: 'restore', slot: 's', node: 'a', workload: 'web', snapshot: DIGEST, why: 'waiting' }]);
  expect(plan(empty, NOW).actions).toEqual([]);
});

test('an idle instance ends and its slot is parked again, also one that started cold', () => {
  const slots = [aSlot('live', 'live'), aSlot('cold', 'cold')];

  const { actions } = plan(aState({ slots, workloads: [aWorkload({ policy: { fixed: true, max: 2 } })] }), NOW);

  expect(actions.map((one) => ('slot' in one ? `${one.do} ${one.slot}` : one.do)).sort()).toEqual(['end cold', 'end live']);
});

test('surplus and failed slots stay: Kubernetes removes them', () => {
  const slots = [aSlot('p1', 'parked'), aSlot('p2', 'parked'), aSlot('f', 'failed')];

  expect(plan(aState({ slots, workloads: [aWorkload({ policy: { fixed: true, max: 3, idleMs: 0 } })] }), NOW).actions).toEqual([]);
});

test('while there is no snapshot one slot that was never used starts cold ahead of requests, and becomes the seed', () => {
  const slots = [aSlot('s1', 'parked', { lastUsedMs: 0 }), aSlot('s2', 'parked', { lastUsedMs: 0 })];

  const { actions } = plan(aState({ slots, workloads: [aWorkload({ snapshots: NONE, policy: { fixed: true, max: 2 } })] }), NOW);

  expect(actions).toEqual([{ do: 'restore', slot: 's1', node: 'a', workload: 'web', snapshot: undefined, why: 'seed', seed: true }]);
});

test('a seed that made no snapshot is not followed by another before somebody asks', () => {
  const slots = [aSlot('s1', 'parked', { lastUsedMs: NOW - 1 }), aSlot('s2', 'parked', { lastUsedMs: 0 })];
  const workload = { snapshots: NONE, policy: { fixed: true, max: 2 } };

  expect(plan(aState({ slots, workloads: [aWorkload(workload)] }), NOW).actions).toEqual([]);
  expect(plan(aState({ slots, workloads: [aWorkload({ ...workload, demand: WAITING })] }), NOW).actions).toMatchObject([
    { do: 'restore', why: 'waiting', seed: true },
  ]);
});

test('while the seed becomes a snapshot more start cold, and only one is the seed', () => {
  const slots = ['s1', 's2', 's3'].map((uid) => aSlot(uid, 'parked'));
  const demand = { waiting: 3, oldestWaitingMs: 10 };

  const { actions } = plan(aState({ slots, workloads: [aWorkload({ snapshots: NONE, demand, policy: { fixed: true, max: 3 } })] }), NOW);

  expect(actions.filter((one) => one.do === 'restore' && one.seed === true)).toHaveLength(1);
  expect(actions.length).toBeGreaterThan(1);
});

test("an ordinary workload's snapshot is brought to the nodes where its pods are, and a few more, and nothing else is planned", () => {
  const others = Array.from({ length: 12 }, (_, i) => aNode({ name: `n${String(i).padStart(2, '0')}`, snapshots: new Set() }));
  const arm = aNode({ name: 'arm', machineClass: 'arm', snapshots: new Set() });
  const nodes = [aNode({ name: 'a' }), ...others, arm];
  const workload = aWorkload({ policy: { fixed: true, min: 0, max: 0 }, spread: new Set(['a', 'n11']), demand: WAITING });

  const { actions, desired } = plan(aState({ nodes, workloads: [workload] }), NOW);

  expect(desired.size).toBe(0);
  expect(actions.every((one) => one.do === 'pull' && one.from === 'a' && one.digest === DIGEST)).toBe(true);
  expect(actions.map(({ node }) => node)).toContain('n11');
  expect(actions.map(({ node }) => node)).not.toContain('arm');
  expect(actions).toHaveLength(9);
});
