import { link, lstat, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { systemClock } from '../../../src/lib/clock.ts';
import { silentLog } from '../../../src/lib/log.ts';
import { newNonce, proveProcess } from '../../../src/slots/prove.ts';
import type { SlotConnection } from '../../../src/slots/slot-connection.ts';
import { SlotServer, type SlotServerOptions } from '../../../src/slots/slot-server.ts';
import { until } from '../../fixtures/until.ts';

const HELLO = 'hello 1 pod-1 web undecided\n';
let folder: string;
let unixPath: string;
let connections: SlotConnection[];
let clients: Socket[];

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rekindle-slots-'));
  unixPath = join(folder, 'agent.sock');
  connections = [];
  clients = [];
});

afterEach(async () => {
  for (const client of clients) client.destroy();
  await rm(folder, { recursive: true, force: true });
});

async function aServer(options: Partial<SlotServerOptions> = {}): Promise<SlotServer> {
  const server = new SlotServer({ onConnection: (c) => connections.push(c), clock: systemClock, log: silentLog, unixPath, ...options });
  await server.listen();
  return server;
}

/** A client, what it got, and its end. */
function aClient(say = '', where: string | { host: string; port: number; localAddress?: string } = unixPath) {
  const socket = typeof where === 'string' ? connect(where) : connect(where);
  clients.push(socket);
  const client = { socket, got: '', closed: false };
  socket.on('data', (chunk) => {
    client.got += chunk.toString();
  });
  socket.on('error', () => undefined);
  socket.on('close', () => {
    client.closed = true;
  });
  if (say !== '') socket.write(say);
  return client;
}

const connection = (index = 0) => until('a connection', () => connections[index]);

describe('a slot server', () => {
  test('hands over a connection once its hello came, in however many pieces', async () => {
    await using _server = await aServer();
    const client = aClient('hello 1 pod-1 ');
    await until('connected', () => !client.socket.connecting);

    client.socket.write('web live 42\n');

    expect((await connection()).hello).toEqual({ uid: 'pod-1', container: 'web', state: 'live', pid: 42 });
  });

  test('listens on TCP too', async () => {
    await using server = await aServer({ tcp: { host: '127.0.0.1', port: 0 } });

    aClient(HELLO, { host: '127.0.0.1', port: server.tcpPort ?? 0 });
    aClient(HELLO);

    await connection(1);
  });

  test('lets every user connect to its unix socket', async () => {
    await using _server = await aServer();

    expect((await lstat(unixPath)).mode & 0o777).toBe(0o666);
  });

  test.each([
    ['another protocol', 'GET / HTTP/1.1\r\n\r\n'],
    ['a line that is no hello', 'exit 0\n'],
    ['an unknown version', 'hello 9 pod-1 web undecided\n'],
    ['zero bytes', '\0\0\0\n'],
    ['an endless line', 'x'.repeat(5_000)],
    ['a flood', `${'y'.repeat(100)}\n`.repeat(20_000)],
  ])('closes %s and goes on serving others', async (_what, nonsense) => {
    await using _server = await aServer();
    const good = aClient(HELLO);
    await connection();

    const bad = aClient(nonsense);
    await until('the bad one is closed', () => bad.closed);

    aClient(HELLO);
    await connection(1);
    expect(good.closed).toBe(false);
    expect(connections).toHaveLength(2);
  });

  test.each([
    ['a second hello', HELLO],
    ['proof nobody asked for', 'proved\n'],
    ['what nobody asked it', 'can again\n'],
    ['that it is parked, unasked', 'parked 0\n'],
    ['two ends', 'exit 1\nexit 1\n'],
    ['nonsense', '???\n'],
    ['an endless line', 'x'.repeat(5_000)],
  ])('closes a slot that says %s after its hello', async (_what, nonsense) => {
    await using _server = await aServer();
    const client = aClient(HELLO);
    const { closed } = await connection();

    client.socket.write(nonsense);

    await closed;
    await until('the client sees it', () => client.closed);
  });

  test('closes who says no hello in time', async () => {
    await using _server = await aServer({ helloTimeoutMs: 100 });
    const silent = aClient();
    const good = aClient(HELLO);

    await until('the silent one is closed', () => silent.closed);

    await connection();
    expect(good.closed).toBe(false);
  });

  test('is not kept busy by silent connections: the oldest makes room', async () => {
    await using _server = await aServer({ maxWithoutHello: 3 });
    const silent = Array.from({ length: 10 }, () => aClient());
    await until('seven are closed', () => silent.filter((c) => c.closed).length === 7);

    aClient(HELLO);

    await connection();
  });

  test('refuses more connections than its limit and takes new ones once some have ended', async () => {
    await using _server = await aServer({ maxConnections: 2 });
    const first = aClient(HELLO);
    aClient(HELLO);
    await connection(1);
    const third = aClient(HELLO);
    await until('the third is closed', () => third.closed);

    first.socket.destroy();
    await connections[0]?.closed;
    aClient(HELLO);

    await connection(2);
  });

  test('bounds what comes from one address, and keeps nobody else out', async () => {
    const warnings: unknown[] = [];
    const log = pino({ base: null, timestamp: false }, { write: (line: string) => warnings.push(JSON.parse(line)) });
    await using server = await aServer({ tcp: { host: '0.0.0.0', port: 0 }, maxPerAddress: 3, log });
    const tcp = (localAddress: string, say = HELLO) => aClient(say, { host: '127.0.0.1', port: server.tcpPort ?? 0, localAddress });

    const own = Array.from({ length: 10 }, () => tcp('127.0.0.2'));
    await until('those beyond its bound are refused', () => own.filter(({ closed }) => closed).length === 7);
    tcp('127.0.0.3');
    // Whoever comes over the unix socket has no address.
    for (let i = 0; i < 5; i++) aClient(HELLO);

    await connection(8);
    expect(connections.map(({ remoteAddress }) => remoteAddress ?? 'none').sort()).toEqual(
      ['127.0.0.2', '127.0.0.2', '127.0.0.2', '127.0.0.3', 'none', 'none', 'none', 'none', 'none'].sort(),
    );
    // Once, however many there are.
    expect(warnings).toEqual([expect.objectContaining({ remoteAddress: '127.0.0.2', connections: 3 })]);
    for (const { socket } of own) socket.destroy();
    await until('its place is free', async () => {
      const again = tcp('127.0.0.2');
      await new Promise((resolve) => setTimeout(resolve, 20));
      return !again.closed;
    });
  });

  test('lets silent connections of one address push out one another, and nobody else', async () => {
    await using server = await aServer({ tcp: { host: '0.0.0.0', port: 0 }, maxWithoutHelloPerAddress: 2 });
    const tcp = (localAddress: string) => aClient('', { host: '127.0.0.1', port: server.tcpPort ?? 0, localAddress });
    const slow = tcp('127.0.0.3');
    await until('connected', () => !slow.socket.connecting);

    const silent = Array.from({ length: 20 }, () => tcp('127.0.0.2'));
    await until('the older ones are closed', () => silent.filter(({ closed }) => closed).length === 18);
    slow.socket.write(HELLO);

    expect((await connection()).remoteAddress).toBe('127.0.0.3');
  });

  test('knows an IPv4 address as such on a socket for both', async () => {
    await using server = await aServer({ tcp: { host: '::', port: 0 } });

    aClient(HELLO, { host: '127.0.0.1', port: server.tcpPort ?? 0 });
    expect((await connection(0)).remoteAddress).toBe('127.0.0.1');
    aClient(HELLO, { host: '::1', port: server.tcpPort ?? 0 });
    expect((await connection(1)).remoteAddress).toBe('::1');
  });

  test('replaces a socket left by one that was killed', async () => {
    const dead = new SlotServer({ onConnection: () => undefined, clock: systemClock, log: silentLog, unixPath });
    await dead.listen();
    // As a kill would leave it: closed, the file still there. A hard link brings back what the orderly close removes.
    await link(unixPath, `${unixPath}-kept`);
    await dead.close();
    await rename(`${unixPath}-kept`, unixPath);

    await using _server = await aServer();
    aClient(HELLO);

    await connection();
  });

  test('leaves alone a socket at which another listens, and a file that is no socket', async () => {
    const other = createServer().listen(unixPath);
    await expect(aServer()).rejects.toMatchObject({ code: 'usage' });
    await new Promise((resolve) => other.close(resolve));

    await writeFile(unixPath, 'precious');
    await expect(aServer()).rejects.toMatchObject({ code: 'usage' });
    expect((await lstat(unixPath)).size).toBe(8);
  });

  test('takes its socket and connections with it, but not the socket of its successor', async () => {
    const server = await aServer();
    const client = aClient(HELLO);
    await connection();
    await rm(unixPath);
    await using _successor = await aServer();

    await server.close();

    await until('the client sees it', () => client.closed);
    expect((await lstat(unixPath)).isSocket()).toBe(true);
  });
});

describe('a slot connection', () => {
  const never = new AbortController().signal;

  test('says what it is told to', async () => {
    await using _server = await aServer();
    const client = aClient(HELLO);
    const slot = await connection();

    slot.wait();
    slot.park();
    slot.claim();
    slot.restored(17);
    slot.cold();

    await until('all of it', () => client.got === 'wait\npark\nclaim\nrestored 17\ncold\n');
  });

  test('resolves a proof when the slot says so, and one after another', async () => {
    await using _server = await aServer();
    const client = aClient(HELLO);
    const slot = await connection();

    for (const nonce of ['one', 'two']) {
      const proof = slot.prove(nonce, never);
      await until('the question', () => client.got.endsWith(`prove ${nonce}\n`));
      client.socket.write('proved\n');
      await proof;
    }

    // What it can do is asked once, before the first, so that the silence of an older slot is an answer.
    expect(client.got).toBe('can\nprove one\nprove two\n');
    expect(slot.canParkAgain).toBe(false);
  });

  test('parks a slot again that can, and tells the status of its application', async () => {
    await using _server = await aServer();
    const client = aClient(HELLO);
    const slot = await connection();
    const proof = slot.prove('one', never);
    client.socket.write('can sing again\nproved\n');
    await proof;

    for (const status of [0, 143]) {
      const parked = slot.parkAgain(1_500, never);
      await until('the line', () => client.got.endsWith('park 1500\n'));
      client.socket.write(`parked ${status}\n`);
      expect(await parked).toBe(status);
    }
    const left = expect(slot.parkAgain(0, never)).rejects.toMatchObject({ code: 'container_failed' });
    client.socket.end('exit 5\n');
    await left;

    expect(await slot.ended).toBe(5);
    await expect(slot.parkAgain(0, never)).rejects.toMatchObject({ code: 'container_failed' });
  });

  test('rejects a proof when the slot leaves or the caller gives up', async () => {
    await using _server = await aServer();
    const client = aClient(HELLO);
    const slot = await connection();
    const giveUp = new AbortController();

    const abandoned = expect(slot.prove('one', giveUp.signal)).rejects.toThrow('enough');
    giveUp.abort(new Error('enough'));
    await abandoned;
    aClient(HELLO);
    const other = await connection(1);
    const left = expect(other.prove('two', never)).rejects.toMatchObject({ code: 'container_failed' });
    clients[1]?.destroy();
    await left;

    // The late answer to the abandoned question is no nonsense.
    client.socket.write('proved\n');
    await until('a next question', () => slot.prove('three', AbortSignal.timeout(1)).catch((e: Error) => e.name === 'TimeoutError'));
    expect(client.closed).toBe(false);
  });

  test('tells the exit status once, or that there was none', async () => {
    await using _server = await aServer();
    const ending = aClient(HELLO);
    const statuses: number[] = [];
    const slot = await connection();
    slot.onExit((status) => statuses.push(status));

    ending.socket.end('exit 3\n');
    aClient(HELLO);
    const silent = await connection(1);
    clients[1]?.destroy();

    expect(await slot.ended).toBe(3);
    expect(await silent.ended).toBeUndefined();
    await slot.closed;
    expect(statuses).toEqual([3]);
  });

  test('is harmless to speak to once closed', async () => {
    await using _server = await aServer();
    aClient(HELLO);
    const slot = await connection();

    slot.close();
    slot.close();
    await slot.closed;
    slot.cold();

    expect(() => slot.descriptor).toThrow('closed its connection');
    await expect(slot.prove('x', never)).rejects.toMatchObject({ code: 'container_failed' });
  });
});

test('a process proves itself by its name', async () => {
  const name = 'some-nonce';
  const before = process.title;
  process.title = name;

  const proven = [proveProcess(process.pid, name), proveProcess(process.pid, 'some-nonc'), proveProcess(4_194_304, name)];
  process.title = before;

  expect(proven).toEqual([true, false, false]);
  expect(newNonce()).toMatch(/^[A-Za-z0-9_-]{15}$/);
});
