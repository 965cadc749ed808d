import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Static, Type } from 'typebox';
import { Value } from 'typebox/value';
import { expect, test } from 'vitest';
import { ApiNode, ApiPool } from '../../src/gateway/schemas.ts';
import { monotonicClock } from '../../src/lib/clock.ts';
import { startService } from '../../src/lib/exec.ts';
import { silentLog } from '../../src/lib/log.ts';
import { RedisServer } from '../../src/queue/redis-server.ts';
import { openSharedView } from '../../src/queue/shared-view.ts';
import { CommandLine } from '../fixtures/command-line.ts';
import { TestRedis } from '../fixtures/redis.ts';
import { aGatewayTruth, aNodeTruth, aSlotTruth, aWorkloadTruth } from '../fixtures/truths.ts';
import { until } from '../fixtures/until.ts';
import { nodeService, Up } from '../fixtures/up.ts';

/** `rekindle status` of a machine that is part of a service. */

const YAML = `workloads:${nodeService('web', "response.end('hello');", { policy: 'pool: { idleSeconds: 600, max: 2, parked: 1 }' })}`;

// What the README says of `service` in `status --json`.
const Service = Type.Object(
  {
    redis: Type.String(),
    connected: Type.Boolean(),
    scaler: Type.Optional(Type.String()),
    gateways: Type.Array(Type.String()),
    pools: Type.Array(ApiPool),
    nodes: Type.Array(ApiNode),
  },
  { additionalProperties: false },
);
const Status = Type.Object({
  instances: Type.Array(Type.Object({ name: Type.String(), state: Type.Object({ at: Type.Literal('pooled'), slot: Type.String() }) })),
  service: Service,
});

function statusOf(value: unknown): Static<typeof Status> {
  if (!Value.Check(Status, value))
    throw new Error(`${JSON.stringify(Value.Errors(Status, value).slice(0, 3))} in ${JSON.stringify(value)}`);
  return value;
}

async function testRedis(): Promise<TestRedis> {
  const dir = await mkdtemp(join(tmpdir(), 'rekindle-status-'));
  return new TestRedis(dir, await RedisServer.start(dir, { startService, clock: monotonicClock }));
}

test('shows the service that runs here, without REDIS_URL, as JSON, in words, and again every second', { timeout: 120_000 }, async () => {
  await using up = await Up.start(YAML);
  // Without a request: a second instance would start cold for one that comes before the seed is ready.
  await up.slots('web', 'the snapshot', (slots, pool) => pool.phase === 'ready' && slots.some(({ state }) => state === 'parked'), 60_000);

  const { service, instances } = statusOf(await up.cli.json('status'));
  const { stdout: words } = await up.cli.run('status');
  const watching = up.cli.start(['status', '--watch']);
  await until('a second block', () => watching.stdout.split('POOL ').length > 2);
  const { status, stdout } = await watching.end('SIGINT');

  expect(service).toMatchObject({ connected: true, redis: `unix:${up.cli.env.REKINDLE_RUN_DIR}/redis/redis.sock`, gateways: [up.url] });
  expect(service.scaler).toBeDefined();
  expect(service.pools).toMatchObject([{ workload: 'web', phase: 'ready', inFlight: 0, waiting: 0 }]);
  const slots = service.pools[0]?.slots ?? [];
  expect(slots.map(({ state }) => state).sort()).toEqual(['cold', 'parked']);
  expect(service.nodes).toMatchObject([{ slots: 2, instances: 1, snapshots: 1, leaving: false }]);
  // The machine's own list says the same of them.
  expect(instances.map(({ name, state }) => [name, state.slot]).sort()).toEqual(slots.map(({ name, state }) => [name, state]).sort());
  expect(words).toMatch(/\nweb-\w+ .* of a pool: parked\n/);
  expect(words).toMatch(/^service: gateway http:\S+; a scaler leads; through unix:/);
  expect(words).toMatch(/POOL +DESIRED +LIVE +COLD.*\nweb +\d +0 +1 +0 +1 .*ready [0-9a-f]{12}\n/);
  // To no terminal no escape codes.
  expect(stdout).not.toContain('\x1b');
  expect(status).toBe(0);
});

test('reads what was told to the Redis of REDIS_URL, tells nothing itself, and says at once when it is away', async () => {
  await using cli = await CommandLine.open(YAML);
  await using redis = await testRedis();
  await using view = openSharedView({ redis: redis.connect(), log: silentLog, clock: monotonicClock });
  const slots = [aSlotTruth({ uid: '1', name: 'web-1', state: 'live' }), aSlotTruth({ uid: '2', name: 'web-2', state: 'suspended' })];
  const phases = [{ workload: 'web', revision: 'r1', at: 'refused' as const, reason: 'it maps\n\x1b[31m a device' }];
  await using _node = view.tellNode(() => aNodeTruth({ slots, phases }));
  await using _workloads = view.tellWorkloads(() => [aWorkloadTruth()]);
  const demand = [{ workload: 'web', inFlight: 3, waiting: 4, oldestWaitingMs: 5, arrivals: 6 }];
  await using _gateway = view.tellGateway(() => aGatewayTruth({ url: 'http://127.0.0.1:1', demand }));
  await until('all is told', () => view.view.nodes.size + view.view.gateways.size === 2 && view.view.workloads !== undefined);
  const env = { REDIS_URL: redis.url };
  const keys = async () => ((await redis.command('KEYS', '*')) as string[]).sort();
  const before = await keys();

  const there = await cli.start(['status'], { env }).ended;
  const after = await keys();
  await redis.kill();
  const startedAt = performance.now();
  const away = await cli.start(['status', '--json'], { env }).ended;
  const tookMs = performance.now() - startedAt;
  const inWords = await cli.start(['status'], { env }).ended;

  expect(there.stdout).toMatch(/^service: gateway http:\/\/127\.0\.0\.1:1; no scaler leads/);
  expect(there.stdout).toMatch(/\nweb +0 +1 +0 +0 +0 +1 +0 +3 +4 +refused: it maps \[31m a device\n/);
  expect(after).toEqual(before);
  expect(statusOf(JSON.parse(away.stdout)).service).toEqual({
    ...{ redis: redis.url, connected: false },
    ...{ gateways: [], pools: [], nodes: [] },
  });
  expect([away.status, away.stderr]).toEqual([0, '']);
  expect(tookMs).toBeLessThan(6_000);
  expect(inWords.stdout).toContain(`service: Redis at ${redis.url} does not answer\n`);
});
