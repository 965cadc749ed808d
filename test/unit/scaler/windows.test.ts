import { expect, test } from 'vitest';
import { average, ratePerSecond } from '../../../src/pool/demand.ts';
import { DemandWindows, SAMPLE_EVERY_MS } from '../../../src/scaler/windows.ts';
import { aGatewayTruth, aView, aWorkloadTruth } from '../../fixtures/truths.ts';

const workloads = [aWorkloadTruth()];

function viewWith(arrivals: number, { inFlight = 0, id = 'g' } = {}) {
  return aView({ gateways: [aGatewayTruth({ id, demand: [{ workload: 'web', inFlight, waiting: 1, oldestWaitingMs: 0, arrivals }] })] });
}

function windowOf(windows: DemandWindows) {
  const window = windows.windows.get('web');
  if (window === undefined) throw new Error('no window');
  return window;
}

test('what is in flight and what waits count alike, however often it is looked at', () => {
  const windows = new DemandWindows();

  windows.sample(viewWith(0, { inFlight: 3 }), workloads, 0);
  for (let now = 1; now < SAMPLE_EVERY_MS; now += 1) windows.sample(viewWith(0, { inFlight: 99 }), workloads, now);

  expect(average(windowOf(windows), SAMPLE_EVERY_MS, 60_000)).toBe(4);
});

test('arrivals are what came since the last look; what a new gateway had before is not known', () => {
  const windows = new DemandWindows();

  windows.sample(viewWith(1_000), workloads, 0);
  windows.sample(viewWith(1_010), workloads, 300);
  windows.sample(viewWith(50, { id: 'another' }), workloads, 600);
  windows.sample(viewWith(55, { id: 'another' }), workloads, 900);

  expect(ratePerSecond(windowOf(windows), 900, 60_000)).toBe(15);
});

test('a workload that went is forgotten', () => {
  const windows = new DemandWindows();
  windows.sample(viewWith(0), workloads, 0);

  windows.sample(viewWith(0), [], 1_000);

  expect(windows.windows.size).toBe(0);
});
