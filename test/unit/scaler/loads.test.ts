import { expect, test } from 'vitest';
import type { PodTruth, View } from '../../../src/queue/truth.ts';
import { type CountedPod, Loads, metricOf } from '../../../src/scaler/loads.ts';
import { aGatewayTruth, aNodeTruth, aSlotTruth, aView } from '../../fixtures/truths.ts';

function aPodTruth(pod: Partial<PodTruth> = {}): PodTruth {
  return { uid: 'p1', name: 'web-1', workload: 'shop.web', state: 'live', ageMs: 5, ready: true, ...pod };
}

function rig() {
  const clock = { nowMs: 0, now: () => clock.nowMs, sleep: async () => undefined };
  const view = { view: aView({ workloads: [] }) as View, connected: true };
  const state = { pods: new Map<string, CountedPod>() as ReadonlyMap<string, CountedPod> | undefined };
  const loads = new Loads({ view, pods: () => state.pods, clock });
  const look = async (nowMs: number) => {
    clock.nowMs = nowMs;
    await loads.reconcile();
  };
  const there = (...uids: string[]) => {
    state.pods = new Map(uids.map((uid) => [uid, { workload: 'shop.web', ready: true }]));
  };
  return { view, loads, state, look, there };
}

const demand = (inFlight: number, waiting: number) => ({ workload: 'shop.web', inFlight, waiting, oldestWaitingMs: 0, arrivals: 9 });

test('invocations are those of all gateways, connections those of all live pods', async () => {
  const { view, loads, look, there } = rig();
  there('p1', 'p2', 'p3', 's1');
  view.view = aView({
    nodes: [
      aNodeTruth({
        name: 'a',
        pods: [
          aPodTruth({ connections: 2 }),
          aPodTruth({ uid: 'p2', state: 'seed', connections: 3 }),
          aPodTruth({ uid: 'p4', state: 'waiting', connections: 0 }),
        ],
      }),
      aNodeTruth({
        name: 'b',
        pods: [aPodTruth({ uid: 'p3', state: 'parked', connections: 7 })],
        slots: [aSlotTruth({ uid: 's1', workload: 'shop.web', state: 'live', connections: 4 })],
      }),
    ],
    gateways: [aGatewayTruth({ id: 'g', demand: [demand(1, 2)] }), aGatewayTruth({ id: 'h', demand: [demand(10, 20)] })],
  });
  await look(0);

  const load = loads.all().get('shop.web');

  expect(load).toEqual({ invocations: 33, connections: 9 });
  expect(load && metricOf('rekindle_load', load)).toBe(42);
});

test('nothing is said before everybody has been heard, and while Redis is away', async () => {
  const { view, loads, look, state } = rig();
  await look(0);
  expect(loads.whyUnknown).toContain('still being heard');

  await look(2_500);
  expect(loads.whyUnknown).toBeUndefined();

  view.connected = false;
  expect(loads.whyUnknown).toContain('Redis');

  await look(3_000);
  view.connected = true;
  expect(loads.whyUnknown).toBeUndefined();

  state.pods = undefined;
  expect(loads.whyUnknown).toContain('API server');
});

test('a pod counts as before while its node is not heard, until it is gone or five minutes have passed', async () => {
  const { view, loads, look, there } = rig();
  there('p1', 'p2');
  view.view = aView({ nodes: [aNodeTruth({ pods: [aPodTruth({ connections: 5 }), aPodTruth({ uid: 'p2', connections: 6 })] })] });
  await look(0);

  view.view = aView({});
  await look(60_000);
  expect(loads.all().get('shop.web')?.connections).toBe(11);

  there('p2');
  await look(61_000);
  expect(loads.all().get('shop.web')?.connections).toBe(6);

  await look(300_001);
  expect(loads.all().get('shop.web')?.connections).toBeUndefined();
});

test('where no pod was ever counted nobody can tell; where all are parked it is zero', async () => {
  const { view, loads, look, there } = rig();
  there('p1');
  view.view = aView({ nodes: [aNodeTruth({ pods: [aPodTruth()] })] });
  await look(0);
  expect(loads.all().get('shop.web')?.connections).toBeUndefined();

  view.view = aView({ nodes: [aNodeTruth({ slots: [aSlotTruth({ uid: 'p1', workload: 'shop.web', state: 'parked' })] })] });
  await look(1_000);
  expect(loads.all().get('shop.web')?.connections).toBe(0);
});

test("a pod's connections are forgotten as soon as it is no longer live", async () => {
  const { view, loads, look, there } = rig();
  there('p1');
  view.view = aView({ nodes: [aNodeTruth({ slots: [aSlotTruth({ uid: 'p1', workload: 'shop.web', state: 'live', connections: 3 })] })] });
  await look(0);
  view.view = aView({ nodes: [aNodeTruth({ slots: [aSlotTruth({ uid: 'p1', workload: 'shop.web', state: 'ending' })] })] });
  await look(1_000);

  expect(loads.all().get('shop.web')?.connections).toBe(0);
});
