import { expect, test } from 'vitest';
import { until } from '../../fixtures/until.ts';
import { Rig } from './rig.ts';

test('a ready instance gets the request as the client wrote it, and the client its answer', async () => {
  await using rig = await Rig.open();
  let seen: unknown;
  await rig.serving((request, response) => {
    seen = [request.method, request.url, request.headers['x-mine'], request.headers['x-forwarded-for'], request.headers.traceparent];
    response.writeHead(201, { 'x-theirs': 'yes' }).end('hello');
  });

  const answer = await fetch(`${rig.url}/invoke/demo/a/b%20c?x=1&y`, { headers: { 'x-mine': '1' } });

  expect([answer.status, await answer.text(), answer.headers.get('x-theirs')]).toEqual([201, 'hello', 'yes']);
  expect(seen).toEqual(['GET', '/a/b%20c?x=1&y', '1', '127.0.0.1', expect.stringMatching(/^00-[0-9a-f]{32}-[0-9a-f]{16}-01$/)]);
  expect([answer.headers.get('rekindle-start'), answer.headers.get('rekindle-wait-ms')]).toEqual(['warm', '0']);
  expect(answer.headers.get('rekindle-instance')).toMatch(/^demo-/);
});

test('a request that finds no instance waits, tells the demand at once, and is answered by the instance that appears', async () => {
  await using rig = await Rig.open();
  const application = await rig.application((_, response) => response.end('woken'));
  rig.view.workloads({ demo: {} });

  const answer = fetch(`${rig.url}/invoke/demo`);
  await until('demand is told', () => rig.view.tells > 0);
  const demand = rig.view.gateway?.().demand;
  rig.ready([application]);

  expect(demand).toEqual([{ workload: 'demo', inFlight: 0, waiting: 1, oldestWaitingMs: expect.any(Number), arrivals: 1 }]);
  expect(await (await answer).text()).toBe('woken');
  expect((await answer).headers.get('rekindle-start')).toBe('restore');
});
