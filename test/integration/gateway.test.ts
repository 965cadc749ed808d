import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type RequestListener } from 'node:http';
import { createServer as createTcpServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Value } from 'typebox/value';
import { expect, test } from 'vitest';
import { runGateway } from '../../src/commands/run-gateway.ts';
import { runScaler } from '../../src/commands/run-scaler.ts';
import { readConfig } from '../../src/config.ts';
import { ApiState } from '../../src/gateway/schemas.ts';
import { silentLog } from '../../src/lib/log.ts';
import { FakeNode } from '../fixtures/fake-node.ts';
import { startRedis, type TestRedis } from '../fixtures/redis.ts';
import { until } from '../fixtures/until.ts';

const DRAIN_MS = 5_000;

/** Gateway, scaler and Redis as they run, and a node whose instances are HTTP servers instead of containers. */
class Service implements AsyncDisposable {
  readonly redis: TestRedis;
  readonly url: string;
  readonly #stack: AsyncDisposableStack;
  readonly #stop: AbortController;
  readonly #gateway: Promise<void>;

  private constructor(redis: TestRedis, url: string, gateway: Promise<void>, stop: AbortController, stack: AsyncDisposableStack) {
    this.redis = redis;
    this.url = url;
    this.#gateway = gateway;
    this.#stop = stop;
    this.#stack = stack;
  }

  static async start(listener: RequestListener, pool: Record<string, unknown>): Promise<Service> {
    const stack = new AsyncDisposableStack();
    const redis = stack.use(await startRedis());
    const dir = await mkdtemp(join(tmpdir(), 'rekindle-gateway-'));
    stack.defer(() => rm(dir, { recursive: true, force: true }));
    const file = join(dir, 'rekindle.yaml');
    await writeFile(
      file,
      JSON.stringify({ workloads: { demo: { container: { rootfs: 'host', command: ['/bin/true'], ports: [8080] }, pool } } }),
    );
    const serve = async () => {
      const server = createServer(listener).listen(0, '127.0.0.1');
      await once(server, 'listening');
      const address = server.address();
      const close = async () => {
        server.closeAllConnections();
        server.close();
      };
      return { address: `127.0.0.1:${typeof address === 'object' ? address?.port : 0}`, close };
    };
    stack.use(new FakeNode({ redis: redis.connect(), snapshots: true, serve }));
    const run = (role: (context: Parameters<typeof runGateway>[0]) => Promise<void>) => {
      const stop = new AbortController();
      const done = role({ config: readConfig({}), log: silentLog, signal: stop.signal, exitCode: 0 });
      stack.defer(async () => {
        stop.abort();
        await done;
      });
      return { stop, done };
    };
    run((context) => runScaler(context, { file, redis: redis.url }));
    const port = await freePort();
    const listen = { host: '127.0.0.1', port };
    const { stop, done } = run((context) => runGateway(context, { listen, redis: redis.url, drainMs: DRAIN_MS, forgetMs: 0 }));
    const url = `http://127.0.0.1:${port}`;
    await until('the gateway is ready', () =>
      fetch(`${url}/readyz`).then(
        (answer) => answer.ok,
        () => false,
      ),
    );
    return new Service(redis, url, done, stop, stack);
  }

  async state(): Promise<ApiState['pools'][number] | undefined> {
    const pools: unknown = await (await fetch(`${this.url}/api/pools`)).json();
    return Value.Parse(ApiState.properties.pools, pools)[0];
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#gateway;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}

async function freePort(): Promise<number> {
  const server = createTcpServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  return typeof address === 'object' ? (address?.port ?? 0) : 0;
}

const slowly: RequestListener = (_, response) => void setTimeout(() => response.end('ok'), 30);

test('a burst from zero is answered by restores, each request once', async () => {
  const seen: string[] = [];
  await using service = await Service.start(
    (request, response) => {
      seen.push(request.url ?? '');
      slowly(request, response);
    },
    { max: 8, parked: 4 },
  );
  await until('slots are parked', async () => (await service.state())?.slots.some(({ state }) => state === 'parked') === true);

  const answers = await Promise.all(Array.from({ length: 40 }, (_, i) => fetch(`${service.url}/invoke/demo/${i}`)));

  expect(answers.map(({ status }) => status)).toEqual(Array(40).fill(200));
  expect([...seen].sort()).toEqual(Array.from({ length: 40 }, (_, i) => `/${i}`).sort());
  const starts = answers.map(({ headers }) => headers.get('rekindle-start'));
  expect(starts).toContain('restore');
  expect((await fetch(`${service.url}/invoke/demo/again`)).headers.get('rekindle-start')).toBe('warm');
});

test('while Redis is away what is live serves; what waits is served once it is back', async () => {
  await using service = await Service.start(slowly, { max: 4, parked: 2, maxConcurrency: 1 });
  const ask = () => fetch(`${service.url}/invoke/demo/`).then(({ status }) => status);
  expect(await ask()).toBe(200);

  await service.redis.kill();
  const away = await ask();
  const ready = await fetch(`${service.url}/readyz`).then(({ status }) => status);
  await service.redis.startAgain();
  const back = await Promise.all([ask(), ask(), ask()]);

  expect([away, ready, back]).toEqual([200, 200, [200, 200, 200]]);
});

test('a gateway that is told to end answers what it has, and takes its demand back', async () => {
  await using service = await Service.start((_, response) => void setTimeout(() => response.end('late'), 500), {
    max: 1,
    maxConcurrency: 1,
  });
  const answers = [fetch(`${service.url}/invoke/demo/`), fetch(`${service.url}/invoke/demo/`)];
  await until('one runs and one waits', async () => {
    const pool = await service.state();
    return pool?.inFlight === 1 && pool.waiting === 1;
  });

  const began = performance.now();
  await service.stop();

  expect(await Promise.all(answers.map(async (one) => (await one).text()))).toEqual(['late', 'late']);
  expect(performance.now() - began).toBeLessThan(DRAIN_MS);
  expect(await service.redis.command('KEYS', '{rekindle}:gateway:*')).toEqual([]);
});
