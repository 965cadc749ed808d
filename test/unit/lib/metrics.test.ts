import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { Metrics, type ViewFacts } from '../../../src/lib/metrics.ts';
import { everyMetric, valueIn } from '../../fixtures/metrics.ts';

const README = readFileSync(join(import.meta.dirname, '..', '..', '..', 'README.md'), 'utf8');
const SECTION = /^## Metrics$(.*?)^## /ms.exec(README)?.[1] ?? '';
const ALL = everyMetric();

test.each(ALL)('the README lists $name with its type, labels and meaning', ({ name, type, labels, help }) => {
  const shown = labels.map((label) => `\`${label}\``).join(', ') || '–';

  expect(SECTION).toContain(`| \`${name}\` | ${type} | ${shown} | ${help} |`);
});

test('the README lists no metric that does not exist', () => {
  const listed = [...SECTION.matchAll(/^\| `(\w+)`/gm)].map(([, name]) => name);

  expect(listed).toEqual(ALL.map(({ name }) => name));
});

test('names are ours and say their unit', () => {
  const wrong = ALL.filter(({ name, type }) => {
    const unit = { counter: /_total$/, histogram: /_seconds$/ }[type];
    return !name.startsWith('rekindle_') || unit?.test(name) === false;
  });

  expect(wrong).toEqual([]);
});

test('no label has a name that Prometheus gives itself', () => {
  const taken = ['job', 'instance', 'le', 'quantile', 'namespace', 'pod', 'container', 'node', 'service', 'endpoint'];

  expect(ALL.filter(({ labels }) => labels.some((label) => taken.includes(label)))).toEqual([]);
});

test('a live restore is counted with its phases, in seconds', async () => {
  const metrics = new Metrics({ role: 'agent' });

  metrics.restored('web', { decided: 0.002, files: 0.01, criu: 0.03, restored: 0.045, ready: 0.05 });
  metrics.restored('web', { decided: 0.002, files: 0.01, criu: 0.03, restored: 0.055, ready: undefined });

  expect(await valueIn(metrics, 'rekindle_restores_total', { workload: 'web', outcome: 'live' })).toBe(2);
  expect(await valueIn(metrics, 'rekindle_restore_phase_seconds_sum', { phase: 'restored' })).toBeCloseTo(0.1);
  expect(await valueIn(metrics, 'rekindle_restore_phase_seconds_bucket', { phase: 'restored', le: '0.05' })).toBe(1);
  expect(await valueIn(metrics, 'rekindle_restore_phase_seconds_count', { phase: 'ready' })).toBe(1);
});

test('a cold start is a failed restore only where one was tried', async () => {
  const metrics = new Metrics({ role: 'agent' });

  metrics.startedCold('web', 'seed', { instead: false });
  metrics.startedCold('web', 'restore_failed', { instead: true });

  expect(await valueIn(metrics, 'rekindle_cold_starts_total', { workload: 'web', reason: 'seed' })).toBe(1);
  expect(await valueIn(metrics, 'rekindle_cold_starts_total', { workload: 'web', reason: 'restore_failed' })).toBe(1);
  expect(await valueIn(metrics, 'rekindle_restores_total', { workload: 'web', outcome: 'cold' })).toBe(1);
});

test('snapshots, pulls, jobs and loops are counted by how they end', async () => {
  const metrics = new Metrics({ role: 'agent' });

  metrics.snapshotMade('web', 0.07);
  metrics.snapshotFailed('web', 'dump_refused');
  metrics.pulled('pulled', 5_000);
  metrics.pulled('not_found', 0);
  metrics.jobBegan('restore', 0.003);
  metrics.jobEnded('restore', 'again');
  metrics.passed('scaler', 'failed');

  expect(await valueIn(metrics, 'rekindle_checkpoints_total', { workload: 'web', outcome: 'published' })).toBe(1);
  expect(await valueIn(metrics, 'rekindle_checkpoints_total', { workload: 'web', outcome: 'dump_refused' })).toBe(1);
  expect(await valueIn(metrics, 'rekindle_freeze_seconds_sum')).toBeCloseTo(0.07);
  expect(await valueIn(metrics, 'rekindle_pulls_total', { outcome: 'not_found' })).toBe(1);
  expect(await valueIn(metrics, 'rekindle_pulled_bytes_total')).toBe(5_000);
  expect(await valueIn(metrics, 'rekindle_queue_wait_seconds_sum', { job_name: 'restore' })).toBeCloseTo(0.003);
  expect(await valueIn(metrics, 'rekindle_jobs_total', { job_name: 'restore', outcome: 'again' })).toBe(1);
  expect(await valueIn(metrics, 'rekindle_loop_passes_total', { loop: 'scaler', outcome: 'failed' })).toBe(1);
});

test('requests are counted by the class of their status, and apart when the client had gone', async () => {
  const metrics = new Metrics({ role: 'gateway' });

  metrics.answered({ workload: 'web', start: 'warm', status: 204 }, 0.001);
  metrics.answered({ workload: 'web', start: 'none', status: 503 }, 0.001);
  metrics.answered({ workload: 'web', start: 'restore', status: 0 }, 0.001);
  metrics.waited('web', 'deadline', 2);
  metrics.sentAgain('web');

  expect(await valueIn(metrics, 'rekindle_request_seconds_count', { workload: 'web', start: 'warm', status: '2xx' })).toBe(1);
  expect(await valueIn(metrics, 'rekindle_request_seconds_count', { workload: 'web', start: 'none', status: '5xx' })).toBe(1);
  expect(await valueIn(metrics, 'rekindle_request_seconds_count', { workload: 'web', start: 'restore', status: 'gone' })).toBe(1);
  expect(await valueIn(metrics, 'rekindle_request_wait_seconds_sum', { workload: 'web', outcome: 'deadline' })).toBe(2);
  expect(await valueIn(metrics, 'rekindle_requests_sent_again_total', { workload: 'web' })).toBe(1);
});

test('a plan is counted with each of its actions', async () => {
  const metrics = new Metrics({ role: 'scaler' });

  metrics.planned(0.004, ['restore', 'restore', 'park']);

  expect(await valueIn(metrics, 'rekindle_plan_seconds_count')).toBe(1);
  expect(await valueIn(metrics, 'rekindle_actions_total', { action: 'restore' })).toBe(2);
});

test('gauges say at every scrape what is so then', async () => {
  const metrics = new Metrics({ role: 'scaler' });
  let leads = true;
  let facts: ViewFacts = {
    workloads: ['web', 'idle'],
    slots: [
      { workload: 'web', state: 'live' },
      { workload: 'web', state: 'live' },
      { workload: 'web', state: 'parked' },
    ],
    snapshots: [
      { workload: 'web', totalBytes: 100, quarantined: false },
      { workload: 'web', totalBytes: 50, quarantined: true },
    ],
    demand: [
      { workload: 'web', waiting: 2, inFlight: 3 },
      { workload: 'web', waiting: 1, inFlight: 0 },
    ],
    desired: { web: 4 },
  };
  metrics.followLeader(() => leads);
  metrics.followRedis(() => false);
  metrics.followView(() => facts);

  expect(await valueIn(metrics, 'rekindle_leader')).toBe(1);
  expect(await valueIn(metrics, 'rekindle_redis_connected')).toBe(0);
  expect(await valueIn(metrics, 'rekindle_pool_slots', { workload: 'web', state: 'live' })).toBe(2);
  expect(await valueIn(metrics, 'rekindle_desired_instances', { workload: 'web' })).toBe(4);
  expect(await valueIn(metrics, 'rekindle_requests_waiting', { workload: 'web' })).toBe(3);
  expect(await valueIn(metrics, 'rekindle_requests_waiting', { workload: 'idle' })).toBe(0);
  expect(await valueIn(metrics, 'rekindle_requests_in_flight', { workload: 'web' })).toBe(3);
  expect(await valueIn(metrics, 'rekindle_snapshots', { workload: 'web' })).toBe(2);
  expect(await valueIn(metrics, 'rekindle_snapshot_bytes', { workload: 'web' })).toBe(150);
  expect(await valueIn(metrics, 'rekindle_snapshots_quarantined', { workload: 'web' })).toBe(1);

  leads = false;
  facts = { workloads: ['idle'], slots: [], snapshots: [], demand: [], desired: {} };

  expect(await valueIn(metrics, 'rekindle_leader')).toBe(0);
  expect(await valueIn(metrics, 'rekindle_pool_slots', { workload: 'web', state: 'live' })).toBeUndefined();
  expect(await valueIn(metrics, 'rekindle_requests_waiting', { workload: 'web' })).toBeUndefined();
});

test('what a process knows nothing of it does not tell as 0', async () => {
  const text = await new Metrics({ role: 'agent' }).registry.metrics();

  expect(text).toContain('rekindle_restores_total');
  expect(text).not.toMatch(/rekindle_(leader|redis_connected|pool_slots)/);
});
