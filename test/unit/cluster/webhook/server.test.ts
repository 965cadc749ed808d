import { connect, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { connect as connectTls } from 'node:tls';
import { Agent, request } from 'undici';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { makeAuthority, makeServing } from '../../../../src/cluster/authority.ts';
import { canUseImageVolumes } from '../../../../src/cluster/webhook/image-volumes.ts';
import type { AdmissionRequest, Verdict } from '../../../../src/cluster/webhook/review.ts';
import { openWebhook, type Webhook } from '../../../../src/cluster/webhook/server.ts';
import { silentLog } from '../../../../src/lib/log.ts';

const HOUR = 3_600_000;
/** IdleConnTimeout of Go's http.DefaultTransport, which Kubernetes' clients take. */
const API_SERVER_IDLE_S = 90;
let authority: Awaited<ReturnType<typeof makeAuthority>>;
let serving: typeof authority;
let changed: () => void;
let webhook: Webhook;
let decide: (request: AdmissionRequest) => Promise<Verdict>;
let leaving: AbortController;

const review = (object: object) =>
  JSON.stringify({
    apiVersion: 'admission.k8s.io/v1',
    kind: 'AdmissionReview',
    request: { uid: 'u-1', operation: 'CREATE', kind: { kind: 'Pod' }, object },
  });

const QUESTION = `POST /webhook/pods HTTP/1.1\r\nhost: a\r\ncontent-length: ${review({}).length}\r\n\r\n${review({})}`;

beforeEach(async () => {
  authority = await makeAuthority('test', Date.now(), HOUR);
  serving = await makeServing(authority, ['127.0.0.1'], Date.now(), HOUR);
  decide = async () => ({ warnings: [] });
  leaving = new AbortController();
  const onChange = (callback: () => void) => {
    changed = callback;
    return () => undefined;
  };
  const deps = { admission: { pod: (of: AdmissionRequest) => decide(of), owner: async () => ({ warnings: ['owner'] }) }, log: silentLog };
  webhook = await openWebhook(
    { ...deps, certificates: { current: () => serving, onChange } },
    { host: '127.0.0.1', port: 0 },
    leaving.signal,
  );
});
afterEach(() => webhook[Symbol.asyncDispose]());

async function ask(path: string, body: string, ca = authority.cert) {
  const dispatcher = new Agent({ connect: { ca } });
  try {
    const { statusCode, headers, body: answer } = await request(`${webhook.url}${path}`, { method: 'POST', body, dispatcher });
    const text = await answer.text();
    return {
      status: statusCode,
      headers,
      text,
      json: () => JSON.parse(text) as { response: { patch?: string } & Record<string, unknown> },
    };
  } finally {
    await dispatcher.close();
  }
}

const closing = <T extends Socket>(socket: T) => {
  socket.on('error', () => undefined).resume();
  return { socket, closed: new Promise<void>((resolve) => socket.once('close', () => resolve())) };
};
const portOf = () => Number(new URL(webhook.url).port);

/** A connection without TLS yet. */
async function dialled() {
  const socket = connect(portOf(), '127.0.0.1');
  await new Promise((resolve) => socket.once('connect', resolve));
  return closing(socket);
}

async function connected() {
  const socket = connectTls({ port: portOf(), host: '127.0.0.1', ca: authority.cert });
  await new Promise((resolve) => socket.once('secureConnect', resolve));
  return closing(socket);
}

/** What a connection that stays is answered. */
async function answerOn(socket: Socket): Promise<string> {
  const answer = new Promise<Buffer>((resolve) => socket.once('data', resolve));
  socket.write(QUESTION);
  return (await answer).toString();
}

/** A question that lacks its last byte. */
async function begun(body: string) {
  const { socket, closed } = await connected();
  socket.write(`POST /webhook/pods HTTP/1.1\r\nhost: a\r\ncontent-length: ${body.length + 1}\r\n\r\n`);
  await Promise.race([closed, new Promise((resolve) => socket.write(body, resolve))]);
  return { socket, closed };
}

describe('the webhook', () => {
  test('answers with a patch of what is to be changed, and always admits', async () => {
    decide = async ({ object }) => ({ object: { ...object, b: 2 }, warnings: ['so … so', 'x'.repeat(300)] });

    const { response } = (await ask('/webhook/pods?timeout=5s', review({ a: 1 }))).json();

    expect(response).toMatchObject({ uid: 'u-1', allowed: true, patchType: 'JSONPatch' });
    expect(JSON.parse(atob(response.patch ?? ''))).toEqual([{ op: 'add', path: '/b', value: 2 }]);
    // They travel in HTTP headers.
    expect(response.warnings).toEqual(['rekindle: so   so', expect.stringMatching(/^rekindle: x+\.\.\.$/)]);
    expect((response.warnings as string[])[1]).toHaveLength(256);
  });

  test('answers about owners, too', async () => {
    expect((await ask('/webhook/owners', review({}))).json().response).toEqual({
      uid: 'u-1',
      allowed: true,
      warnings: ['rekindle: owner'],
    });
  });

  test('keeps a connection for longer than API servers do, which would lose a question with it', async () => {
    const { headers } = await ask('/webhook/pods', review({}));

    const seconds = Number(/^timeout=(\d+)$/.exec(String(headers['keep-alive']))?.[1]);
    expect(seconds).toBeGreaterThan(API_SERVER_IDLE_S);
  });

  test('keeps none once it is to end: the next question is for another', async () => {
    leaving.abort();

    expect((await ask('/webhook/pods', review({}))).headers.connection).toBe('close');
  });

  test.each([
    ['/webhook/pods', 'nonsense', 400],
    ['/webhook/pods', '{}', 400],
    ['/webhook/pods', ' '.repeat(5 * 1024 * 1024), 400],
    ['/', '{}', 404],
  ])('refuses what is no question: %s', async (path, body, status) => {
    expect(
      await ask(path, body).then(
        (answer) => answer.status,
        () => 400,
      ),
    ).toBe(status);
  });

  test('has room for what is usual while others fill it with long questions, and for theirs again when they have gone', async () => {
    const long = review({ a: 'x'.repeat(2 * 1024 * 1024) });
    const waiting = await Promise.all(Array.from({ length: 12 }, () => begun(long)));
    const later = await begun(long);
    await later.closed;

    expect((await ask('/webhook/pods', review({}))).status).toBe(200);
    for (const { socket } of waiting) socket.destroy();
    await Promise.all(waiting.map(({ closed }) => closed));
    await expect.poll(async () => (await ask('/webhook/pods', long).catch(() => undefined))?.status).toBe(200);
  });

  test('hears one question at a time on a connection', async () => {
    const held = Promise.withResolvers<Verdict>();
    decide = () => held.promise;
    const { socket, closed } = await connected();

    socket.write(QUESTION + QUESTION);
    await closed;

    held.resolve({ warnings: [] });
  });

  test('has so many connections from one address, and again when they have gone', async () => {
    const open = await Promise.all(Array.from({ length: 128 }, () => dialled()));

    await expect(ask('/webhook/pods', review({}))).rejects.toThrow();

    for (const { socket } of open) socket.destroy();
    await expect.poll(async () => (await ask('/webhook/pods', review({})).catch(() => undefined))?.status).toBe(200);
  });

  test('has room for one more where others only keep theirs', async () => {
    for (let i = 0; i < 130; i++) await answerOn((await connected()).socket);

    expect((await ask('/webhook/pods', review({}))).status).toBe(200);
  });

  test('hears a question on a connection that had nothing to do for a while', { timeout: 20_000 }, async () => {
    const { socket, closed } = await connected();
    await answerOn(socket);
    // Longer than Node's own limit, and than a question may take here.
    const ended = await Promise.race([closed.then(() => true), delay(11_000)]);

    expect(ended).toBeUndefined();
    expect(await answerOn(socket)).toContain('200 OK');
    socket.destroy();
  });

  test('waits for nobody who says nothing, or stops in the middle', { timeout: 20_000 }, async () => {
    const [silent, mute, slow] = await Promise.all([dialled(), connected(), begun(review({ a: 'x'.repeat(1_000) }))]);

    await Promise.all([silent.closed, mute.closed, slow.closed]);
  });

  test('says that it failed without saying why', async () => {
    decide = () => Promise.reject(new Error('geheim'));

    const answer = await ask('/webhook/pods', review({}));

    expect(answer.status).toBe(500);
    expect(answer.text).not.toContain('geheim');
  });

  test('uses a renewed certificate for the next connection', async () => {
    const next = await makeAuthority('next', Date.now(), HOUR);
    serving = await makeServing(next, ['127.0.0.1'], Date.now(), HOUR);

    changed();

    await expect(ask('/webhook/pods', review({}))).rejects.toThrow();
    expect((await ask('/webhook/pods', review({}), next.cert)).status).toBe(200);
  });
});

test.each([
  [36, ['v1.36.3 containerd://2.1.9+unknown'], true],
  [35, ['v1.35.0 containerd://2.1.0', 'v1.35.1 cri-o://1.35.0'], true],
  [34, ['v1.34.0 containerd://2.1.0'], false],
  [36, ['v1.36.0 containerd://2.1.0', 'v1.34.2 containerd://2.1.0'], false],
  [36, ['v1.36.0 containerd://1.7.27'], false],
  [36, ['v1.36.0 cri-o://1.30.2'], false],
  [36, ['v1.36.0 somethingelse://9.9'], false],
])('in Kubernetes 1.%i with nodes %j image volumes are used: %s', (minor, nodes, used) => {
  const status = (text: string) => {
    const [kubeletVersion = '', containerRuntimeVersion = ''] = text.split(' ');
    return { status: { nodeInfo: { kubeletVersion, containerRuntimeVersion } } } as Parameters<typeof canUseImageVolumes>[1][number];
  };

  expect(canUseImageVolumes(minor, nodes.map(status))).toBe(used);
});
