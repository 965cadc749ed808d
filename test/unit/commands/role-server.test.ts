import { afterEach, expect, test } from 'vitest';
import { openRoleServer } from '../../../src/commands/role-server.ts';
import { silentLog } from '../../../src/lib/log.ts';
import { Metrics } from '../../../src/lib/metrics.ts';

const LOOPBACK = { host: '127.0.0.1', port: 0 };
const stack: AsyncDisposable[] = [];
afterEach(async () => {
  for (const one of stack.splice(0)) await one[Symbol.asyncDispose]();
});

async function open(whyNotReady: () => string | undefined, registry: Parameters<typeof openRoleServer>[0]['registry']) {
  const server = await openRoleServer({ registry, whyNotReady, log: silentLog }, LOOPBACK);
  stack.push(server);
  return server;
}

test('is healthy all the time, and ready but for a reason in words', async () => {
  let why: string | undefined = 'Redis does not answer';
  const { url } = await open(() => why, new Metrics({ role: 'scaler' }).registry);

  const early = await fetch(`${url}/readyz`);
  const healthy = await fetch(`${url}/healthz`);
  why = undefined;
  const ready = await fetch(`${url}/readyz`);

  expect(early.status).toBe(503);
  expect(await early.json()).toEqual({ code: 'not_ready', message: 'Redis does not answer' });
  expect([healthy.status, ready.status]).toEqual([200, 200]);
});

test('tells the metrics as Prometheus reads them, with the role and the process', async () => {
  const metrics = new Metrics({ role: 'scaler' });
  metrics.countProcess();
  metrics.planned(0.002, ['park']);
  const { url } = await open(() => undefined, metrics.registry);

  const answer = await fetch(`${url}/metrics`);
  const text = await answer.text();

  expect(answer.headers.get('content-type')).toMatch(/^text\/plain; version=0\.0\.4/);
  expect(text).toContain('rekindle_actions_total{action="park",role="scaler"} 1');
  expect(text).toMatch(/^process_resident_memory_bytes\{role="scaler"\} \d+$/m);
});

test('what it does not have and what fails is told in words, without the inside', async () => {
  const registry = { contentType: 'text/plain', metrics: () => Promise.reject(new Error('secret')) };
  const { url } = await open(() => undefined, registry);

  const nowhere = await fetch(`${url}/nowhere`);
  const failed = await fetch(`${url}/metrics`);

  expect(nowhere.status).toBe(404);
  expect(await nowhere.text()).toContain('/metrics');
  expect(failed.status).toBe(500);
  expect(await failed.text()).not.toContain('secret');
});

test('an address that is taken is a wrong use, told so', async () => {
  const { url } = await open(() => undefined, new Metrics({ role: 'agent' }).registry);
  const listen = { host: '127.0.0.1', port: Number(new URL(url).port) };
  const deps = { registry: new Metrics({ role: 'agent' }).registry, whyNotReady: () => undefined, log: silentLog };

  await expect(openRoleServer(deps, listen)).rejects.toMatchObject({
    code: 'usage',
    message: expect.stringContaining('another program listens there'),
  });
});

test('closing it does not wait for connections that are kept open', async () => {
  const server = await openRoleServer(
    { registry: new Metrics({ role: 'agent' }).registry, whyNotReady: () => undefined, log: silentLog },
    LOOPBACK,
  );
  await (await fetch(`${server.url}/healthz`)).text();

  await server[Symbol.asyncDispose]();

  await expect(fetch(`${server.url}/healthz`)).rejects.toThrow();
});
