import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { systemClock } from '../../src/lib/clock.ts';
import { silentLog } from '../../src/lib/log.ts';
import { proveProcess } from '../../src/slots/prove.ts';
import type { SlotConnection } from '../../src/slots/slot-connection.ts';
import { SlotServer } from '../../src/slots/slot-server.ts';
import { ScriptedAgent, SlotProcess } from '../fixtures/slot-process.ts';
import { until } from '../fixtures/until.ts';

const root = process.getuid?.() === 0;
const never = new AbortController().signal;
const COLD = ['sh', '-c', 'echo cold $$ /proc/[0-9]*'];
let folder: string;
let path: string;
let agent: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rekindle-again-'));
  path = join(folder, 'agent.sock');
  agent = `unix:${path}`;
});

afterEach(() => rm(folder, { recursive: true, force: true }));

async function aServer() {
  const connections: SlotConnection[] = [];
  const server = new SlotServer({ onConnection: (c) => connections.push(c), clock: systemClock, log: silentLog, unixPath: path });
  await server.listen();
  return {
    server,
    next: () => until('a slot says hello', () => connections.shift()),
    [Symbol.asyncDispose]: () => server.close(),
  };
}

/** Restores `script` into a slot that waits, and returns once it is live. */
async function restoreInto(slot: SlotProcess, connection: SlotConnection, script: string): Promise<number> {
  connection.claim();
  const application = await slot.startInside(script);
  connection.restored(application);
  await connection.prove('live', never);
  return application;
}

/** An application that writes down what it is told, and ends as it is told. */
const obedient = (log: string, onTerm: string) =>
  `trap "echo term >>${log}; ${onTerm}" TERM; trap "echo hup >>${log}" HUP; echo ready >>${log}; while :; do sleep 0.02; done`;
const has = (log: string, line: string) =>
  until(`${line} in the log`, async () => (await readFile(log, 'utf8').catch(() => '')).split('\n').includes(line));

describe.skipIf(!root)('a live slot that is parked again (needs root for namespaces)', () => {
  test('ends its application, stays process 1 with the same connection, and can be restored into once more, again and again', async () => {
    await using slots = await aServer();
    await using slot = new SlotProcess({ agent, command: COLD });
    const connection = await slots.next();
    const pid = await slot.pid();
    expect(connection.canParkAgain).toBe(false);

    for (let life = 0; life < 3; life++) {
      const log = join(folder, `log-${life}`);
      await restoreInto(slot, connection, obedient(log, `exit ${20 + life}`));
      await has(log, 'ready');
      // What it left behind goes too.
      await slot.startInside('setsid sh -c "trap : TERM; while :; do sleep 1000; done"');
      expect(connection.canParkAgain).toBe(true);

      expect(await connection.parkAgain(10_000, never)).toBe(20 + life);

      expect(await readFile(log, 'utf8')).toBe('ready\nterm\n');
      expect(await slot.others()).toEqual([]);
      await connection.prove(`again-${life}`, never);
      expect(proveProcess(pid, `again-${life}`)).toBe(true);
    }

    connection.cold();
    await slot.ended;
    expect(slot.output).toBe('cold 1 /proc/1\n');
  });

  test('kills what does not end in its grace', async () => {
    await using slots = await aServer();
    await using slot = new SlotProcess({ agent, command: COLD });
    const connection = await slots.next();
    const log = join(folder, 'log');
    await restoreInto(slot, connection, obedient(log, ':'));
    await has(log, 'ready');
    const from = performance.now();

    expect(await connection.parkAgain(700, never)).toBe(137);

    expect(performance.now() - from).toBeGreaterThanOrEqual(700);
    expect(performance.now() - from).toBeLessThan(2_000);
    expect(await slot.others()).toEqual([]);
    expect(slot.status).toBeUndefined();
  });

  test.each([
    ['handles no SIGTERM', 'exec sleep 1000', 0, 900],
    // As Node does without a listener: as process 1 of its namespace it cannot die of it.
    ['stops handling it', 'trap "trap - TERM" TERM; while :; do sleep 0.05; done', 900, 3_000],
  ])('gives an application that %s less than its grace', async (_what, script, atLeast, atMost) => {
    await using slots = await aServer();
    await using slot = new SlotProcess({ agent, command: COLD });
    const connection = await slots.next();
    await restoreInto(slot, connection, script);
    await new Promise((resolve) => setTimeout(resolve, 200));
    const from = performance.now();

    expect(await connection.parkAgain(20_000, never)).toBeGreaterThan(128);

    expect(performance.now() - from).toBeGreaterThanOrEqual(atLeast);
    expect(performance.now() - from).toBeLessThan(atMost);
  });

  test('ends as its container is to, when that is ended meanwhile', async () => {
    await using slots = await aServer();
    await using slot = new SlotProcess({ agent, command: COLD });
    const connection = await slots.next();
    const [log, go] = [join(folder, 'log'), join(folder, 'go')];
    await restoreInto(slot, connection, obedient(log, `while [ ! -e ${go} ]; do sleep 0.02; done; exit 5`));
    await has(log, 'ready');
    const parked = connection.parkAgain(10_000, never);
    await has(log, 'term');

    await slot.signal('SIGTERM');
    await writeFile(go, '');

    await expect(parked).rejects.toMatchObject({ code: 'container_failed' });
    expect(await connection.ended).toBe(5);
    expect(await slot.ended).toBe(5);
  });

  test('forwards other signals while its application ends', async () => {
    await using slots = await aServer();
    await using slot = new SlotProcess({ agent, command: COLD });
    const connection = await slots.next();
    const log = join(folder, 'log');
    await restoreInto(slot, connection, obedient(log, ':'));
    await has(log, 'ready');
    const parked = connection.parkAgain(1_500, never);
    await has(log, 'term');

    await slot.signal('SIGHUP');

    await has(log, 'hup');
    expect(await parked).toBe(137);
  });

  test('goes on to be parked without its agent, and says so to the next one', async () => {
    const first = await aServer();
    await using slot = new SlotProcess({ agent, command: COLD });
    const connection = await first.next();
    const [log, go] = [join(folder, 'log'), join(folder, 'go')];
    const application = await restoreInto(slot, connection, obedient(log, `while [ ! -e ${go} ]; do sleep 0.02; done; exit 0`));
    await has(log, 'ready');
    const parked = connection.parkAgain(20_000, never);
    await has(log, 'term');
    await first.server.close();
    await expect(parked).rejects.toMatchObject({ code: 'container_failed' });

    await using slots = await aServer();
    const second = await slots.next();
    expect(second.hello).toMatchObject({ state: 'live', pid: application });
    await second.prove('second', never);
    await writeFile(go, '');
    await second.closed;

    const third = await slots.next();
    expect(third.hello.state).toBe('parked');
    await restoreInto(slot, third, 'exec sleep 1000');
    expect(await third.parkAgain(0, never)).toBe(137);
  });

  test('answers whoever asks it again after its agent was restarted', async () => {
    const first = await aServer();
    await using slot = new SlotProcess({ agent, command: COLD });
    const connection = await first.next();
    const [log, go] = [join(folder, 'log'), join(folder, 'go')];
    await restoreInto(slot, connection, obedient(log, `while [ ! -e ${go} ]; do sleep 0.02; done; exit 3`));
    await has(log, 'ready');
    connection.parkAgain(20_000, never).catch(() => undefined);
    await has(log, 'term');
    await first.server.close();
    await using slots = await aServer();
    const second = await slots.next();
    await second.prove('second', never);

    const asked = second.parkAgain(20_000, never);
    // Given up and asked once more.
    await expect(second.parkAgain(20_000, AbortSignal.timeout(50))).rejects.toThrow('aborted');
    await writeFile(go, '');

    expect(await asked).toBe(3);
    // It was asked to end once only.
    expect(await readFile(log, 'utf8')).toBe('ready\nterm\n');
  });

  test('answers probes as soon as its application leaves the port', async () => {
    const port = 20_000 + Math.floor(Math.random() * 10_000);
    await using slots = await aServer();
    await using slot = new SlotProcess({ agent, command: COLD, env: { REKINDLE_PARKED_PORTS: `${port}` } });
    const connection = await slots.next();
    const leaves = `import signal, socket, time
s = socket.create_server(("", ${port}))
def end(*_):
  s.close()
  time.sleep(1000)
signal.signal(signal.SIGTERM, end)
while True: s.accept()[0].sendall(b"application")`;
    await writeFile(join(folder, 'leaves.py'), leaves);
    await restoreInto(slot, connection, `exec python3 -S ${join(folder, 'leaves.py')}`);
    await until('the application', async () => (await answerOf(port)) === 'application');

    const parked = connection.parkAgain(10_000, never);

    await until('the slot', async () => (await answerOf(port))?.startsWith('HTTP/1.1 200'), 8_000);
    expect(await Promise.race([parked, 'still ending'])).toBe('still ending');
    expect(await parked).toBe(137);
    expect(await answerOf(port)).toContain('HTTP/1.1 200');
    expect(slot.output).toBe('');
  });

  test('is not to be talked into it by nonsense, and tells only whom it answers', async () => {
    await using hostile = new ScriptedAgent({ path });
    await using slot = new SlotProcess({ agent, command: COLD });
    await hostile.heard('hello 1 pod-1 web undecided');
    hostile.say('park 5\nclaim\npark 5\n');
    const application = await slot.startInside('exec sleep 1000');
    hostile.say(`restored ${application}\n`);

    hostile.say('park\npark \npark -1\npark x\npark 5x\npark 3600001\npark 99999999999999999999\nprove live\n');
    await hostile.heard('proved');

    expect((await slot.others()).length).toBe(1);
    hostile.say('can\npark 0\n');
    await hostile.heard('parked 137');
    hostile.say('park 5\npark 5\nprove done\n');
    await until('the proof', () => hostile.lines.filter((line) => line === 'proved').length === 2);
    expect(hostile.lines).toEqual(['hello 1 pod-1 web undecided', 'proved', 'can again', 'parked 137', 'proved']);
  });

  test('that is of an older version says so instead', async () => {
    await using slots = await aServer();
    const old = connect(path);
    old.on('data', (chunk) => {
      // It skips what it does not know.
      if (chunk.toString().includes('prove ')) old.write('proved\n');
    });
    old.write('hello 1 pod-1 web live 7\n');
    const connection = await slots.next();
    await connection.prove('old', never);

    expect(connection.canParkAgain).toBe(false);
    await expect(connection.parkAgain(1_000, never)).rejects.toThrow('older version');

    old.destroy();
  });
});

function answerOf(port: number): Promise<string | undefined> {
  return new Promise((resolve) => {
    let got = '';
    const socket = connect(port, '127.0.0.1', () => socket.write('GET / HTTP/1.1\r\n\r\n'));
    socket.on('data', (chunk) => {
      got += chunk.toString();
      socket.destroy();
    });
    socket.on('error', () => undefined);
    // An application that is asked to end between accept(2) and its answer never gives it.
    socket.setTimeout(500, () => socket.destroy());
    socket.once('close', () => resolve(got === '' ? undefined : got));
  });
}
