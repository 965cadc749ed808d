import { expect, test } from 'vitest';
import { type NodeAction, type Order, orderOf } from '../../../src/scaler/jobs.ts';
import { Outstanding } from '../../../src/scaler/outstanding.ts';
import { aNodeTruth, aSlotTruth, aView, aWorkloadTruth, DIGEST } from '../../fixtures/truths.ts';

const AT = { node: 'a', workload: 'web' } as const;
const slot = aSlotTruth();
const before = aView({ nodes: [aNodeTruth({ slots: [slot] })], workloads: [aWorkloadTruth()] });

function order(action: NodeAction): Order {
  const found = orderOf(action, before.nodes);
  if (found === undefined) throw new Error('no order');
  return found;
}

const restore = order({ do: 'restore', ...AT, slot: 'slot-1', snapshot: DIGEST, why: 'waiting' });
const warm = order({ do: 'warm', ...AT, machineClass: 'x86' });
const park = order({ do: 'park', ...AT, slot: 'web@a#1' });
const seen = (node: Parameters<typeof aNodeTruth>[0]) => aView({ nodes: [aNodeTruth(node)], workloads: [aWorkloadTruth()] });

function queued(...orders: Order[]): Outstanding {
  const outstanding = new Outstanding();
  for (const one of orders) outstanding.add(one, 'agent-1', 0);
  return outstanding;
}

test('the job of an action names the life of the slot, and that of a park a uid of its own', () => {
  const end = order({ do: 'end', ...AT, slot: 'slot-1' });

  expect(restore.job).toEqual({ name: 'restore', data: { slot: 'slot-1', parks: 0, workload: 'web', snapshot: DIGEST, why: 'waiting' } });
  expect(end.job).toEqual({ name: 'remove', data: { slot: 'slot-1', parks: 0, park: true, why: 'idle' } });
  expect(park.job.data).toMatchObject({ slot: expect.stringMatching(/^[0-9a-f-]{36}$/), workload: 'web' });
  expect(park.action).toMatchObject({ slot: park.job.name === 'park' ? park.job.data.slot : '' });
  expect(orderOf({ do: 'end', ...AT, slot: 'gone' }, before.nodes)).toBeUndefined();
});

test('what is queued counts until the truth shows it', () => {
  const outstanding = queued(restore, warm, park);
  outstanding.settle(before, 10);
  expect(outstanding.actions).toHaveLength(3);

  outstanding.settle(seen({ slots: [aSlotTruth({ state: 'restoring' })] }), 20);
  expect(outstanding.actions).toEqual([warm.action, park.action]);

  const made = aSlotTruth({ uid: park.job.name === 'park' ? park.job.data.slot : '', state: 'making' });
  outstanding.settle(seen({ slots: [made], phases: [{ workload: 'web', revision: 'r1', at: 'warming' }] }), 30);
  expect(outstanding.actions).toEqual([]);
});

test('a later life of the slot shows it too, and so does its absence', () => {
  const later = queued(restore);
  const gone = queued(restore);

  later.settle(seen({ slots: [aSlotTruth({ parks: 1 })] }), 10);
  gone.settle(seen({ slots: [] }), 10);

  expect([...later.actions, ...gone.actions]).toEqual([]);
});

test('what a node says of an older description shows nothing', () => {
  const outstanding = queued(warm);

  outstanding.settle(seen({ slots: [slot], phases: [{ workload: 'web', revision: 'r0', at: 'ready', digest: DIGEST }] }), 10);

  expect(outstanding.actions).toEqual([warm.action]);
});

test('another agent, or none, has not got the job', () => {
  const another = queued(restore);
  const none = queued(restore);

  another.settle(seen({ agent: 'agent-2', slots: [slot] }), 10);
  none.settle(aView({}), 10);

  expect([...another.actions, ...none.actions]).toEqual([]);
});

test('the same is not asked for twice while it is under way, and after its deadline it is', () => {
  const outstanding = queued(restore);
  expect(outstanding.may(restore, 10)).toBe(false);

  outstanding.settle(before, 180_000);

  expect(outstanding.may(restore, 180_000)).toBe(true);
});

test('Redis is asked for jobs after half a second; one that it lost is asked for again at once', () => {
  const outstanding = queued(restore);

  expect(outstanding.due(499)).toEqual([]);
  const due = outstanding.due(500);
  expect(due).toMatchObject([{ node: 'a', id: 'restore.slot-1.0' }]);
  expect(outstanding.due(501)).toEqual([]);
  outstanding.forget(due[0]?.key ?? '', 510);

  expect(outstanding.actions).toEqual([]);
  expect(outstanding.may(restore, 510)).toBe(true);
});

test('what fails again and again is asked for ever more seldom', () => {
  const outstanding = new Outstanding();
  const tried: number[] = [];
  for (let now = 0; now < 120_000; now += 50) {
    if (outstanding.may(park, now)) {
      tried.push(now);
      outstanding.add(park, 'agent-1', now);
    }
    for (const { key } of outstanding.due(now)) outstanding.forget(key, now);
  }

  expect(tried.length).toBeGreaterThan(5);
  expect(tried.length).toBeLessThan(15);
});

test('several slots are made at once; only after one failed does the next wait', () => {
  const other = order({ do: 'park', ...AT, slot: 'web@a#2' });
  const outstanding = queued(park);

  expect(outstanding.may(other, 0)).toBe(true);
});

test('after a seed that failed the next one waits; after several, its class is held meanwhile', () => {
  const outstanding = new Outstanding();
  const fails = (now: number) => {
    outstanding.add(warm, 'agent-1', now);
    outstanding.settle(seen({ slots: [slot], phases: [{ workload: 'web', revision: 'r1', at: 'warming' }] }), now + 10);
    outstanding.settle(before, now + 20);
  };

  fails(0);
  expect(outstanding.may(warm, 200)).toBe(false);
  expect(outstanding.held(before, 200)).toEqual(new Set());
  expect(outstanding.may(warm, 500)).toBe(true);
  fails(1_000);
  fails(5_000);

  expect(outstanding.held(before, 5_100)).toEqual(new Set(['web x86']));
  expect(outstanding.may(warm, 7_000)).toBe(true);
  expect(outstanding.held(before, 7_000)).toEqual(new Set());
});

test('another agent has failed at nothing yet', () => {
  const outstanding = queued(warm);

  outstanding.settle(seen({ agent: 'agent-2' }), 10);

  expect(outstanding.may(warm, 10)).toBe(true);
});
