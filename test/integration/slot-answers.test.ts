import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { systemClock } from '../../src/lib/clock.ts';
import { errno } from '../../src/lib/errors.ts';
import { exec } from '../../src/lib/exec.ts';
import { silentLog } from '../../src/lib/log.ts';
import type { SlotConnection } from '../../src/slots/slot-connection.ts';
import { SlotServer } from '../../src/slots/slot-server.ts';
import { SLOT, SlotProcess } from '../fixtures/slot-process.ts';
import { until } from '../fixtures/until.ts';

const root = process.getuid?.() === 0;
const never = new AbortController().signal;
const COMMAND = ['sh', '-c', 'echo cold'];
const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n';
let folder: string;
let path: string;
let agent: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rekindle-answers-'));
  path = join(folder, 'agent.sock');
  agent = `unix:${path}`;
});

afterEach(() => rm(folder, { recursive: true, force: true }));

async function aServer() {
  const connections: SlotConnection[] = [];
  const server = new SlotServer({ onConnection: (c) => connections.push(c), clock: systemClock, log: silentLog, unixPath: path });
  await server.listen();
  return {
    next: () => until('a slot says hello', () => connections.shift()),
    [Symbol.asyncDispose]: () => server.close(),
  };
}

/** A port that nobody has, outside the range from which the kernel gives to clients. */
async function aPort(): Promise<number> {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 10_000);
    if (await isFree(port)) return port;
  }
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer().once('error', () => resolve(false));
    server.listen(port, () => server.close(() => resolve(true)));
  });
}

/** What comes back for `request` until the other side, or we, end it (it resets what we end); undefined when nobody listens. */
function ask(port: number, request: string | undefined, host = '127.0.0.1'): Promise<string | undefined> {
  return new Promise((resolve) => {
    let got = '';
    const socket = connect(port, host);
    socket.setTimeout(3_000, () => socket.destroy(new Error('no answer')));
    socket.once('connect', () => (request === undefined ? socket.end() : socket.write(request)));
    socket.on('data', (chunk) => {
      got += chunk.toString();
      if (got.endsWith('\r\n\r\n')) socket.end();
    });
    socket.once('error', (error) => resolve(errno(error) === 'ECONNRESET' ? got : undefined));
    socket.once('close', () => resolve(got));
  });
}

const get = (port: number, host?: string) => ask(port, `GET /healthz HTTP/1.1\r\nHost: pod\r\nUser-Agent: kube-probe/1.36\r\n\r\n`, host);

/** A slot that answers at `ports`, and is parked. */
async function parked(ports: string, env: Readonly<Record<string, string>> = {}) {
  const slots = await aServer();
  const slot = new SlotProcess({ agent, command: COMMAND, env: { REKINDLE_PARKED_PORTS: ports, ...env } });
  const connection = await slots.next();
  connection.park();
  await connection.prove('parked', never);
  return {
    slot,
    connection,
    [Symbol.asyncDispose]: async () => {
      await slot[Symbol.asyncDispose]();
      await slots[Symbol.asyncDispose]();
    },
  };
}

describe.skipIf(!root)('a slot with probes to answer (needs root for namespaces)', () => {
  test('answers each of them while it is parked, over IPv4 and IPv6, and at no other time', async () => {
    const [one, two] = [await aPort(), await aPort()];
    await using slots = await aServer();
    await using slot = new SlotProcess({ agent, command: COMMAND, env: { REKINDLE_PARKED_PORTS: `${one},${two}` } });
    const connection = await slots.next();
    expect(await get(one)).toBeUndefined();

    connection.park();
    await connection.prove('parked', never);

    for (const port of [one, two]) for (const host of ['127.0.0.1', '::1']) expect(await get(port, host)).toBe(OK);
    expect(await ask(one, undefined)).toBe('');
    expect(await ask(one, 'HEAD / HTTP/1.0\nHost: pod\n\n')).toBe(OK);
    connection.claim();
    await connection.prove('claimed', never);
    expect(await get(one)).toBeUndefined();
    const application = await slot.startInside('exec sleep 1000');
    connection.restored(application);
    await connection.prove('live', never);
    expect(await get(two)).toBeUndefined();
    expect(slot.output).toBe('');
  });

  test('takes a request in pieces, and tells nobody that something was done', async () => {
    const port = await aPort();
    await using _ = await parked(`${port}`);
    const slow = connect(port, '127.0.0.1');
    let got = '';
    slow.on('error', () => undefined);
    slow.on('data', (chunk) => {
      got += chunk.toString();
    });

    for (const piece of ['G', 'ET / HTTP/1.1\r\nHo', 'st: pod\r', '\n\r', '\n']) {
      slow.write(piece);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }

    await until('the answer', () => got === OK);
    for (const method of ['POST', 'PUT', 'DELETE', 'PATCH', 'PRI', 'get'])
      expect(await ask(port, `${method} / HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi`)).toMatch(/^HTTP\/1.1 503 .*\r\nRetry-After: 1\r\n/);
  });

  test('leaves every port free at once when it is claimed, for an application that does not say SO_REUSEADDR too', async () => {
    const port = await aPort();
    await using waiting = await parked(`${port}`);
    const bind = `import socket; socket.socket().bind(("0.0.0.0", ${port}))`;
    for (let i = 0; i < 50; i++) await (i % 2 ? get(port) : ask(port, undefined));
    // And with some that are still there: one that says nothing, one that was answered and stays.
    const staying = [connect(port, '127.0.0.1'), connect(port, '127.0.0.1')];
    for (const socket of staying) socket.on('error', () => undefined);
    staying[0]?.write('GET / HTTP/1.1\r\n\r\n');
    await new Promise((resolve) => staying[0]?.once('data', resolve));
    expect((await exec('python3', ['-S', '-c', bind])).stderr).toContain('Address already in use');

    waiting.connection.claim();
    await waiting.connection.prove('claimed', never);

    expect(await exec('python3', ['-S', '-c', bind])).toMatchObject({ status: 0, stderr: '' });
  });

  test('leaves its ports to an application that is started cold', async () => {
    const port = await aPort();
    await using slots = await aServer();
    const serve = `import http.server; http.server.HTTPServer(("", ${port}), http.server.SimpleHTTPRequestHandler).serve_forever()`;
    await using slot = new SlotProcess({ agent, command: ['python3', '-S', '-c', serve], env: { REKINDLE_PARKED_PORTS: `${port}` } });
    const connection = await slots.next();
    connection.park();
    expect(await until('an answer', () => get(port))).toBe(OK);

    connection.cold();

    await until('the application answers', async () => (await get(port))?.includes('Python'));
    expect(slot.status).toBeUndefined();
  });

  test('says once when it cannot have a port, and has it when it can', async () => {
    const [port, never] = [await aPort(), await aPort()];
    const holder = createServer().listen(port);
    const forever = createServer().listen(never);
    await using waiting = await parked(`${port},${never}`);
    await until('it said so', () => waiting.slot.output.split('\n').length > 2);

    holder.close();

    expect(await until('an answer', () => get(port))).toBe(OK);
    await new Promise((resolve) => setTimeout(resolve, 1_200));
    forever.close();
    const complaint = (of: number) => `slot: cannot answer probes at port ${of} while parked, and goes on trying: Address in use\n`;
    expect(waiting.slot.output).toBe(complaint(port) + complaint(never));
  });

  test.each(['nonsense', '0', '65536', '80 ', '-1', `4000;`])('says that %j is no port, and serves on', async (ports) => {
    await using waiting = await parked(ports);

    expect(waiting.slot.output).toContain('slot: REKINDLE_PARKED_PORTS wants at most 16 ports between commas');
    await waiting.connection.prove('there', AbortSignal.timeout(1_000));
  });

  test('serves a probe and its agent in a flood of others, and ends who says nothing', { timeout: 90_000 }, async () => {
    const port = await aPort();
    await using waiting = await parked(`${port}`);
    const crowd = new Set<Socket>();
    let ended = 0;
    const join = (text: string) => {
      const socket = connect(port, '127.0.0.1');
      crowd.add(socket);
      socket.on('error', () => undefined);
      socket.on('data', () => undefined);
      socket.once('close', () => {
        ended++;
        crowd.delete(socket);
      });
      if (text !== '') socket.write(text);
    };
    const flood = setInterval(() => {
      for (const text of ['', 'GET / HTTP', 'x'.repeat(60_000), `${'\n'.repeat(5_000)}`]) if (crowd.size < 400) join(text);
    }, 2);

    for (let i = 0; ended < 500; i++) {
      expect(await until('an answer', () => get(port), 20_000)).toBe(OK);
      await waiting.connection.prove(`there-${i}`, AbortSignal.timeout(10_000));
    }

    clearInterval(flood);
    // Some are still asking to come in, and ask more and more seldom.
    await until('everybody is gone', () => crowd.size === 0, 20_000);
    expect(await get(port)).toBe(OK);
  });

  test('needs no more than a descriptor for each, and none when it has none left', async () => {
    const port = await aPort();
    await using slots = await aServer();
    const env = { REKINDLE_PARKED_PORTS: `${port}` };
    const program = ['prlimit', '--nofile=16:16', SLOT];
    await using _slot = new SlotProcess({ agent, command: COMMAND, env, program });
    const connection = await slots.next();
    connection.park();
    await connection.prove('parked', never);
    const silent = Array.from({ length: 40 }, () => connect(port, '127.0.0.1').on('error', () => undefined));

    expect(await until('an answer', () => get(port))).toBe(OK);

    await connection.prove('there', AbortSignal.timeout(1_000));
    for (const socket of silent) socket.destroy();
  });
});

describe.skipIf(!root)('slot probe (needs root for namespaces)', () => {
  /** As an exec probe of a container whose user is nobody. */
  const probe = async (slot: SlotProcess, command: readonly string[]) =>
    exec(
      'nsenter',
      [
        ...['-t', `${await slot.pid()}`, '-p', '-m', '--', 'setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', '--'],
        ...[SLOT, 'probe', '--', ...command],
      ],
      { env: NAMES, timeoutMs: 10_000 },
    );
  const NAMES = { REKINDLE_POD_UID: randomUUID(), REKINDLE_CONTAINER: 'web' };
  const ON_DEMAND = { ...NAMES, REKINDLE_MODE: 'on-demand' };
  const FAILS = ['sh', '-c', 'echo probed; exit 7'];

  test('succeeds without a look while the slot is parked or claimed, else does what it was to do', async () => {
    await using slots = await aServer();
    await using slot = new SlotProcess({ agent, command: COMMAND, env: ON_DEMAND });
    const connection = await slots.next();
    connection.wait();
    expect(await probe(slot, FAILS)).toMatchObject({ status: 7, stdout: 'probed' });

    connection.park();
    await connection.prove('parked', never);
    for (let i = 0; i < 40; i++) expect(await probe(slot, FAILS)).toMatchObject({ status: 0, stdout: '', stderr: '' });

    connection.claim();
    await connection.prove('claimed', never);
    expect(await probe(slot, FAILS)).toMatchObject({ status: 0, stdout: '' });

    const application = await slot.startInside('exec sleep 1000');
    connection.restored(application);
    await connection.prove('live', never);
    expect(await probe(slot, FAILS)).toMatchObject({ status: 7, stdout: 'probed' });
    expect(await probe(slot, ['no-such-probe'])).toMatchObject({ status: 127, stderr: expect.stringContaining('no-such-probe') });
    expect(await probe(slot, ['/etc/passwd'])).toMatchObject({ status: 126 });
  });

  test('believes nobody but process 1 of its own container', async () => {
    await using slots = await aServer();
    // A sidecar: the same network, another PID namespace, and the name is taken before the slot is parked.
    const squat = `import socket, time\ns = socket.socket(socket.AF_UNIX); s.bind("\\0rekindle/${NAMES.REKINDLE_POD_UID}/web"); s.listen(); print("there", flush=True); time.sleep(1000)`;
    await using sidecar = new SlotProcess({ agent: '', command: ['python3', '-S', '-c', squat] });
    await until('the sidecar listens', () => sidecar.output !== '');
    await using slot = new SlotProcess({ agent, command: COMMAND, env: ON_DEMAND });
    const connection = await slots.next();
    connection.park();
    await connection.prove('parked', never);

    expect(await probe(slot, FAILS)).toMatchObject({ status: 7, stdout: 'probed' });

    expect(slot.output).toContain('exec probes of this container cannot be told that it is parked: Address in use');
    await sidecar[Symbol.asyncDispose]();
    await until('the slot has the name', async () => (await probe(slot, FAILS)).status === 0);
  });

  test('is a command like any other for process 1', async () => {
    await using slot = new SlotProcess({ agent: '', command: ['probe', '--', 'x'] });

    expect(await slot.ended).toBe(127);
    expect(slot.output).toContain('cannot run probe');
  });
});
