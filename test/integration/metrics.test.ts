import { expect, test } from 'vitest';
import { CommandLine, type Running } from '../fixtures/command-line.ts';
import { valueInText } from '../fixtures/metrics.ts';
import { startRedis } from '../fixtures/redis.ts';
import { until } from '../fixtures/until.ts';
import { nodeService } from '../fixtures/up.ts';

const WEB = `workloads:${nodeService('web', "response.end('ok');", {
  policy: 'pool: { idleSeconds: 1, max: 1, parked: 1 }',
  // The first request is there before the seed, which the scaler starts by itself, is ready.
  start: 'Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2000);',
})}`;

/** The URL that a role says after `words`. */
async function urlOf(role: Running, words: string): Promise<string> {
  return until(`a line with ${words}; it said: ${role.stderr}`, () => new RegExp(`${words} (http://\\S+)`).exec(role.stderr)?.[1], 30_000);
}

/** One value of a role's metrics. */
async function asked(url: string, series: string, labels: Readonly<Record<string, string>> = {}): Promise<number | undefined> {
  return valueInText(await (await fetch(`${url}/metrics`)).text(), series, labels);
}

test('a cold start, its snapshot and a restore show in the metrics of each role; without Redis a role says why it is not ready', {
  timeout: 180_000,
}, async () => {
  await using redis = await startRedis();
  await using cli = await CommandLine.open(WEB);
  await using roles = new AsyncDisposableStack();
  const start = (...args: string[]) => {
    const role = cli.start(args, { env: { REDIS_URL: redis.url } });
    roles.defer(async () => void (await role.end('SIGTERM')));
    return role;
  };
  const agent = start('agent', '--node', 'one', '--listen', '127.0.0.1:0');
  const scaler = start('scaler', '--listen', '127.0.0.1:0');
  const gateway = start('gateway', '--listen', '127.0.0.1:0');
  const [agentUrl, scalerUrl, gatewayUrl] = await Promise.all([
    urlOf(agent, 'health and metrics at'),
    urlOf(scaler, 'health and metrics at'),
    urlOf(gateway, 'gateway:'),
  ]);
  const ready = async (url: string) => (await fetch(`${url}/readyz`)).ok;
  await until(
    'every role to be ready',
    async () => (await Promise.all([agentUrl, scalerUrl, gatewayUrl].map(ready))).every(Boolean),
    60_000,
  );
  const invoke = async () => {
    const answer = await fetch(`${gatewayUrl}/invoke/web/`);
    expect(await answer.text()).toBe('ok');
    return answer.headers.get('rekindle-start');
  };

  const first = await until('the workload to be known', async () => {
    const answer = await fetch(`${gatewayUrl}/invoke/web/`);
    await answer.text();
    return answer.ok && answer.headers.get('rekindle-start');
  });
  await until('its snapshot', () => asked(agentUrl, 'rekindle_checkpoints_total', { outcome: 'published' }), 60_000);
  await until(
    'a parked slot',
    async () => (await asked(scalerUrl, 'rekindle_pool_slots', { workload: 'web', state: 'parked' })) === 1,
    60_000,
  );
  const second = await invoke();

  expect([first, second]).toEqual(['cold', 'restore']);
  expect(await asked(agentUrl, 'rekindle_cold_starts_total', { workload: 'web', reason: 'seed' })).toBe(1);
  expect(await asked(agentUrl, 'rekindle_freeze_seconds_count')).toBe(1);
  expect(await until('the restore', () => asked(agentUrl, 'rekindle_restores_total', { workload: 'web', outcome: 'live' }))).toBe(1);
  const readySum = await asked(agentUrl, 'rekindle_restore_phase_seconds_sum', { phase: 'ready' });
  expect(readySum).toBeGreaterThan(0.005);
  expect(readySum).toBeLessThan(10);
  expect(await asked(agentUrl, 'rekindle_queue_wait_seconds_count', { job_name: 'restore' })).toBe(1);
  await until('the job to be counted', () => asked(agentUrl, 'rekindle_jobs_total', { job_name: 'restore', outcome: 'done' }));
  expect(await asked(gatewayUrl, 'rekindle_request_seconds_count', { workload: 'web', start: 'restore', status: '2xx' })).toBe(1);
  expect(await asked(gatewayUrl, 'rekindle_request_wait_seconds_count', { workload: 'web', outcome: 'served' })).toBe(2);
  expect(await asked(gatewayUrl, 'rekindle_snapshot_bytes', { workload: 'web' })).toBeGreaterThan(1e6);
  expect(await asked(scalerUrl, 'rekindle_actions_total', { action: 'restore' })).toBeGreaterThan(0);
  expect(await asked(scalerUrl, 'rekindle_plan_seconds_count')).toBeGreaterThan(0);
  expect(await asked(scalerUrl, 'rekindle_loop_passes_total', { loop: 'scaler', outcome: 'ok' })).toBeGreaterThan(0);
  expect(await asked(scalerUrl, 'rekindle_leader')).toBe(1);
  for (const url of [agentUrl, scalerUrl, gatewayUrl]) expect(await asked(url, 'rekindle_redis_connected')).toBe(1);

  await redis.kill();

  for (const url of [agentUrl, scalerUrl]) {
    const words = await until('it to be not ready', async () => {
      const answer = await fetch(`${url}/readyz`);
      const text = await answer.text();
      return answer.status === 503 && text;
    });
    expect(words).toContain('Redis does not answer');
    expect(await asked(url, 'rekindle_redis_connected')).toBe(0);
  }
  await redis.startAgain();
});
