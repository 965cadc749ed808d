import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Guard, isForeign, isLoopback } from '../../../src/gateway/guard.ts';
import { answerHead, requestHead } from '../../../src/gateway/headers.ts';
import { Problems } from '../../../src/gateway/problems.ts';
import { apiView, changes, problemsIn } from '../../../src/gateway/state-view.ts';
import { parseAddress, parseTarget } from '../../../src/gateway/target.ts';
import { isTraceparent, newTraceparent } from '../../../src/gateway/trace-context.ts';
import { FrameEnd, goingAway } from '../../../src/gateway/websocket.ts';
import { aSlot, FakeView } from '../../fixtures/fake-view.ts';

const client = { address: '10.0.0.9', proto: 'http', httpVersion: '1.1' } as const;
const DIGEST = 'a'.repeat(64);

test.each([
  ['/invoke/demo', 'demo', '/'],
  ['/invoke/demo/', 'demo', '/'],
  ['/invoke/demo?x=1', 'demo', '/?x=1'],
  ['/invoke/demo/a//b/../c%2F?x=/y', 'demo', '/a//b/../c%2F?x=/y'],
])('%s is for %s at %s', (url, workload, path) => {
  expect(parseTarget(url)).toEqual({ workload, path });
});

test.each([
  ['/invoke/shop/web', 'shop.web', '/'],
  ['/invoke/shop/web/a/b?x=1', 'shop.web', '/a/b?x=1'],
  ['/invoke/shop.web/a', 'shop.web', '/a'],
])('in a cluster %s is for %s at %s', (url, workload, path) => {
  expect(parseTarget(url, { namespaced: true })).toEqual({ workload, path });
});

test.each(['/invoke/shop', '/invoke/shop/', '/invoke/shop//a', '/invoke/shop/w.eb/'])('in a cluster %s names no workload', (url) => {
  expect(parseTarget(url, { namespaced: true })).toBeUndefined();
});

test.each(['/invoke/', '/invoke//x', '/invoke/%41/x', '/invoke/a b'])('%s names no workload', (url) => {
  expect(parseTarget(url)).toBeUndefined();
});

test.each([
  ['10.87.0.5', '10.87.0.5', 80],
  ['10.87.0.5:8080', '10.87.0.5', 8080],
  ['[fd00::5]:8080', 'fd00::5', 8080],
  ['fd00::5', 'fd00::5', 80],
])('%s is reached at %s, port %d', (address, host, port) => {
  expect(parseAddress(address, 80)).toEqual({ host, port });
});

test('a trace that is valid is passed on, any other is begun anew without its state', () => {
  const kept = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00';
  const later = `cc${kept.slice(2)}-more`;
  const wrong = [
    kept.toUpperCase(),
    `${kept}-x`,
    `ff${kept.slice(2)}`,
    kept.replace(/-[0-9a-f]{32}/, `-${'0'.repeat(32)}`),
    '',
    `cc${kept.slice(2)}x`,
  ];

  expect([kept, later].every(isTraceparent)).toBe(true);
  expect(wrong.filter(isTraceparent)).toEqual([]);
  expect(new Set(Array.from({ length: 1000 }, newTraceparent)).size).toBe(1000);
  expect(Array.from({ length: 300 }, newTraceparent).every(isTraceparent)).toBe(true);
  expect(requestHead(['traceparent', 'zz', 'tracestate', 'a=1'], { client }).headers).not.toContain('tracestate');
});

test('whatever a client names in Connection, what makes a request what it is goes on', () => {
  const raw = ['Host', 'a', 'Cookie', 'c', 'Authorization', 'x', 'X-Mine', '1', 'Connection', 'host, cookie, authorization, x-mine'];

  const { headers } = requestHead(raw, { client });

  expect(headers).toEqual(expect.arrayContaining(['Host', 'Cookie', 'Authorization']));
  expect(headers).not.toContain('X-Mine');
  expect(headers).not.toContain('Connection');
});

test("the gateway's own token is not told to applications, any other is", () => {
  const head = (value: string) => requestHead(['Authorization', value], { client, ownAuthorization: 'Bearer secret' }).headers;

  expect(head('Bearer secret')).not.toContain('Bearer secret');
  expect(head('Bearer theirs')).toContain('Bearer theirs');
});

test('an address of version 6 is in brackets and quotes in Forwarded', () => {
  expect(requestHead(['host', 'a'], { client: { ...client, address: '::1' } }).headers).toContain('for="[::1]";host="a";proto=http');
});

test('no header is made of parts of others', () => {
  const pair = fc.tuple(
    fc.constantFrom('Connection', 'TE', 'Upgrade', 'X-A', 'X-B', 'Set-Cookie', 'Content-Length'),
    fc.constantFrom('x-a', 'close', '1', 'a, x-b'),
  );
  fc.assert(
    fc.property(fc.array(pair), (pairs) => {
      const { headers } = answerHead(pairs.flat(), () => true);
      expect(headers.length % 2).toBe(0);
      for (let i = 0; i < headers.length; i += 2) {
        expect(pairs).toContainEqual([headers[i], headers[i + 1]]);
        expect(['Connection', 'TE', 'Upgrade']).not.toContain(headers[i]);
      }
    }),
  );
});

test('the end of frames is found however they are cut', () => {
  const frame = fc.constantFrom(0, 1, 125, 126, 65_535, 65_536).map((length) => {
    if (length < 126) return Buffer.concat([Buffer.from([0x82, length]), Buffer.alloc(length, 0xff)]);
    const head = Buffer.alloc(length < 65_536 ? 4 : 10);
    head[0] = 0x82;
    head[1] = length < 65_536 ? 126 : 127;
    if (length < 65_536) head.writeUInt16BE(length, 2);
    else head.writeBigUInt64BE(BigInt(length), 2);
    return Buffer.concat([head, Buffer.alloc(length, 0xff)]);
  });
  fc.assert(
    fc.property(fc.array(frame, { minLength: 1, maxLength: 4 }), fc.array(fc.nat(200_000), { maxLength: 6 }), (frames, cuts) => {
      const all = Buffer.concat(frames);
      const ends = new Set(frames.map((_, i) => Buffer.concat(frames.slice(0, i + 1)).length));
      const end = new FrameEnd();
      let at = 0;
      for (const cut of [...cuts.filter((one) => one < all.length), all.length].sort((a, b) => a - b)) {
        end.push(all.subarray(at, cut));
        at = cut;
        expect(end.between).toBe(at === 0 || ends.has(at));
      }
    }),
  );
  expect(goingAway('x'.repeat(500))).toHaveLength(127);
});

test('what the view says is told as pools, nodes and snapshots, other gateways counted in', () => {
  const view = new FakeView();
  view.workloads({ b: { min: 1 }, a: {} });
  const snapshot = { digest: DIGEST, workload: 'a', totalBytes: 1, freezeMs: 2, createdAtMs: 3, verifiedAtMs: 9, memoryBytes: 4 };
  const phase = { workload: 'a', revision: 'r1' };
  view.node('n1', [aSlot('a', { uid: 'u1' })], { snapshots: [snapshot], phases: [{ ...phase, at: 'refused', reason: 'why' }] });
  view.node('n2', [aSlot('b', { uid: 'u2', ready: false, state: 'parked' })], {
    snapshots: [{ ...snapshot, verifiedAtMs: 5, quarantined: 'twice failed' }],
    phases: [{ ...phase, at: 'ready', digest: DIGEST }],
  });
  view.scaler({ draining: ['u1'], desired: { a: 3 }, bursts: ['a'] });
  const counts = { workload: 'a', inFlight: 2, waiting: 1, oldestWaitingMs: 0, arrivals: 3 };
  view.otherGateway({ id: 'other', url: '', demand: [counts], instances: [{ uid: 'u1', parks: 1, inFlight: 2, idleMs: 0 }] });
  view.otherGateway({ id: 'me', url: '', demand: [{ ...counts, inFlight: 100 }], instances: [] });
  const own = (workload: string) => ({ inFlight: workload === 'a' ? 1 : 0, waiting: 0 });

  const told = apiView({
    view: view.view,
    connected: true,
    nowMs: performance.now(),
    gateway: 'me',
    own,
    ownInFlight: (key) => (key === 'u1#1' ? 1 : 0),
  });

  expect(told.pools.map(({ workload }) => workload)).toEqual(['a', 'b']);
  expect(told.pools[0]).toMatchObject({ desired: 3, burst: true, inFlight: 3, waiting: 1, phase: 'ready', digest: DIGEST });
  expect(told.pools[0]?.slots).toMatchObject([{ uid: 'u1', inFlight: 3, draining: true, node: 'n1' }]);
  expect(told.snapshots).toMatchObject([{ nodes: ['n1', 'n2'], verifiedAtMs: 5, quarantined: 'twice failed' }]);
  expect(problemsIn(view.view).map(({ text }) => text)).toEqual([
    'no snapshot can be made of a: why',
    `snapshot ${DIGEST.slice(0, 12)} is not restored any more: twice failed`,
  ]);
});

test('only what has changed is told, and growing ages are no change', () => {
  const view = new FakeView();
  view.workloads({ a: {}, b: {} });
  view.node('n1', [aSlot('a', { uid: 'u1' })]);
  const now = (nowMs: number) =>
    apiView({ view: view.view, connected: true, nowMs, gateway: 'me', own: () => ({ inFlight: 0, waiting: 0 }), ownInFlight: () => 0 });
  const first = changes(undefined, now(performance.now()));

  const same = changes(first.told, now(performance.now() + 5_000));
  view.node('n1', [aSlot('a', { uid: 'u1', state: 'ending', ready: false })]);
  view.workloads({ a: {} });
  const after = changes(same.told, now(performance.now()));

  expect(first.events.map(({ event }) => event)).toEqual(['connected', 'pool', 'pool', 'nodes', 'snapshots']);
  expect(same.events).toEqual([]);
  expect(after.events.map(({ event, data }) => [event, typeof data === 'string' ? data : ''])).toEqual([
    ['pool', ''],
    ['gone', 'b'],
  ]);
});

test('a problem that is told again and again is one, and old ones are forgotten', () => {
  let now = 1_000_000;
  const problems = new Problems({ wallMs: () => now });
  for (let i = 0; i < 5; i++) problems.note({ workload: 'a', text: 'x' });
  problems.note({ workload: 'b', text: 'x' });

  expect(problems.recent()).toHaveLength(2);
  expect(problems.last('a')?.text).toBe('x');
  now += 11 * 60_000;
  expect(problems.recent()).toEqual([]);
});

test('a page of another origin is foreign, this one, programs and what a person types are not', () => {
  const host = '127.0.0.1:8080';

  expect(
    [{ host }, { host, origin: `http://${host}` }, { host, 'sec-fetch-site': 'none' }, { host, 'sec-fetch-site': 'same-origin' }].some(
      isForeign,
    ),
  ).toBe(false);
  expect(
    [
      { host, origin: 'http://evil' },
      { host, origin: 'null' },
      { host, 'sec-fetch-site': 'cross-site' },
      { host, 'sec-fetch-site': 'same-site' },
    ].every(isForeign),
  ).toBe(true);
  expect(['127.0.0.1', '127.9.9.9', 'localhost', '::1'].every(isLoopback)).toBe(true);
  expect(['0.0.0.0', '::', '10.0.0.1', 'localhost.evil'].some(isLoopback)).toBe(false);
  expect(new Guard({ token: 'a', loopback: true }).authorization).toBe('Bearer a');
});
