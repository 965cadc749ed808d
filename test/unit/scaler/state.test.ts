import { expect, test } from 'vitest';
import { emptyWindow, observe } from '../../../src/pool/demand.ts';
import { DEFAULT_MEMORY_BYTES, type Memory, poolStateOf } from '../../../src/scaler/state.ts';
import { aGatewayTruth, aNodeTruth, aSlotTruth, aView, aWorkloadTruth, DIGEST } from '../../fixtures/truths.ts';

const NOW = 100_000;
const HEARD = NOW - 200;
const MIB = 1024 * 1024;

function aMemory(memory: Partial<Memory> = {}): Memory {
  return { windows: new Map(), bursts: new Map(), lastUsed: new Map(), draining: new Set(), held: new Set(), ...memory };
}

function aSnapshot(digest = DIGEST, createdAtMs = 1) {
  return { digest, workload: 'web', totalBytes: 1, freezeMs: 1, createdAtMs, memoryBytes: 30 * MIB };
}

function stateOf(said: Parameters<typeof aView>[0], memory = aMemory()) {
  return poolStateOf(aView(said, HEARD), said.workloads ?? [aWorkloadTruth()], memory, NOW);
}

test("ages become times of the scaler's own clock", () => {
  const { slots } = stateOf({ nodes: [aNodeTruth({ slots: [aSlotTruth({ state: 'restoring', ageMs: 30 })] })] });

  expect(slots).toMatchObject([{ uid: 'slot-1', node: 'a', state: 'restoring', sinceMs: HEARD - 30 }]);
});

test('what gateways say of a life of a slot counts for that life only', () => {
  const used = (id: string, parks: number, inFlight: number, idleMs: number) =>
    aGatewayTruth({ id, instances: [{ uid: 'slot-1', parks, inFlight, idleMs }] });
  const nodes = [aNodeTruth({ slots: [aSlotTruth({ state: 'live', parks: 2, ageMs: 50_000 })] })];

  const { slots } = stateOf({ nodes, gateways: [used('g', 2, 1, 0), used('h', 2, 2, 500), used('i', 1, 9, 0)] });

  expect(slots).toMatchObject([{ inFlight: 3, lastUsedMs: HEARD }]);
});

test('an instance that no gateway has used was last used when it became live', () => {
  const { slots } = stateOf({ nodes: [aNodeTruth({ slots: [aSlotTruth({ state: 'live', ageMs: 1_000 })] })] });

  expect(slots).toMatchObject([{ inFlight: 0, lastUsedMs: HEARD - 1_000 }]);
});

test('an instance that clients of a Service are connected to is in use', () => {
  const live = aSlotTruth({ state: 'live', ageMs: 50_000, connections: 2 });
  const parked = aSlotTruth({ uid: 'slot-2', ageMs: 50_000, connections: 2 });

  const { slots } = stateOf({ nodes: [aNodeTruth({ slots: [live, parked] })] });

  expect(slots.map(({ lastUsedMs }) => lastUsedMs)).toEqual([HEARD, 0]);
});

test('a parked slot keeps when it was last used; one that never had an application has no such time', () => {
  const slot = (uid: string, parks: number) => aSlotTruth({ uid, parks, ageMs: 100 });
  const nodes = [aNodeTruth({ slots: [slot('remembered', 1), slot('of another leader', 1), slot('new', 0)] })];

  const { slots } = stateOf({ nodes }, aMemory({ lastUsed: new Map([['remembered', 42]]) }));

  expect(slots.map(({ lastUsedMs }) => lastUsedMs)).toEqual([42, HEARD - 100, 0]);
});

test('draining is of one life of a slot', () => {
  const nodes = [aNodeTruth({ slots: [aSlotTruth({ state: 'live', parks: 2 })] })];

  expect(stateOf({ nodes }, aMemory({ draining: new Set(['slot-1 2']) })).slots).toMatchObject([{ draining: true }]);
  expect(stateOf({ nodes }, aMemory({ draining: new Set(['slot-1 1']) })).slots).toMatchObject([{ draining: false }]);
});

test('a node that is leaving is not asked for anything, and a snapshot in quarantine is none', () => {
  const snapshots = [aSnapshot('b'.repeat(64)), { ...aSnapshot(), quarantined: 'it failed' }];

  const { nodes } = stateOf({ nodes: [aNodeTruth({ leaving: true, snapshots })] });

  expect(nodes).toMatchObject([{ alive: false, snapshots: new Set(['b'.repeat(64)]) }]);
});

test('of a class counts the best that any node says of the current revision, and the newest snapshot', () => {
  const phase = (revision: string, at: 'none' | 'warming' | 'ready' | 'refused', digest?: string) => [
    { workload: 'web', revision, at, ...(digest === undefined ? {} : { digest }) },
  ];
  const newer = 'f'.repeat(64);
  const nodes = [
    aNodeTruth({ name: 'a', phases: phase('r1', 'ready', DIGEST), snapshots: [aSnapshot(DIGEST, 1)] }),
    aNodeTruth({ name: 'b', phases: phase('r1', 'ready', newer), snapshots: [aSnapshot(newer, 2)] }),
    aNodeTruth({ name: 'c', phases: phase('r1', 'refused') }),
    aNodeTruth({ name: 'd', machineClass: 'arm', phases: phase('r1', 'warming') }),
    aNodeTruth({ name: 'e', machineClass: 'old', phases: phase('r0', 'ready', DIGEST) }),
    aNodeTruth({ name: 'f', machineClass: 'none', phases: phase('r1', 'none') }),
  ];

  const { workloads } = stateOf({ nodes });

  expect(workloads[0]?.snapshots).toEqual(
    new Map<string, unknown>([
      ['x86', { at: 'ready', digest: newer }],
      ['arm', { at: 'warming', node: 'd' }],
    ]),
  );
});

test('where seeds failed, slots start cold for a while', () => {
  const { workloads } = stateOf({ nodes: [aNodeTruth()] }, aMemory({ held: new Set(['web x86']) }));

  expect(workloads[0]?.snapshots.get('x86')).toEqual({ at: 'refused' });
});

test('memory of an instance: the snapshot, else the limit, else a guess', () => {
  const ready = aNodeTruth({ phases: [{ workload: 'web', revision: 'r1', at: 'ready', digest: DIGEST }], snapshots: [aSnapshot()] });
  const withoutLimit = aWorkloadTruth();
  const { memoryMiB: _, ...container } = withoutLimit.spec.container;

  const bytes = (said: Parameters<typeof aView>[0]) => stateOf(said).workloads[0]?.memoryBytes;

  expect(bytes({ nodes: [ready] })).toBe(30 * MIB);
  expect(bytes({ nodes: [] })).toBe(64 * MIB);
  expect(bytes({ workloads: [{ ...withoutLimit, spec: { ...withoutLimit.spec, container } }] })).toBe(DEFAULT_MEMORY_BYTES);
});

test('demand is that of all gateways together, and who waits goes on waiting while nothing is heard', () => {
  const demand = (id: string, waiting: number, oldestWaitingMs: number) =>
    aGatewayTruth({ id, demand: [{ workload: 'web', inFlight: 2, waiting, oldestWaitingMs, arrivals: 5 }] });
  const windows = new Map([['web', observe(emptyWindow(60_000), { atMs: NOW, concurrency: 8, arrivals: 3 })]]);

  const { workloads } = stateOf({ gateways: [demand('g', 1, 100), demand('h', 3, 50)] }, aMemory({ windows }));

  expect(workloads[0]?.demand).toMatchObject({ inFlight: 4, waiting: 4, oldestWaitingMs: 300, stableAverage: 8, ratePerSecond: 3 });
});

test('the policy is what the file says, in milliseconds', () => {
  const { workloads } = stateOf({
    workloads: [aWorkloadTruth({ min: 1, max: 4, targetConcurrency: 5, idleSeconds: 2 })],
  });

  expect(workloads[0]?.policy).toMatchObject({ min: 1, max: 4, targetConcurrency: 5, idleMs: 2_000, stableWindowMs: 60_000 });
});

test('a workload that is no longer in the file goes away', () => {
  const { workloads } = stateOf({ nodes: [aNodeTruth({ slots: [aSlotTruth({ workload: 'old' })] })] });

  expect(workloads).toMatchObject([{ name: 'web' }, { name: 'old', policy: { min: 0, max: 0, parked: 0 } }]);
});

test('a slot of an old description is woken no more, and serves on if it has an application', () => {
  const slots = [aSlotTruth({ uid: 'parked', outdated: true }), aSlotTruth({ uid: 'live', state: 'live', outdated: true })];

  expect(stateOf({ nodes: [aNodeTruth({ slots })] }).slots.map(({ uid }) => uid)).toEqual(['live']);
});

test('in a cluster there may be as many instances as there are pods, none is made, and slots of a workload that is gone are left alone', () => {
  const web = { ...aWorkloadTruth({ max: 2, parked: 5, min: 1 }), name: 'shop.web', mode: 'on-demand' as const };
  const slots = ['a', 'b', 'c'].map((uid) => aSlotTruth({ uid, workload: 'shop.web' }));
  const gone = aSlotTruth({ uid: 'd', workload: 'shop.old' });

  const { workloads } = stateOf({ nodes: [aNodeTruth({ slots: [...slots, gone] })], workloads: [web] });

  expect(workloads).toMatchObject([{ name: 'shop.web', policy: { fixed: true, min: 1, max: 3, parked: 0 } }]);
  expect(workloads[0]?.spread).toBeUndefined();
});

test('of ordinary pods nothing is planned but where their snapshot should be', () => {
  const web = { ...aWorkloadTruth({ min: 1 }), name: 'shop.web', mode: 'restore' as const };
  const pod = { uid: 'p', name: 'web-1', workload: 'shop.web', state: 'live' as const, ageMs: 1, ready: true };

  const { workloads } = stateOf({ nodes: [aNodeTruth({ name: 'a', pods: [pod] }), aNodeTruth({ name: 'b' })], workloads: [web] });

  expect(workloads).toMatchObject([{ policy: { fixed: true, min: 0, max: 0 }, spread: new Set(['a']) }]);
});

test('a node without room for what a pod asked for is asked for nothing more', () => {
  const { nodes } = stateOf({ nodes: [aNodeTruth({ name: 'a' }), aNodeTruth({ name: 'b' })] }, aMemory({ full: new Set(['a']) }));

  expect(nodes.map(({ maxInstances }) => maxInstances)).toEqual([0, 10]);
});
