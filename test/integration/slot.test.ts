import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { systemClock } from '../../src/lib/clock.ts';
import { exec } from '../../src/lib/exec.ts';
import { silentLog } from '../../src/lib/log.ts';
import { newNonce, proveProcess } from '../../src/slots/prove.ts';
import type { SlotConnection } from '../../src/slots/slot-connection.ts';
import { SlotServer } from '../../src/slots/slot-server.ts';
import { ScriptedAgent, SLOT, SlotProcess } from '../fixtures/slot-process.ts';
import { until } from '../fixtures/until.ts';

const root = process.getuid?.() === 0;
const SIGNALS = new URL('../fixtures/signals.py', import.meta.url).pathname;
const HELLO = 'hello 1 pod-1 web undecided';
/** The cold application of most tests: says so, and what else is in its namespace. */
const COLD = ['sh', '-c', 'echo cold $$ /proc/[0-9]*'];
const COLD_OUTPUT = 'cold 1 /proc/1\n';
const never = new AbortController().signal;
let folder: string;
let path: string;
let agent: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'rekindle-slot-'));
  path = join(folder, 'agent.sock');
  agent = `unix:${path}`;
});

afterEach(() => rm(folder, { recursive: true, force: true }));

/** The real server; `next()` waits for the next slot that connects. */
async function aServer(options: { tcp?: { host: string; port: number } } = {}) {
  const connections: SlotConnection[] = [];
  const server = new SlotServer({
    onConnection: (connection) => {
      // A test that is kept from running for 300 ms is not what these are about.
      connection.wait();
      connections.push(connection);
    },
    clock: systemClock,
    log: silentLog,
    unixPath: path,
    ...options,
  });
  await server.listen();
  return {
    server,
    next: () => until('a slot says hello', () => connections.shift()),
    [Symbol.asyncDispose]: () => server.close(),
  };
}

const cold = (slot: SlotProcess) =>
  until(`a cold start, not only ${JSON.stringify(slot.output)}`, () => slot.output.startsWith('cold') && slot.output.endsWith('\n'));
const elapsedMs = (slot: SlotProcess) => performance.now() - slot.startedAt;

describe.skipIf(!root)('an undecided slot (needs root for namespaces)', () => {
  test.each([
    ['no agent listens', () => agent],
    ['its agent listens nowhere near', () => 'tcp:127.0.0.1:1'],
    ['its agent cannot be reached', () => 'tcp:192.0.2.1:7654'],
    ['the address of its agent is nonsense', () => 'http://agent/'],
    ['it has no agent at all', () => ''],
  ])('starts cold within a second when %s', async (_when, address) => {
    await using slot = new SlotProcess({ agent: address(), command: COLD });

    await cold(slot);

    expect(elapsedMs(slot)).toBeLessThan(1_000);
    expect(await slot.ended).toBe(0);
    expect(slot.output).toBe(COLD_OUTPUT);
  });

  test('gives an agent that listens two seconds for its first word, for it may be busy, and then starts cold', async () => {
    await using silent = new ScriptedAgent({ path });
    await using slot = new SlotProcess({ agent, command: COLD });

    await cold(slot);

    expect(elapsedMs(slot)).toBeGreaterThanOrEqual(2_000);
    expect(elapsedMs(slot)).toBeLessThan(3_000);
    expect(silent.lines).toEqual([HELLO]);
  });

  test('that is to park waits for three seconds: nobody waits for its application', async () => {
    await using silent = new ScriptedAgent({ path });
    await using slot = new SlotProcess({ agent, command: COLD, env: { REKINDLE_MODE: 'on-demand' } });

    await cold(slot);

    expect(elapsedMs(slot)).toBeGreaterThanOrEqual(3_000);
    expect(elapsedMs(slot)).toBeLessThan(4_000);
    expect(silent.lines).toEqual([HELLO]);
  });

  test.each([
    ['hangs up', (a: ScriptedAgent) => a.hangUp()],
    ['hangs up after an answer', (a: ScriptedAgent) => a.sockets[0]?.end('wait\n')],
    ['says an endless line', (a: ScriptedAgent) => a.say('x'.repeat(256))],
    ['floods it with nonsense', (a: ScriptedAgent) => a.say(`${'y'.repeat(1_000)}\n`.repeat(5_000))],
  ])('starts cold at once when its agent %s', async (_what, act) => {
    await using hostile = new ScriptedAgent({ path });
    await using slot = new SlotProcess({ agent, command: COLD });
    await hostile.heard(HELLO);

    act(hostile);
    await cold(slot);

    expect(elapsedMs(slot)).toBeLessThan(1_000);
    expect(slot.output).toBe(COLD_OUTPUT);
  });

  test('starts cold in time although its agent floods it with lines it knows', async () => {
    await using hostile = new ScriptedAgent({ path });
    await using slot = new SlotProcess({ agent, command: COLD, env: { REKINDLE_WAIT_MS: '600' } });
    await hostile.heard(HELLO);
    const flood = setInterval(() => hostile.say('wait\nprove abc\n'.repeat(1_000)), 1);

    await cold(slot).finally(() => clearInterval(flood));

    expect(elapsedMs(slot)).toBeGreaterThanOrEqual(600);
    expect(elapsedMs(slot)).toBeLessThan(2_000);
  });

  test('waits as long as REKINDLE_WAIT_MS for an agent that answered, then starts cold', async () => {
    await using thinking = new ScriptedAgent({ path, onConnect: (socket) => socket.write('wait\n') });
    await using slot = new SlotProcess({ agent, command: COLD, env: { REKINDLE_WAIT_MS: '800' } });

    await thinking.heard(HELLO);
    await cold(slot);

    expect(elapsedMs(slot)).toBeGreaterThanOrEqual(800);
    expect(elapsedMs(slot)).toBeLessThan(2_000);
  });

  test('understands lines in pieces, several at once, and skips what it does not know', async () => {
    await using odd = new ScriptedAgent({ path });
    await using slot = new SlotProcess({ agent, command: COLD });
    await odd.heard(HELLO);

    odd.say('\n\0\n???\nclaim \nclaim\0x\nprove \nprove much-too-long-nonce\nrestored 1\nprove one\nprove two\npro');
    await until('both proofs', () => odd.lines.filter((line) => line === 'proved').length === 2);
    odd.say('ve three\nco');
    await until('the third proof', () => odd.lines.filter((line) => line === 'proved').length === 3);
    odd.say('ld\n');
    await cold(slot);

    expect(slot.output).toBe(COLD_OUTPUT);
  });

  test.each(['unix', 'IPv4', 'IPv6', 'IPv6 without brackets'])('proves over %s that it is the process that connected', async (how) => {
    const host = how.startsWith('IPv6') ? '::1' : '127.0.0.1';
    await using slots = await aServer({ tcp: { host, port: 0 } });
    const port = slots.server.tcpPort;
    const address = { unix: agent, IPv4: `tcp:127.0.0.1:${port}`, IPv6: `tcp:[::1]:${port}`, 'IPv6 without brackets': `tcp:::1:${port}` }[
      how
    ];
    await using slot = new SlotProcess({ agent: address ?? '', command: COLD });
    const connection = await slots.next();
    const nonce = newNonce();

    await connection.prove(nonce, never);

    expect(connection.hello).toEqual({ uid: 'pod-1', container: 'web', state: 'undecided' });
    expect(proveProcess(await slot.pid(), nonce)).toBe(true);
    expect(proveProcess(await slot.pid(), newNonce())).toBe(false);
    connection.cold();
    await cold(slot);
    await connection.closed;
  });

  // No shell as PID 1: it changes its own signal mask, and hides what it was started with.
  test.each([
    ['signals, threads and name', ['grep', '-E', '^(Name|Sig[PBIC]|Shd|Threads|NoNewPrivs|Seccomp|PPid|NSpid)', '/proc/self/status']],
    ['descriptors', ['ls', '/proc/self/fd']],
    ['arguments', ['cat', '/proc/self/cmdline']],
    ['environment', ['env']],
    ['limits', ['cat', '/proc/self/limits']],
  ])('becomes an application whose %s are as if it had never been there', async (_what, look) => {
    await using slots = await aServer();
    // A runtime may have given it a mask and ignored signals of its own.
    const given = ['env', '--block-signal=USR2,34', '--ignore-signal=HUP,CHLD'];
    await using without = new SlotProcess({ agent, command: look, program: given });
    await without.ended;
    await using slot = new SlotProcess({ agent, command: look, program: [...given, SLOT] });
    const connection = await slots.next();
    await connection.prove('some-nonce', never);

    connection.claim();
    await slot.startInside('sleep 1000');
    connection.cold();
    await slot.ended;

    expect(slot.output).toBe(without.output);
    expect(slot.output).not.toBe('');
  });

  test('becomes an application with default signal handling and no pending signal', async () => {
    await using slot = new SlotProcess({ agent, command: ['cat', '/proc/self/status'] });
    await slot.ended;

    for (const mask of ['SigPnd', 'ShdPnd', 'SigBlk', 'SigIgn', 'SigCgt']) expect(slot.output).toContain(`${mask}:\t0000000000000000\n`);
    expect(slot.output).toMatch(/^Name:\tcat\n/);
  });

  test.each([
    ['/no/such/program', 127, 'No such file'],
    ['no-such-program', 127, 'No such file'],
    ['/etc/passwd', 126, 'Permission denied'],
  ])('says why it cannot start %s', async (program, status, why) => {
    await using slot = new SlotProcess({ agent, command: [program] });

    expect(await slot.ended).toBe(status);
    expect(slot.output).toContain(program);
    expect(slot.output).toContain(why);
  });

  test('asks nobody and becomes the command at once where it is not PID 1', async () => {
    await using silent = new ScriptedAgent({ path });

    const result = await exec(SLOT, ['sh', '-c', 'echo cold; exit 5'], {
      env: { REKINDLE_AGENT: agent, REKINDLE_POD_UID: 'u', REKINDLE_CONTAINER: 'c' },
    });

    expect(result).toMatchObject({ status: 5, stdout: 'cold' });
    expect(silent.lines).toEqual([]);
  });

  test('tells its version and how to use it', async () => {
    expect(await exec(SLOT, ['--version'])).toMatchObject({ status: 0, stdout: 'rekindle slot, protocol 1' });
    expect(await exec(SLOT, [])).toMatchObject({ status: 2, stderr: expect.stringContaining('usage') });
  });
});

describe.skipIf(!root)('a slot without application (needs root for namespaces)', () => {
  test.each([
    ['undecided', 'wait\n'],
    ['parked', 'park\n'],
    ['claimed', 'claim\n'],
  ])('while %s ends on SIGTERM and SIGINT as an application would, and on nothing else', async (_state, line) => {
    await using deciding = new ScriptedAgent({ path });
    for (const [signal, status] of [
      ['SIGTERM', 143],
      ['SIGINT', 130],
    ] as const) {
      deciding.lines.splice(0);
      await using slot = new SlotProcess({ agent, command: COLD });
      await deciding.heard(HELLO);
      deciding.say(`${line}prove here\n`);
      await deciding.heard('proved');
      for (const other of ['SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGALRM', 'SIGPIPE', 34, 64] as const) await slot.signal(other);
      await slot.startInside('sleep 1000');

      await slot.signal(signal);

      expect(await slot.ended).toBe(status);
      expect(slot.output).toBe('');
      await deciding.heard(`exit ${status}`);
    }
  });

  test('stays parked through restarts of its agent, and can still be started cold', async () => {
    const first = await aServer();
    await using slot = new SlotProcess({ agent, command: COLD });
    const undecided = await first.next();
    undecided.park();
    await undecided.prove('here', never);
    await first.server.close();
    for (let restart = 0; restart < 2; restart++) {
      await using slots = await aServer();
      const connection = await slots.next();
      expect(connection.hello).toEqual({ uid: 'pod-1', container: 'web', state: 'parked' });
      await connection.prove('here', never);
    }
    await using slots = await aServer();
    const connection = await slots.next();

    connection.cold();

    await cold(slot);
    expect(slot.output).toBe(COLD_OUTPUT);
  });
});

/** A namespace with several kinds of processes in it, as a half-done restore leaves them. */
async function halfRestored(slot: SlotProcess): Promise<void> {
  await slot.startInside('sleep 1000');
  await slot.startInside('setsid sh -c "trap : TERM HUP INT; while :; do sleep 1000; done"');
  await slot.startInside('unshare --pid --fork sh -c "sleep 1000 & sleep 1001"');
  await until('all of them run', async () => (await slot.others()).length >= 4);
}

describe.skipIf(!root)('a claimed slot (needs root for namespaces)', () => {
  const ONCE = ['sh', '-c', 'echo cold $$ /proc/[0-9]*; exec sleep 1000'];

  test('kills all there is and starts cold once when the connection ends', async () => {
    await using slots = await aServer();
    await using slot = new SlotProcess({ agent, command: ONCE });
    const connection = await slots.next();
    connection.claim();
    await halfRestored(slot);

    connection.close();
    await cold(slot);

    expect(slot.output).toBe(COLD_OUTPUT);
    expect(await slot.others()).toEqual([]);
  });

  test('does the same when the agent says cold', async () => {
    await using slots = await aServer();
    await using slot = new SlotProcess({ agent, command: ONCE });
    const connection = await slots.next();
    connection.claim();
    await halfRestored(slot);

    connection.cold();
    await cold(slot);

    expect(slot.output).toBe(COLD_OUTPUT);
    expect(await slot.others()).toEqual([]);
  });

  test('was parked before, and does the same', async () => {
    await using slots = await aServer();
    await using slot = new SlotProcess({ agent, command: ONCE });
    const connection = await slots.next();
    connection.park();
    connection.claim();
    await halfRestored(slot);

    connection.close();
    await cold(slot);

    expect(slot.output).toBe(COLD_OUTPUT);
  });

  test('at its deadline kills, then gives whoever restores time to undo, until the connection ends', async () => {
    await using slow = new ScriptedAgent({ path, onConnect: (socket) => socket.write('claim\n') });
    await using slot = new SlotProcess({ agent, command: ONCE, env: { REKINDLE_RESTORE_MS: '700' } });
    await slow.heard(HELLO);
    await slot.startInside('sleep 1000');
    await until('everything is killed', async () => (await slot.others()).length === 0);
    expect(elapsedMs(slot)).toBeGreaterThanOrEqual(700);
    // It has finished killing when it answers.
    slow.say('prove undoing\n');
    await slow.heard('proved');
    // What is started after the deadline must not survive either.
    await slot.startInside('sleep 1000');
    expect(slot.output).toBe('');

    slow.hangUp();
    await cold(slot);

    expect(elapsedMs(slot)).toBeLessThan(3_000);
    expect(slot.output).toBe(COLD_OUTPUT);
  });

  test('starts cold three seconds after its deadline although the connection never ends', async () => {
    await using stuck = new ScriptedAgent({ path, onConnect: (socket) => socket.write('claim\n') });
    await using slot = new SlotProcess({ agent, command: ONCE, env: { REKINDLE_RESTORE_MS: '300' } });
    await stuck.heard(HELLO);
    await slot.startInside('sleep 1000');

    await cold(slot);

    expect(elapsedMs(slot)).toBeGreaterThanOrEqual(3_300);
    expect(elapsedMs(slot)).toBeLessThan(5_000);
    expect(slot.output).toBe(COLD_OUTPUT);
  });

  test('starts cold when told of an application that does not exist', async () => {
    await using slots = await aServer();
    await using slot = new SlotProcess({ agent, command: ONCE });
    const connection = await slots.next();

    connection.claim();
    connection.restored(31_000);
    await cold(slot);

    expect(slot.output).toBe(COLD_OUTPUT);
  });

  test('waits for a helper that inherited the connection, after the agent is gone', async () => {
    await using slots = await aServer();
    await using slot = new SlotProcess({ agent, command: ONCE });
    const connection = await slots.next();
    connection.claim();
    const helper = spawn('sh', ['-c', 'read pid; echo "restored $pid" >&3; read end'], {
      stdio: ['pipe', 'ignore', 'inherit', connection.descriptor],
    });
    const application = await slot.startInside('sleep 1000');
    // Handing it over leaves it usable here.
    await connection.prove('still-read', never);
    await slots.server.close();
    await connection.closed;

    helper.stdin?.write(`${application}\n`);
    helper.stdin?.end('\n');
    await new Promise((resolve) => helper.once('close', resolve));
    await using successor = await aServer();

    expect((await successor.next()).hello).toMatchObject({ state: 'live', pid: application });
  });

  test('starts cold when both agent and helper are gone, not before', async () => {
    await using slots = await aServer();
    await using slot = new SlotProcess({ agent, command: ONCE });
    const connection = await slots.next();
    connection.claim();
    await slot.startInside('sleep 1000');
    const helper = spawn('sleep', ['1000'], { stdio: ['ignore', 'ignore', 'ignore', connection.descriptor] });
    await slots.server.close();
    await connection.closed;
    // Something that takes the slot longer than noticing an end would.
    await slot.startInside('sleep 0.3');
    await until('that has ended', async () => (await slot.others()).length === 1);
    expect(slot.output).toBe('');

    helper.kill('SIGKILL');
    await cold(slot);

    expect(slot.output).toBe(COLD_OUTPUT);
  });

  test('reports an application that died before the agent could name it, and ends with its status', async () => {
    await using slots = await aServer();
    await using slot = new SlotProcess({ agent, command: ONCE });
    const connection = await slots.next();
    connection.claim();
    const die = join(folder, 'die');
    const application = await slot.startInside(`while [ ! -e ${die} ]; do sleep 0.01; done; exit 9`);
    await writeFile(die, '');
    for (let i = 0; i < 20; i++) await slot.startInside('exit 1');
    await until('all are dead', async () => (await slot.others()).length === 0);

    connection.restored(application);

    expect(await connection.ended).toBe(9);
    expect(await slot.ended).toBe(9);
    expect(slot.output).toBe('');
  });
});

describe.skipIf(!root)('a live slot (needs root for namespaces)', () => {
  /** A slot into which `script` was restored. */
  async function live(slots: Awaited<ReturnType<typeof aServer>>, slot: SlotProcess, script: string) {
    const connection = await slots.next();
    connection.claim();
    const application = await slot.startInside(script);
    connection.restored(application);
    await connection.prove('live', never);
    return { connection, application };
  }

  test('forwards every signal, with the value sigqueue gave it, and ends with the status of its application', async () => {
    await using slots = await aServer();
    await using slot = new SlotProcess({ agent, command: COLD });
    const seen = join(folder, 'seen');
    const { connection } = await live(slots, slot, `exec python3 ${SIGNALS} ${seen}`);
    const has = (line: string) => until(line, async () => (await readFile(seen, 'utf8').catch(() => '')).split('\n').includes(line));
    await has('ready');

    const signals = [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 16, 18, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 34, 35, 50, 64];
    for (const signal of signals) {
      await slot.signal(signal);
      await has(`${signal} 0`);
    }
    await exec('/bin/kill', ['-q', '4711', '-s', 'USR2', `${await slot.pid()}`]);
    await has('12 4711');
    await slot.signal('SIGTERM');

    expect(await connection.ended).toBe(7);
    expect(await slot.ended).toBe(7);
    await connection.closed;
  });

  test('reaps orphans, and takes everything along when the application ends', async () => {
    await using slots = await aServer();
    await using slot = new SlotProcess({ agent, command: COLD });
    const go = join(folder, 'go');
    const { connection } = await live(
      slots,
      slot,
      `sleep 1000 & for i in 1 2 3 4 5 6 7 8; do (true & true & exit 0) & done; while [ ! -e ${go} ]; do sleep 0.05; done; exit 4`,
    );
    const pid = await slot.pid();
    await until('no zombie is left to the slot', async () => {
      const children = (await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8')).trim().split(' ');
      return children.length === 1;
    });

    await writeFile(go, '');

    expect(await connection.ended).toBe(4);
    expect(await slot.ended).toBe(4);
  });

  test('ends with 128 + N when a signal killed its application', async () => {
    await using slots = await aServer();
    await using slot = new SlotProcess({ agent, command: COLD });
    const { connection, application } = await live(slots, slot, 'exec sleep 1000');

    await exec('nsenter', ['-t', `${await slot.pid()}`, '-p', '-m', '--', 'sh', '-c', `kill -KILL ${application}`]);

    expect(await connection.ended).toBe(137);
    expect(await slot.ended).toBe(137);
  });

  test('comes back to an agent that restarts, again and again, as live', async () => {
    const first = await aServer();
    await using slot = new SlotProcess({ agent, command: COLD });
    const { application } = await live(first, slot, 'exec sleep 1000');
    await first.server.close();
    for (let restart = 0; restart < 2; restart++) {
      await using slots = await aServer();
      const connection = await slots.next();
      expect(connection.hello).toEqual({ uid: 'pod-1', container: 'web', state: 'live', pid: application });
      await connection.prove(`again-${restart}`, never);
      expect(proveProcess(await slot.pid(), `again-${restart}`)).toBe(true);
    }
    await using slots = await aServer();
    const connection = await slots.next();

    await slot.signal('SIGTERM');

    expect(await connection.ended).toBe(143);
    expect(await slot.ended).toBe(143);
    expect(slot.output).toBe('');
  });

  test('cannot be claimed, parked, started cold or talked to death by an agent', async () => {
    await using hostile = new ScriptedAgent({ path });
    await using slot = new SlotProcess({ agent, command: COLD });
    await hostile.heard(HELLO);
    hostile.say('claim\n');
    const application = await slot.startInside('exec sleep 1000');
    hostile.say(`restored ${application}\nclaim\npark\ncold\nrestored 77\nprove live\n`);
    await hostile.heard('proved');

    hostile.say('z'.repeat(100_000));
    await hostile.heard(`hello 1 pod-1 web live ${application}`);
    hostile.say('prove me\n'.repeat(100_000));
    expect((await slot.others()).length).toBe(1);
    await slot.signal('SIGTERM');

    expect(await slot.ended).toBe(143);
    expect(slot.output).toBe('');
  });

  test('ends without an agent too', async () => {
    const slots = await aServer();
    await using slot = new SlotProcess({ agent, command: COLD });
    await live(slots, slot, 'exec sleep 1000');
    await slots.server.close();

    await slot.signal('SIGTERM');

    expect(await slot.ended).toBe(143);
  });
});
