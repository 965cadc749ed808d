import { expect, test } from 'vitest';
import type { AgentEvent, InstanceState } from '../../../src/agent/events.ts';
import { countEvents, countJobs, viewFacts } from '../../../src/commands/role-metrics.ts';
import { Metrics } from '../../../src/lib/metrics.ts';
import { aNode, aSlot, aWorkload } from '../../fixtures/fake-view.ts';
import { valueIn } from '../../fixtures/metrics.ts';

const instance = (state: InstanceState): AgentEvent => ({ type: 'instance', uid: 'u', name: 'web-u', workload: 'web', state });

test('an agent’s events are counted: live and cold instances, snapshots and their failures', async () => {
  const metrics = new Metrics({ role: 'agent' });
  const count = countEvents(metrics);
  const timing = { decidedMs: 2, filesMs: 5, criuMs: 30, restoredMs: 45, readyMs: 50 };

  count(instance({ at: 'restoring', snapshot: 's' }));
  count(instance({ at: 'live', snapshot: 's', timing }));
  count(instance({ at: 'cold', why: 'failed', code: 'verify_failed', reason: 'the restore failed' }));
  count(instance({ at: 'cold', why: 'policy', reason: 'NAME differs' }));
  count({ type: 'snapshot', workload: 'web', digest: 'd', specHash: 'h', freezeMs: 70, totalBytes: 1, warnings: [] });
  count({ type: 'checkpoint-failed', workload: 'web', specHash: 'h', code: 'dump_failed', reason: 'so' });

  expect(await valueIn(metrics, 'rekindle_restores_total', { outcome: 'live' })).toBe(1);
  expect(await valueIn(metrics, 'rekindle_restores_total', { outcome: 'cold' })).toBe(1);
  expect(await valueIn(metrics, 'rekindle_restore_phase_seconds_sum', { phase: 'ready' })).toBeCloseTo(0.05);
  expect(await valueIn(metrics, 'rekindle_cold_starts_total', { reason: 'verify_failed' })).toBe(1);
  expect(await valueIn(metrics, 'rekindle_cold_starts_total', { reason: 'policy' })).toBe(1);
  expect(await valueIn(metrics, 'rekindle_freeze_seconds_sum')).toBeCloseTo(0.07);
  expect(await valueIn(metrics, 'rekindle_checkpoints_total', { outcome: 'dump_failed' })).toBe(1);
});

test('jobs are counted by name', async () => {
  const metrics = new Metrics({ role: 'agent' });
  const { onStart, onEnd } = countJobs(metrics);
  const job = { name: 'warm', data: { workload: 'web' } } as const;

  onStart(job, 4);
  onEnd(job, 'done');

  expect(await valueIn(metrics, 'rekindle_queue_wait_seconds_sum', { job_name: 'warm' })).toBeCloseTo(0.004);
  expect(await valueIn(metrics, 'rekindle_jobs_total', { job_name: 'warm', outcome: 'done' })).toBe(1);
});

test('the shared view is told as what all nodes and gateways said', () => {
  const snapshot = { digest: 'd', workload: 'web', totalBytes: 9, freezeMs: 1, createdAtMs: 0, memoryBytes: 1, quarantined: 'failed' };
  const node = { ...aNode('a'), slots: [aSlot('web', { state: 'parked' })], snapshots: [snapshot] };
  const demand = [{ workload: 'web', inFlight: 1, waiting: 2, oldestWaitingMs: 3, arrivals: 4 }];

  const facts = viewFacts({
    nodes: new Map([['a', { said: node, heardAtMs: 0 }]]),
    gateways: new Map([['g', { said: { id: 'g', url: 'http://g', demand, instances: [] }, heardAtMs: 0 }]]),
    scaler: { said: { id: 's', draining: [], desired: { web: 2 }, bursts: [] }, heardAtMs: 0 },
    workloads: new Map([['web', aWorkload('web')]]),
  });

  expect([...facts.workloads]).toEqual(['web']);
  expect([...facts.slots]).toMatchObject([{ workload: 'web', state: 'parked' }]);
  expect([...facts.snapshots]).toEqual([{ workload: 'web', totalBytes: 9, quarantined: true }]);
  expect([...facts.demand]).toMatchObject([{ workload: 'web', waiting: 2, inFlight: 1 }]);
  expect(facts.desired).toEqual({ web: 2 });
});
