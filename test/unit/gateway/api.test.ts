import { once } from 'node:events';
import { createServer, get as httpGet, request } from 'node:http';
import { Registry } from 'prom-client';
import { Value } from 'typebox/value';
import { expect, test } from 'vitest';
import { WebSocket, WebSocketServer } from 'ws';
import { type Gateway, type GatewayOptions, openGateway } from '../../../src/gateway/gateway.ts';
import { ApiPool, ApiState } from '../../../src/gateway/schemas.ts';
import { silentLog } from '../../../src/lib/log.ts';
import { aSlot, FakeView } from '../../fixtures/fake-view.ts';
import { until } from '../../fixtures/until.ts';
import { closeServer, listen, noMetrics } from './rig.ts';

const LOOPBACK = { host: '127.0.0.1', port: 0 };

async function opened(view: FakeView, options: Partial<GatewayOptions> = {}): Promise<Gateway> {
  return openGateway({ id: 'gw-1', view, metrics: noMetrics, registry: new Registry(), log: silentLog }, { listen: LOOPBACK, ...options });
}

const json = async (url: string): Promise<unknown> => (await fetch(url)).json();

/** As `fetch`, with a Host of its own. */
function status(url: string, headers: Record<string, string>, method = 'GET'): Promise<number> {
  return new Promise((resolve, reject) => {
    request(url, { headers, method }, (answer) => {
      answer.resume();
      resolve(answer.statusCode ?? 0);
    })
      .on('error', reject)
      .end();
  });
}

test('pools, workloads, nodes and snapshots are told as the schemas say', async () => {
  const view = new FakeView();
  view.workloads({ demo: { max: 7 } });
  view.node('n1', [aSlot('demo', { address: '127.0.0.1:1' }), aSlot('demo', { state: 'failed', ready: false, error: 'no memory' })]);
  view.scaler({ desired: { demo: 2 } });
  await using gateway = await opened(view);

  const pools: unknown = await (await fetch(`${gateway.url}/api/pools`)).json();
  const workloads = await json(`${gateway.url}/api/workloads`);
  const nodes = await json(`${gateway.url}/api/nodes`);

  expect(Array.isArray(pools) && pools.every((one) => Value.Check(ApiPool, one))).toBe(true);
  expect(workloads).toMatchObject([{ workload: 'demo', desired: 2, max: 7 }]);
  expect(JSON.stringify(workloads)).not.toContain('slots');
  expect(nodes).toMatchObject([{ name: 'n1', slots: 2, instances: 1 }]);
});

test("a cluster's pods are told beside the slots, with how they started and who is connected", async () => {
  const view = new FakeView();
  const pod = { uid: 'p1', name: 'web-1', workload: 'shop.web', state: 'live', ageMs: 5, ready: true, address: '10.0.0.1' } as const;
  const cold = { ...pod, uid: 'p2', state: 'cold', start: { how: 'cold', reason: 'no agent' } } as const;
  view.node('n1', [], {
    pods: [{ ...pod, start: { how: 'restore', ms: 60 }, connections: 3 }, cold, { ...pod, uid: 'p3', state: 'waiting' }],
  });
  await using gateway = await opened(view);

  const pools = (await json(`${gateway.url}/api/pools`)) as unknown[];
  const workloads = await json(`${gateway.url}/api/workloads`);
  const nodes = await json(`${gateway.url}/api/nodes`);

  expect(pools.every((one) => Value.Check(ApiPool, one))).toBe(true);
  expect(pools).toMatchObject([
    {
      workload: 'shop.web',
      slots: [],
      pods: [{ uid: 'p1', node: 'n1', start: { ms: 60 }, connections: 3 }, { start: { reason: 'no agent' } }, { state: 'waiting' }],
    },
  ]);
  expect(JSON.stringify(workloads)).not.toContain('p1');
  expect(nodes).toMatchObject([{ pods: 3, instances: 2 }]);
  expect(((await json(`${gateway.url}/docs/json`)) as { paths: object }).paths).toHaveProperty('/api/pools');
});

test('events begin with the state, and tell changes, starts and problems after it', async () => {
  const view = new FakeView();
  view.workloads({ demo: {} });
  await using gateway = await opened(view);
  let text = '';
  httpGet(`${gateway.url}/events`, (answer) => answer.on('data', (chunk) => (text += chunk)).on('error', () => undefined));
  await until('the state', () => text.includes('event: state\n'));

  view.node('n1', [
    aSlot('demo', { address: '127.0.0.1:1', uid: 'u1' }),
    aSlot('demo', { uid: 'u2', state: 'failed', ready: false, error: 'no memory' }),
  ]);
  await until('the rest', () => text.includes('event: pool\n') && text.includes('event: nodes\n'));

  const events = text.split('\n\n').filter((one) => one.startsWith('event') || one.includes('\nevent'));
  const data = (name: string) => JSON.parse(events.find((one) => one.includes(`event: ${name}\n`))?.split('\ndata: ')[1] ?? 'null');
  expect(Value.Check(ApiState, data('state'))).toBe(true);
  expect(data('start')).toMatchObject({ workload: 'demo', uid: 'u1', start: { how: 'restore', ms: 50 } });
  expect(data('problem').text).toContain('no memory');
  expect(data('pool').slots).toHaveLength(2);
});

test('with a token everything but health and the page asks for it', async () => {
  const view = new FakeView();
  await using gateway = await opened(view, { token: 'secret' });
  const paths = [
    '/healthz',
    '/readyz',
    '/',
    '/page.js',
    '/api/pools',
    '/events',
    '/docs/json',
    '/metrics',
    '/invoke/demo/',
    '/invoke/demo/page.js',
  ];

  const without = await Promise.all(paths.map((path) => status(gateway.url + path, {})));
  const wrong = await status(`${gateway.url}/api/pools`, { authorization: 'Bearer secre' });
  const right = await status(`${gateway.url}/api/pools`, { authorization: 'Bearer secret' });

  expect(without).toEqual([200, 200, 200, 200, 401, 401, 401, 401, 401, 401]);
  expect([wrong, right]).toEqual([401, 200]);
});

test('on loopback only names of this machine are answered, and a burst only for this page or a program', async () => {
  const view = new FakeView();
  view.workloads({ demo: {} });
  await using gateway = await opened(view);
  const body = JSON.stringify({ workload: 'nothing', requests: 1 });
  const post = (headers: Record<string, string>) =>
    fetch(`${gateway.url}/api/burst`, { method: 'POST', body, headers: { 'content-type': 'application/json', ...headers } }).then(
      (one) => one.status,
    );

  expect(await status(`${gateway.url}/api/pools`, { host: 'evil.example' })).toBe(400);
  expect(await status(`${gateway.url}/invoke/demo`, { host: 'evil.example' })).toBe(400);
  expect(await post({ origin: 'http://evil.example' })).toBe(400);
  expect(await post({ 'sec-fetch-site': 'cross-site' })).toBe(400);
  expect(await post({ origin: gateway.url })).toBe(404);
  expect(await post({})).toBe(404);
});

test('a burst is sent to the workload and counted; what is wrong with its body is said', async () => {
  const view = new FakeView();
  let asked = 0;
  const server = createServer((_, response) => {
    asked += 1;
    response.end('x');
  });
  await using stack = new AsyncDisposableStack();
  stack.defer(() => closeServer(server));
  view.workloads({ demo: { maxConcurrency: 4 } });
  view.node('n1', [aSlot('demo', { address: `127.0.0.1:${await listen(server)}` })]);
  const gateway = stack.use(await opened(view));
  const burst = async (body: unknown) => {
    const answer = await fetch(`${gateway.url}/api/burst`, {
      method: 'POST',
      body: JSON.stringify(body),
      headers: { 'content-type': 'application/json' },
    });
    return [answer.status, await answer.text()] as const;
  };

  const [, counted] = await burst({ workload: 'demo', requests: 25 });
  const [wrong, said] = await burst({ workload: 'demo', requests: 0 });

  expect(JSON.parse(counted)).toMatchObject({ answered: 25, failed: 0 });
  expect(asked).toBe(25);
  expect([wrong, JSON.parse(said).code]).toEqual([400, 'usage']);
  expect(said).toContain('requests');
});

test('it is ready once Redis has answered, and not any more when it ends; the docs describe the API', async () => {
  const view = new FakeView();
  view.connected = false;
  await using gateway = await opened(view);

  const before = await status(`${gateway.url}/readyz`, {});
  view.connected = true;
  view.changed();
  const after = await status(`${gateway.url}/readyz`, {});
  const docs = await json(`${gateway.url}/docs/json`);

  expect([before, after]).toEqual([503, 200]);
  expect(docs).toMatchObject({ paths: { '/api/pools': {}, '/api/burst': {}, '/events': {} } });
  expect(await status(`${gateway.url}/docs/`, {})).toBe(200);
  expect(await status(`${gateway.url}/tsconfig.json`, {})).toBe(404);
});

test('a graceful stop answers what runs and waits, ends readers, and takes nothing new', async () => {
  const view = new FakeView();
  const held = Promise.withResolvers<void>();
  const server = createServer(async (_, response) => {
    await held.promise;
    response.end('done');
  });
  await using stack = new AsyncDisposableStack();
  stack.defer(() => closeServer(server));
  const address = `127.0.0.1:${await listen(server)}`;
  view.workloads({ demo: { maxConcurrency: 1 } });
  view.node('n1', [aSlot('demo', { address })]);
  const gateway = stack.use(await opened(view));
  const events = fetch(`${gateway.url}/events`).then((one) => one.text());
  const running = fetch(`${gateway.url}/invoke/demo`).then((one) => one.text());
  const waiting = fetch(`${gateway.url}/invoke/demo`).then((one) => one.text());
  await until('one runs and one waits', () => view.gateway?.().demand[0]?.waiting === 1);

  const stopped = gateway.stop({ forgetMs: 0, drainMs: 5_000 });
  await until('it listens no more', () =>
    fetch(`${gateway.url}/healthz`).then(
      () => false,
      () => true,
    ),
  );
  held.resolve();

  expect(await running).toBe('done');
  expect(await waiting).toBe('done');
  expect(await events).toContain(': this gateway is ending');
  await stopped;
});

test('a WebSocket hears that the gateway is ending', async () => {
  const view = new FakeView();
  const server = createServer();
  const sockets = new WebSocketServer({ server });
  sockets.on('connection', (one) => one.send('x'.repeat(70_000)));
  await using stack = new AsyncDisposableStack();
  stack.defer(() => closeServer(server));
  view.workloads({ demo: {} });
  view.node('n1', [aSlot('demo', { address: `127.0.0.1:${await listen(server)}` })]);
  const gateway = stack.use(await opened(view));
  const ws = new WebSocket(`${gateway.url.replace('http', 'ws')}/invoke/demo/`);
  const closed = new Promise((resolve) => ws.on('close', (code, reason) => resolve(`${code} ${reason}`)));
  await once(ws, 'message');

  await gateway.stop({ forgetMs: 0, drainMs: 1_000 });

  expect(await closed).toBe('1001 this gateway is ending');
});
