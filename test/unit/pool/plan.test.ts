import { expect, test } from 'vitest';
import type { Action } from '../../../src/pool/actions.ts';
import { plan } from '../../../src/pool/plan.ts';
import { FAILED_KEPT_MS } from '../../../src/pool/spare.ts';
import type { PoolState } from '../../../src/pool/state.ts';
import { aNode, aSlot, aState, aWorkload, DIGEST, NOW } from './builders.ts';

const planned = (state: PoolState): readonly Action[] => plan(state, NOW).actions;
const named = (actions: readonly Action[]): string[] => actions.map((one) => `${one.do} ${'slot' in one ? one.slot : one.node}`);
const waits = { waiting: 1, oldestWaitingMs: 5 };

test('a request that waits wakes a parked slot at once', () => {
  const state = aState({ slots: [aSlot('s', 'parked')], workloads: [aWorkload({ demand: waits })] });

  expect(planned(state)).toEqual([{ do: 'restore', slot: 's', node: 'a', workload: 'web', snapshot: DIGEST, why: 'waiting' }]);
});

test('a waiting request goes before what is only made ready ahead', () => {
  const first = aWorkload({ name: 'eager', policy: { min: 5 } });
  const second = aWorkload({ name: 'late', demand: waits });
  const slots = [
    ...['e1', 'e2', 'e3'].map((uid) => aSlot(uid, 'parked', { workload: 'eager' })),
    aSlot('l1', 'parked', { workload: 'late' }),
  ];

  const woken = planned(aState({ slots, workloads: [first, second] })).filter((one) => one.do === 'restore');

  expect(woken.map(({ slot, why }) => [slot, why])).toEqual([['l1', 'waiting']]);
});

test('a slot is woken where the snapshot is, and the other node pulls it', () => {
  const nodes = [aNode({ name: 'a', snapshots: new Set() }), aNode({ name: 'b' })];
  const slots = [aSlot('on-a', 'parked', { node: 'a' }), aSlot('on-b', 'parked', { node: 'b' })];

  const actions = planned(aState({ nodes, slots, workloads: [aWorkload({ policy: { parked: 1 }, demand: waits })] }));

  expect(actions[0]).toMatchObject({ do: 'restore', slot: 'on-b' });
  expect(actions).toContainEqual({ do: 'pull', node: 'a', workload: 'web', digest: DIGEST, from: 'b' });
});

test('a waiting request waits for a core where the snapshot is, rather than start cold elsewhere', () => {
  const nodes = [aNode({ name: 'a', trials: 2 }), aNode({ name: 'b', machineClass: 'arm' })];
  const slots = [aSlot('on-a', 'parked', { node: 'a' }), aSlot('on-b', 'parked', { node: 'b' })];

  const actions = planned(aState({ nodes, slots, workloads: [aWorkload({ policy: { max: 2 }, demand: waits })] }));

  expect(actions.filter((one) => one.do === 'restore')).toEqual([]);
});

test('where no node with the snapshot has room, the request is not kept waiting: its agent pulls or starts cold', () => {
  const nodes = [aNode({ name: 'a', maxInstances: 0 }), aNode({ name: 'b', snapshots: new Set() })];
  const state = aState({ nodes, slots: [aSlot('s', 'parked', { node: 'b' })], workloads: [aWorkload({ demand: waits })] });

  expect(planned(state)[0]).toMatchObject({ do: 'restore', slot: 's', snapshot: DIGEST });
});

test('without a snapshot the first waiting request makes the seed, and those that it cannot serve start cold', () => {
  const demand = { waiting: 2, oldestWaitingMs: 5 };
  const state = aState({ slots: [aSlot('s', 'parked')], workloads: [aWorkload({ snapshots: new Map(), demand })] });

  const actions = planned(state);

  expect(actions.filter((one) => one.do === 'restore' || one.do === 'warm')).toEqual([
    { do: 'restore', slot: 's', node: 'a', workload: 'web', snapshot: undefined, why: 'waiting' },
    { do: 'warm', node: 'a', workload: 'web', machineClass: 'x86' },
  ]);
});

test('a seed that is being made is not asked for twice, unless its node died', () => {
  const warming = aWorkload({ policy: { min: 1 }, snapshots: new Map([['x86', { at: 'warming', node: 'b' }]]) });
  const nodes = (alive: boolean) => [aNode({ name: 'a' }), aNode({ name: 'b', alive })];

  expect(planned(aState({ nodes: nodes(true), workloads: [warming] })).filter((one) => one.do === 'warm')).toEqual([]);
  expect(planned(aState({ nodes: nodes(false), workloads: [warming] })).filter((one) => one.do === 'warm')).toHaveLength(1);
});

test('a snapshot that no node alive has is made anew', () => {
  const nodes = [aNode({ name: 'a', snapshots: new Set() }), aNode({ name: 'b', alive: false })];

  expect(named(planned(aState({ nodes, workloads: [aWorkload({ policy: { min: 1 } })] })))).toContain('warm a');
});

test('an instance ends once it was idle for the idle time, and never with requests in flight', () => {
  const slots = [
    aSlot('long-idle', 'live'),
    aSlot('just-idle', 'live', { lastUsedMs: NOW - 1_000 }),
    aSlot('busy', 'live', { inFlight: 1 }),
    aSlot('cold', 'cold'),
  ];
  const workloads = [aWorkload({ demand: { inFlight: 1, stableAverage: 1, burstAverage: 1 } })];

  expect(named(planned(aState({ slots, workloads })))).toEqual(['end long-idle', 'remove cold']);
});

test('what nobody has used for the idle time goes, although the windows remember demand', () => {
  const remembered = { stableAverage: 0.3, burstAverage: 0, ratePerSecond: 0.1 };
  const workloads = [aWorkload({ demand: remembered })];

  expect(named(planned(aState({ slots: [aSlot('long-idle', 'live')], workloads })))).toEqual(['end long-idle']);
  expect(planned(aState({ slots: [aSlot('just-idle', 'live', { lastUsedMs: NOW - 1_000 })], workloads }))).toEqual([]);
});

test('an idle instance with state is suspended, also one that started cold', () => {
  const slots = [aSlot('live', 'live'), aSlot('cold', 'cold')];

  const actions = named(planned(aState({ slots, workloads: [aWorkload({ policy: { stateful: true } })] })));

  expect(actions.toSorted()).toEqual(['suspend cold', 'suspend live']);
});

test('during a burst nothing ends, although demand has gone', () => {
  const workload = aWorkload({ burst: { lastMs: NOW - 1_000, instances: 3 } });
  const slots = ['1', '2', '3'].map((uid) => aSlot(uid, 'live'));

  expect(planned(aState({ slots, workloads: [workload] }))).toEqual([]);
  expect(planned(aState({ slots, workloads: [{ ...workload, burst: { lastMs: NOW - 60_000, instances: 3 } }] }))).toHaveLength(3);
});

test('a stateful instance is suspended, and what it holds is woken before any other slot', () => {
  const policy = { stateful: true };
  const idle = aState({ slots: [aSlot('s', 'live')], workloads: [aWorkload({ policy })] });
  const asleep = aState({
    slots: [aSlot('parked', 'parked'), aSlot('with-state', 'suspended', { suspended: 'sha256:state' })],
    workloads: [aWorkload({ policy, demand: waits })],
  });

  expect(named(planned(idle))).toEqual(['suspend s']);
  expect(planned(asleep)[0]).toMatchObject({ do: 'restore', slot: 'with-state', snapshot: 'sha256:state' });
});

test('a failed slot is replaced at once, and removed when it has been seen', () => {
  const failed = (sinceMs: number) =>
    aState({ slots: [aSlot('f', 'failed', { sinceMs })], workloads: [aWorkload({ policy: { parked: 2 } })] });

  expect(named(planned(failed(NOW)))).toEqual(['park web@a#1']);
  expect(named(planned(failed(NOW - FAILED_KEPT_MS)))).toEqual(['park web@a#1', 'park web@a#2', 'remove f']);
});

test('while slots fail as fast as they are made, those that wait have no more made until they have been seen', () => {
  const state = (failed: number, sinceMs: number) => {
    const slots = Array.from({ length: failed }, (_, i) => aSlot(`f${i}`, 'failed', { sinceMs }));
    return aState({ slots, workloads: [aWorkload({ policy: { max: 2 }, demand: { waiting: 3, oldestWaitingMs: 5 } })] });
  };
  const made = (of: PoolState) => named(planned(of)).filter((one) => one.startsWith('park'));

  expect(made(state(3, NOW))).toEqual(['park web@a#1', 'park web@a#2']);
  expect(made(state(4, NOW))).toEqual([]);
  expect(made(state(4, NOW - FAILED_KEPT_MS))).toEqual(['park web@a#1', 'park web@a#2']);
});

test('the slots of a dead node do not count, and nothing is asked of it', () => {
  const nodes = [aNode({ name: 'a', alive: false }), aNode({ name: 'b' })];
  const slots = [aSlot('dead', 'live', { node: 'a' }), aSlot('s', 'parked', { node: 'b' })];

  const actions = planned(aState({ nodes, slots, workloads: [aWorkload({ policy: { min: 1, parked: 1 } })] }));

  expect(named(actions)).toEqual(['restore s', 'park web@b#1']);
});

test('a workload with nothing gets room from one that has more than its share: idle instances at once, busy ones drained', () => {
  const nodes = [aNode({ maxInstances: 2 })];
  const hog = aWorkload({ name: 'hog', policy: { min: 2 } });
  const poor = aWorkload({ name: 'poor', demand: waits });
  const hogs = (inFlight: number) => ['h1', 'h2'].map((uid) => aSlot(uid, 'live', { workload: 'hog', inFlight }));
  const slots = [aSlot('p', 'parked', { workload: 'poor' })];

  expect(named(planned(aState({ nodes, slots: [...hogs(0), ...slots], workloads: [hog, poor] })))).toEqual(['end h1']);
  expect(named(planned(aState({ nodes, slots: [...hogs(1), ...slots], workloads: [hog, poor] })))).toEqual(['drain h1']);
});

test('slots of a workload that is not listed are left alone', () => {
  expect(planned(aState({ slots: [aSlot('s', 'parked', { workload: 'unknown' })], workloads: [] }))).toEqual([]);
});

test('what is above a lowered max goes at once if it is idle', () => {
  const slots = ['1', '2'].map((uid) => aSlot(uid, 'live', { lastUsedMs: NOW }));

  expect(named(planned(aState({ slots, workloads: [aWorkload({ policy: { max: 1 } })] })))).toEqual(['end 1']);
});
