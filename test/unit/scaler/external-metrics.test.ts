import { request } from 'node:https';
import { expect, test } from 'vitest';
import { Access, type Attempt } from '../../../src/cluster/access.ts';
import { frontProxyOf, type Requester } from '../../../src/cluster/front-proxy.ts';
import { silentLog as log } from '../../../src/lib/log.ts';
import { openExternalMetrics } from '../../../src/scaler/external-metrics.ts';
import type { Load } from '../../../src/scaler/loads.ts';
import { anAuthority } from '../../fixtures/certificates.ts';

const BASE = '/apis/external.metrics.k8s.io/v1beta1';
const AT = Date.UTC(2026, 0, 2, 3, 4, 5, 678);
const USER = {
  'x-remote-user': 'system:serviceaccount:kube-system:horizontal-pod-autoscaler',
  'x-remote-group': ['system:authenticated', 'system:x'],
};

async function aServer(loads: { whyUnknown?: string; all?: Record<string, Load> } = {}) {
  const stack = new AsyncDisposableStack();
  const [ca, frontCa, otherCa] = await Promise.all([anAuthority(), anAuthority('front'), anAuthority('other')]);
  const asked: { requester: Requester; attempt: Attempt }[] = [];
  const deps = {
    allowed: true,
    loads: { whyUnknown: loads.whyUnknown, all: () => new Map(Object.entries(loads.all ?? {})) },
    access: {
      may: async (requester: Requester, attempt: Attempt) => {
        asked.push({ requester, attempt });
        return deps.allowed;
      },
    },
    log,
    now: () => AT,
  };
  const server = stack.use(
    await openExternalMetrics(deps, await ca.issue({ name: 'server', hosts: ['127.0.0.1'] }), { host: '127.0.0.1', port: 0 }),
  );
  const proxy = frontProxyOf({
    'requestheader-client-ca-file': frontCa.cert,
    'requestheader-allowed-names': '["front-proxy"]',
    'requestheader-username-headers': '["X-Remote-User"]',
    'requestheader-group-headers': '["X-Remote-Group"]',
    'requestheader-extra-headers-prefix': '["X-Remote-Extra-"]',
  });
  const renewed = await ca.issue({ name: 'renewed', hosts: ['127.0.0.1'] });
  server.use(renewed, proxy);
  const client = await frontCa.issue({ name: 'front-proxy' });
  const get = (path: string, options: { headers?: object; client?: { key: string; cert: string } | undefined; method?: string } = {}) =>
    new Promise<{ status: number; body: ReturnType<typeof JSON.parse>; servedBy: string }>((resolve, reject) => {
      const certificate = 'client' in options ? options.client : client;
      const sent = request(
        new URL(path, server.url),
        { ca: ca.cert, ...certificate, headers: { ...(options.headers ?? USER) }, method: options.method ?? 'GET', agent: false },
        (answer) => {
          const servedBy = String((answer.socket as import('node:tls').TLSSocket).getPeerCertificate().subject.CN);
          let text = '';
          answer.on('data', (chunk) => {
            text += chunk;
          });
          answer.on('end', () =>
            resolve({ status: answer.statusCode ?? 0, body: text.startsWith('{') ? JSON.parse(text) : text, servedBy }),
          );
        },
      );
      sent.on('error', reject);
      sent.end();
    });
  return { [Symbol.asyncDispose]: () => stack.disposeAsync(), server, get, deps, asked, frontCa, otherCa, renewed, proxy };
}

const LOADS = {
  'shop.web': { invocations: 3, connections: 4 },
  'shop.api': { invocations: 1, connections: undefined },
  'other.web': { invocations: 9, connections: 9 },
};

test("a workload's metrics are what it has to do, in its namespace only", async () => {
  await using it = await aServer({ all: LOADS });

  const load = await it.get(`${BASE}/namespaces/shop/rekindle_load?labelSelector=workload%3Dweb`);
  const all = await it.get(`${BASE}/namespaces/shop/rekindle_invocations`);

  expect(load.body).toEqual({
    kind: 'ExternalMetricValueList',
    apiVersion: 'external.metrics.k8s.io/v1beta1',
    metadata: {},
    items: [{ metricName: 'rekindle_load', metricLabels: { workload: 'web' }, timestamp: '2026-01-02T03:04:05Z', value: '7' }],
  });
  expect(all.body.items.map((item: { value: string }) => item.value)).toEqual(['3', '1']);
});

test('a workload of which nobody can tell the connections is left out rather than zero', async () => {
  await using it = await aServer({ all: LOADS });

  for (const metric of ['rekindle_connections', 'rekindle_load'])
    expect((await it.get(`${BASE}/namespaces/shop/${metric}?labelSelector=workload%3Dapi`)).body.items).toEqual([]);
});

test('while nothing is known the answer is 503, and discovery goes on', async () => {
  await using it = await aServer({ whyUnknown: 'Redis does not answer', all: LOADS });

  const values = await it.get(`${BASE}/namespaces/shop/rekindle_load`);
  const discovery = await it.get(BASE);

  expect([values.status, values.body.message]).toEqual([503, 'Redis does not answer']);
  expect(discovery.body.resources.map(({ name }: { name: string }) => name)).toEqual([
    'rekindle_invocations',
    'rekindle_connections',
    'rekindle_load',
  ]);
});

test('nobody but the front proxy is believed', async () => {
  await using it = await aServer({ all: LOADS });
  const path = `${BASE}/namespaces/shop/rekindle_load`;

  const noCertificate = await it.get(path, { client: undefined });
  const otherAuthority = await it.get(path, { client: await it.otherCa.issue({ name: 'front-proxy' }) });
  const otherName = await it.get(path, { client: await it.frontCa.issue({ name: 'somebody' }) });
  const noUser = await it.get(path, { headers: {} });
  it.server.use(it.renewed, undefined);
  const noProxyKnown = await it.get(path);

  expect([noCertificate, otherAuthority, otherName, noUser, noProxyKnown].map(({ status }) => status)).toEqual([401, 401, 401, 401, 401]);
  expect(it.asked).toEqual([]);
});

test('what a user may is asked of the API server: a list of the metric, or a get of a path', async () => {
  await using it = await aServer({ all: LOADS });
  it.deps.allowed = false;

  const values = await it.get(`${BASE}/namespaces/shop/rekindle_load`);
  await it.get('/apis');
  await it.get(`${BASE}/namespaces/sh%6fp/rekindle_load`);

  expect([values.status, values.body.reason]).toEqual([403, 'Forbidden']);
  const list = { verb: 'list', group: 'external.metrics.k8s.io', version: 'v1beta1', namespace: 'shop', resource: 'rekindle_load' };
  expect(it.asked.map(({ attempt }) => attempt)).toEqual([list, { verb: 'get', path: '/apis' }, list]);
  expect(it.asked[0]?.requester).toMatchObject({ user: USER['x-remote-user'], groups: ['system:authenticated', 'system:x'] });
});

test('a renewed certificate is shown to the next connection', async () => {
  await using it = await aServer();

  expect((await it.get('/healthz', { client: undefined, headers: {} })).servedBy).toBe('renewed');
});

test('what does not exist, is no selector, or would change something is refused', async () => {
  await using it = await aServer({ all: LOADS });

  const answers = [
    await it.get(`${BASE}/namespaces/shop/requests_per_second`),
    await it.get(`${BASE}/namespaces/shop/rekindle_load?labelSelector=a%20b`),
    await it.get(`${BASE}/namespaces/shop/rekindle_load?watch=true`),
    await it.get('/metrics'),
    await it.get(BASE, { method: 'DELETE' }),
  ];

  expect(answers.map(({ status }) => status)).toEqual([404, 400, 400, 404, 405]);
  expect(answers.every(({ body }) => body.kind === 'Status')).toBe(true);
});

test('an answer of the API server is believed for ten seconds, per user and attempt', async () => {
  let nowMs = 0;
  let reviews = 0;
  const create = async <T>(_: unknown, review: T): Promise<T> => {
    reviews += 1;
    return { ...review, status: { allowed: true } };
  };
  const access = new Access({ cluster: { create }, clock: { now: () => nowMs, sleep: async () => undefined } });
  const requester = { user: 'a', uid: undefined, groups: [], extra: {} };
  const attempt = { verb: 'get', path: '/apis' };
  const { signal } = new AbortController();

  await access.may(requester, attempt, signal);
  await access.may(requester, attempt, signal);
  await access.may({ ...requester, groups: ['x'] }, attempt, signal);
  nowMs = 10_000;
  await access.may(requester, attempt, signal);

  expect(reviews).toBe(3);
});
