import { randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { text } from 'node:stream/consumers';
import { expect, test } from 'vitest';
import { systemClock } from '../../../src/lib/clock.ts';
import { RekindleError } from '../../../src/lib/errors.ts';
import { runActions } from '../../../src/probes/action.ts';
import type { HttpCall, NormalAction } from '../../../src/workloads/normalise.ts';
import { allClosed, httpServer, loopback, silentServer } from './servers.ts';

const never = new AbortController().signal;
const options = { clock: systemClock, label: 'warm-up' };

function requests(
  port: number,
  call: Partial<HttpCall> = {},
  more: { count?: number; concurrency?: number; timeoutMs?: number } = {},
): NormalAction {
  return {
    kind: 'requests',
    request: { method: 'GET', port, path: '/', headers: {}, ...call },
    count: 1,
    concurrency: 1,
    timeoutMs: 5_000,
    ...more,
  };
}

test('a request arrives with its method, path, headers and body, and with a length whatever the method', async () => {
  const seen: unknown[] = [];
  const record = async ({ method, url, headers, ...request }: IncomingMessage, body: Promise<string>) =>
    seen.push([method, url, headers['x-a'], headers['content-length'], await body, request.httpVersion]);
  await using server = await httpServer(async (request, response) => {
    await record(request, text(request));
    response.end('ok');
  });

  const actions = [
    requests(server.port, { method: 'POST', path: '/x?y=1', headers: { 'x-a': 'b' }, body: 'grüß' }),
    requests(server.port, { method: 'DELETE', body: 'gone' }),
  ];
  const result = await runActions(actions, loopback(), options, never);

  expect(seen).toEqual([
    ['POST', '/x?y=1', 'b', '6', 'grüß', '1.1'],
    ['DELETE', '/', undefined, '4', 'gone', '1.1'],
  ]);
  expect(result).toMatchObject({ done: 2, outputs: [{ sizeBytes: 2 }, { sizeBytes: 2 }] });
});

test('count requests are sent, at most so many at the same time', async () => {
  let [now, most, total] = [0, 0, 0];
  await using server = await httpServer(async (_request, response) => {
    most = Math.max(most, ++now);
    total += 1;
    // Answer only when the others had a chance to come too.
    for (let turn = 0; turn < 20; turn++) await new Promise(setImmediate);
    now -= 1;
    response.end('x');
  });

  const result = await runActions([requests(server.port, {}, { count: 20, concurrency: 4 })], loopback(), options, never);

  expect(result.done).toBe(20);
  expect(total).toBe(20);
  expect(most).toBeGreaterThan(1);
  expect(most).toBeLessThanOrEqual(4);
});

test('equal answers give equal outputs, different ones different outputs', async () => {
  await using server = await httpServer((request, response) => response.end(request.url === '/random' ? randomUUID() : 'same'));
  const run = (path: string) => runActions([requests(server.port, { path }, { count: 3, concurrency: 3 })], loopback(), options, never);

  const [same, sameAgain, random, randomAgain] = [await run('/'), await run('/'), await run('/random'), await run('/random')];

  expect(same.outputs).toEqual(sameAgain.outputs);
  expect(random.outputs).not.toEqual(randomAgain.outputs);
  expect(random.outputs).toEqual([{ sha256: expect.stringMatching(/^[0-9a-f]{64}$/), sizeBytes: 3 * 36 }]);
});

test('the first failure ends it, says which and why, and nothing after it is done', async () => {
  let asked = 0;
  await using server = await httpServer((_request, response) => response.writeHead(++asked === 2 ? 500 : 200).end());
  const commands: (readonly string[])[] = [];
  const target = loopback(async (command) => {
    commands.push(command);
    return { status: 0, output: '' };
  });

  const running = runActions(
    [requests(server.port, { path: '/a' }, { count: 9 }), { kind: 'command', command: 'later', timeoutMs: 1_000 }],
    target,
    options,
    never,
  );

  await expect(running).rejects.toThrow(
    expect.objectContaining({
      code: 'not_ready',
      message: `warm-up 1 of 2 failed: GET http://localhost:${server.port}/a answered 500 (request 2 of 9)`,
    }),
  );
  expect(asked).toBe(2);
  expect(commands).toEqual([]);
});

test('a command that fails is told with its status and last line', async () => {
  const target = loopback(async () => ({ status: 3, output: 'a\nno such table\n' }));

  const running = runActions([{ kind: 'command', command: 'x', timeoutMs: 1_000 }], target, options, never);

  await expect(running).rejects.toThrow('warm-up failed: command ended with 3: no such table');
});

test('a command that takes too long is told as that, whoever notices first', async () => {
  const hangs = loopback(() => new Promise(() => {}));
  const tells = loopback(async () => Promise.reject(new RekindleError('timeout', 'took too long')));
  const action: NormalAction = { kind: 'command', command: 'x', timeoutMs: 30 };

  await expect(runActions([action], hangs, options, never)).rejects.toThrow('warm-up failed: command was not done within 30 ms');
  await expect(runActions([action], tells, options, never)).rejects.toThrow('warm-up failed: command: took too long');
});

test('requests that hang are given up together, and their connections closed', async () => {
  await using server = await silentServer();

  const running = runActions([requests(server.port, {}, { count: 5, concurrency: 5, timeoutMs: 50 })], loopback(), options, never);

  await expect(running).rejects.toThrow(`warm-up failed: GET http://localhost:${server.port}/ (5 times) was not done within 50 ms`);
  await allClosed(server);
});

test('an abort ends it with its own reason', async () => {
  await using server = await silentServer();
  const reason = new Error('stop');
  const stop = new AbortController();

  const running = runActions([requests(server.port)], loopback(), options, stop.signal);
  setImmediate(() => stop.abort(reason));

  await expect(running).rejects.toBe(reason);
});

test('nothing to do is done at once', async () => {
  expect(await runActions([], loopback(), options, never)).toMatchObject({ done: 0, outputs: [] });
});
