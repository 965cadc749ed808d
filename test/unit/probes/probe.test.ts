import { once } from 'node:events';
import { Duplex } from 'node:stream';
import { expect, test } from 'vitest';
import { systemClock } from '../../../src/lib/clock.ts';
import { RekindleError } from '../../../src/lib/errors.ts';
import { encodeRequest } from '../../../src/probes/grpc.ts';
import { checkOnce, waitReady } from '../../../src/probes/probe.ts';
import type { Outcome } from '../../../src/probes/target.ts';
import type { NormalProbe, ProbeCheck, ProbeTiming } from '../../../src/workloads/normalise.ts';
import { allClosed, FakeClock, healthServer, httpServer, loopback, silentServer } from './servers.ts';

const never = new AbortController().signal;
const TIMEOUT_MS = 777;

function aProbe(check: ProbeCheck, timing: Partial<ProbeTiming> = {}): NormalProbe {
  return { initialDelayMs: 0, periodMs: 1_000, timeoutMs: TIMEOUT_MS, successThreshold: 1, failureThreshold: 3, ...timing, ...check };
}

const http = (port: number, path = '/ready'): ProbeCheck => ({ kind: 'http', port, path, headers: {} });
const command: ProbeCheck = { kind: 'command', command: 'check' };

/** A container whose command gives these answers in turn, the last one for ever. */
function answering(...answers: boolean[]) {
  let next = 0;
  return loopback(async () => ({ status: answers[Math.min(next++, answers.length - 1)] ? 0 : 1, output: `try ${next}\n` }));
}

function once1(check: ProbeCheck, timeoutMs = 5_000, target = loopback()): Promise<Outcome> {
  return checkOnce({ ...check, timeoutMs }, target, systemClock, never);
}

test('the first attempt is made at once, the next one a period after its start', async () => {
  const clock = new FakeClock({ frozen: [TIMEOUT_MS] });

  const ready = await waitReady(aProbe(command), answering(false, false, true), { clock }, never);

  expect(ready).toEqual({ attempts: 3, durationMs: 2_000 });
  expect(clock.slept).toEqual([1_000, 1_000]);
});

test('the initial delay comes first', async () => {
  const clock = new FakeClock({ frozen: [TIMEOUT_MS] });

  await waitReady(aProbe(command, { initialDelayMs: 300 }), answering(true), { clock }, never);

  expect(clock.slept).toEqual([300]);
});

test('successes count only in a row', async () => {
  const clock = new FakeClock({ frozen: [TIMEOUT_MS] });

  const ready = await waitReady(aProbe(command, { successThreshold: 3 }), answering(true, true, false, true, true, true), { clock }, never);

  expect(ready.attempts).toBe(6);
});

test('failures count only in a row, and the last one is told', async () => {
  const clock = new FakeClock({ frozen: [TIMEOUT_MS] });

  const waiting = waitReady(
    aProbe(command, { failureThreshold: 2, successThreshold: 2 }),
    answering(false, true, false, false),
    { clock },
    never,
  );

  await expect(waiting).rejects.toThrow(
    expect.objectContaining({
      code: 'not_ready',
      message: 'not ready after 3.0 s and 4 attempts; the last failure was: command ended with 1: try 4',
    }),
  );
});

test('a deadline ends it before the thresholds do', async () => {
  const clock = new FakeClock({ frozen: [TIMEOUT_MS] });

  const waiting = waitReady(aProbe(command, { failureThreshold: 100 }), answering(false), { clock, deadlineMs: 2_500 }, never);

  await expect(waiting).rejects.toThrow('not ready after 2.5 s and 3 attempts');
});

test('after a restore it asks every few milliseconds, and the first answer is enough', async () => {
  const clock = new FakeClock({ frozen: [TIMEOUT_MS] });

  const probe = aProbe(command, { initialDelayMs: 9_000, successThreshold: 5 });
  const ready = await waitReady(probe, answering(...Array<boolean>(10).fill(false), true), { clock, everyMs: 2 }, never);

  expect(ready).toEqual({ attempts: 11, durationMs: 20 });
});

test('a container that is gone is not asked again', async () => {
  const gone = new RekindleError('not_found', 'no such container');
  const target = loopback(async () => Promise.reject(gone));

  await expect(waitReady(aProbe(command), target, { clock: systemClock }, never)).rejects.toBe(gone);
});

test('an abort ends a wait and an attempt at once, with its own reason', async () => {
  await using server = await silentServer();
  const reason = new Error('stop');
  const stop = new AbortController();
  const sleeping = new AbortController();

  const asking = waitReady(aProbe(http(server.port), { timeoutMs: 60_000 }), loopback(), { clock: systemClock }, stop.signal);
  const waiting = waitReady(aProbe(command, { initialDelayMs: 60_000 }), answering(true), { clock: systemClock }, sleeping.signal);
  setImmediate(() => [stop, sleeping].map((controller) => controller.abort(reason)));

  await expect(asking).rejects.toBe(reason);
  await expect(waiting).rejects.toThrow();
  await allClosed(server);
});

test.each([
  [200, true],
  [302, true],
  [399, true],
  [404, false],
  [503, false],
])('HTTP %d means ready: %s', async (status, ok) => {
  await using server = await httpServer((_request, response) => response.writeHead(status, { location: '/elsewhere' }).end('x'));

  const outcome = await once1(http(server.port));

  expect(outcome).toEqual(ok ? { ok } : { ok, why: `GET http://localhost:${server.port}/ready answered ${status}` });
  await allClosed(server);
});

test('headers of the probe are sent, localhost is the host unless they say another', async () => {
  const seen: (string | undefined)[] = [];
  await using server = await httpServer((request, response) => {
    seen.push(request.headers.host, request.headers['x-who'] as string | undefined);
    response.end();
  });

  await once1(http(server.port));
  await once1({ kind: 'http', port: server.port, path: '/', headers: { Host: 'shop.example', 'X-Who': 'me' } });

  expect(seen).toEqual([`localhost:${server.port}`, undefined, 'shop.example', 'me']);
});

test('a body without end does not hold a probe up', async () => {
  await using server = await httpServer((_request, response) => {
    const more = () => {
      while (!response.destroyed && response.write(Buffer.alloc(64 * 1024)));
    };
    response.on('drain', more);
    more();
  });

  expect(await once1(http(server.port))).toEqual({ ok: true });
  await allClosed(server);
});

test('a server that accepts and says nothing fails by its timeout, and the connection is closed', async () => {
  await using server = await silentServer();

  const outcomes = await Promise.all([once1(http(server.port), 50), once1({ kind: 'grpc', port: server.port, service: '' }, 50)]);

  expect(outcomes).toEqual([
    { ok: false, why: `GET http://localhost:${server.port}/ready gave no answer within 50 ms` },
    { ok: false, why: `gRPC health of the server on port ${server.port} gave no answer within 50 ms` },
  ]);
  await allClosed(server);
});

test('work that ignores its signal does not hold a probe up, and what it opens too late is closed', async () => {
  const late = Promise.withResolvers<Duplex>();
  const stream = new Duplex({ read() {}, write: (_chunk, _encoding, done) => done() });

  const outcome = await once1({ kind: 'tcp', port: 1 }, 20, { ...loopback(), connect: () => late.promise });
  late.resolve(stream);
  await once(stream, 'close');

  expect(outcome).toEqual({ ok: false, why: 'TCP port 1 gave no answer within 20 ms' });
});

test('a port that nobody listens on is told as such by every kind of probe', async () => {
  const server = await silentServer();
  const { port } = server;
  await server[Symbol.asyncDispose]();

  const outcomes = await Promise.all([once1({ kind: 'tcp', port }), once1(http(port)), once1({ kind: 'grpc', port, service: '' })]);

  for (const outcome of outcomes) expect(outcome).toMatchObject({ ok: false, why: expect.stringMatching(/: connection refused$/) });
});

test('an accepted TCP connection means ready, and is closed', async () => {
  await using server = await silentServer();

  expect(await once1({ kind: 'tcp', port: server.port })).toEqual({ ok: true });
  await allClosed(server);
});

test('a command runs in a shell, and its last line tells why it failed', async () => {
  const asked: (readonly string[])[] = [];
  const target = loopback(async (line) => {
    asked.push(line);
    return { status: 7, output: 'first\ncannot connect  \n\n' };
  });

  expect(await once1({ kind: 'command', command: 'curl x | y' }, 5_000, target)).toEqual({
    ok: false,
    why: 'command ended with 7: cannot connect',
  });
  expect(asked).toEqual([['/bin/sh', '-c', 'curl x | y']]);
});

test.each([
  ['SERVING', { serving: 1 }, true],
  ['NOT_SERVING', { serving: 2 }, false],
  ['UNKNOWN', {}, false],
  ['gRPC status NOT_FOUND', { grpcStatus: 5 }, false],
  ['gRPC status UNIMPLEMENTED', { grpcStatus: 12 }, false],
  ['HTTP status 404', { httpStatus: 404 }, false],
])('a gRPC health service that says %s', async (said, answer, ok) => {
  const asked: Buffer[] = [];
  await using server = await healthServer(answer, asked);

  const outcome = await once1({ kind: 'grpc', port: server.port, service: 'shop' });

  expect(outcome).toEqual(ok ? { ok } : { ok, why: `gRPC health of shop on port ${server.port} answered ${said}` });
  expect(asked).toEqual([Buffer.from([0, 0, 0, 0, 6, 0x0a, 4, ...Buffer.from('shop')])]);
  await allClosed(server);
});

test('a service name of any length is encoded as protobuf wants it', () => {
  const long = encodeRequest('x'.repeat(300));

  expect(encodeRequest('')).toEqual(Buffer.alloc(5));
  expect([...long.subarray(0, 8)]).toEqual([0, 0, 0, 0x01, 0x2f, 0x0a, 0xac, 0x02]);
  expect(long).toHaveLength(5 + 1 + 2 + 300);
});

test('a server that speaks something else is a failure in words, not an error', async () => {
  await using server = await httpServer((request) => request.socket.end('nonsense\r\n\r\n'));

  const outcomes = await Promise.all([once1(http(server.port)), once1({ kind: 'grpc', port: server.port, service: '' })]);

  for (const outcome of outcomes) expect(outcome.ok).toBe(false);
  await allClosed(server);
});
