import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { exec, mustExec } from '../../src/lib/exec.ts';
import type { Container } from '../../src/workloads/host.ts';
import { get, TestEngine } from '../fixtures/engine.ts';
import { findings, hostWorkload, Program } from '../fixtures/survive/workloads.ts';

let survivor: Program;
let engine: TestEngine;

beforeAll(async () => {
  [survivor, engine] = await Promise.all([Program.compile('survivor'), TestEngine.open()]);
});
afterAll(async () => {
  await engine[Symbol.asyncDispose]();
  await survivor[Symbol.asyncDispose]();
});

const PROBED = `      ports: [8080]
      readiness: { http: { path: /healthz, port: 8080 }, periodSeconds: 0.02 }
      warmup: { request: { port: 8080 }, count: 3 }
`;

/** A seed and two clones of it, all alive, of a survivor with these checks. */
async function family(name: string, checks: readonly string[], more = '', policy = ''): Promise<readonly Container[]> {
  const workload = hostWorkload(name, [survivor.path, ...checks], `${PROBED}${more}`, policy);
  const { container: seed } = await engine.seed(workload, `${name}-seed`);
  const clones = await Promise.all([engine.clone(workload, `${name}-1`), engine.clone(workload, `${name}-2`)]);
  return [seed, ...clones];
}

describe('a seed goes on with, and each of two clones has', () => {
  for (const [what, check] of [
    ['its threads, with what is theirs alone', 'threads'],
    ['a tree of processes and their pipes', 'tree'],
    ['unix sockets: stream, datagram and pairs, with what was on its way', 'unix'],
    ['TCP and UDP listeners on IPv4 and IPv6', 'listeners'],
    ['epoll, eventfd, timerfd, signalfd and inotify', 'events'],
    ['files it wrote, one of them deleted but open', 'files'],
    ['a memfd', 'memfd'],
    ['a mapped file of /dev/shm', 'shm'],
    ['SysV shared memory and a semaphore', 'sysv'],
  ] as const) {
    test(what, async () => {
      const instances = await family(check, [check]);

      for (const container of instances) {
        // Twice: the second look asks for what the first one left.
        for (let look = 0; look < 2; look++) {
          const { ok, failed } = await findings(container);
          expect(failed, container.name).toEqual([]);
          expect(ok.length, container.name).toBeGreaterThan(0);
        }
      }
    });
  }
});

test('clones have a heap of 1 GB, every word of it', { timeout: 240_000 }, async () => {
  const policy = '    checkpoint: { deadlineSeconds: 180 }\n    restore: { deadlineSeconds: 60 }';

  const instances = await family('heap', ['heap=1024'], '', policy);

  for (const container of instances) expect(await findings(container), container.name).toEqual({ ok: ['heap'], failed: [] });
});

test('a clone of a user without capabilities, under a filter, has exactly the rights of the seed', async () => {
  const more = '      user: "1234:1235"\n      capabilities: []\n';
  const checks = ['rights', 'threads', 'tree', 'files', 'events', 'unix'];

  const instances = await family('rights', checks, more);

  const [seed, ...clones] = await Promise.all(instances.map((container) => get(container, '/rights')));
  expect(seed).toMatch(/^rights.Uid ok 1234 1234 1234 1234$/m);
  expect(seed).toMatch(/^rights.CapBnd ok 0000000000000000$/m);
  expect(seed).toMatch(/^rights.NoNewPrivs ok 1$/m);
  expect(seed).toMatch(/^rights.Seccomp ok 2$/m);
  expect(clones).toEqual([seed, seed]);
  for (const container of instances) expect((await findings(container)).failed, container.name).toEqual([]);
});

test('a clone with a read-only root writes into its memory volumes, and only there', async () => {
  const more = `      readOnlyRoot: true
      volumes: [{ at: /srv, private: memory }, { at: /run, private: memory }]
`;
  const checks = ['dir=/run/survivor', 'readonly=/srv', 'files', 'unix', 'threads'];

  const instances = await family('read-only', checks, more);

  for (const container of instances) {
    const { ok, failed } = await findings(container);
    expect(failed, container.name).toEqual([]);
    expect(ok).toContain('readonly.root');
    expect(ok).toContain('readonly.writable');
  }
});

/** The machine's end of the containers' network: where a container finds what runs outside. */
function gateway(): string {
  return engine.config.subnet.replace(/\.0\/24$/, '.1');
}

test('an outgoing connection is closed in clones, which see it, and stays open in the seed', async () => {
  const accepted = new Set<Socket>();
  const server = createServer((socket) => accepted.add(socket.on('error', () => accepted.delete(socket))));
  server.listen(0, '0.0.0.0');
  await once(server, 'listening');
  const address = server.address();
  const port = typeof address === 'object' && address !== null ? address.port : 0;

  const [seed, ...clones] = await family('outgoing', [`outgoing=${gateway()}:${port}`]);

  expect(seed && (await get(seed))).toBe('outgoing ok open\n');
  for (const clone of clones) expect(await get(clone), clone.name).toMatch(/^outgoing ok closed /);
  for (const socket of accepted) socket.destroy();
  server.close();
});

test('a clone listens on its own address, and sends UDP from it, where the seed did from its own', async () => {
  const echo = createSocket('udp4');
  echo.on('message', (_, from) => echo.send(`you are ${from.address}`, from.port, from.address));
  echo.bind(0);
  await once(echo, 'listening');
  const script = `${import.meta.dirname}/../fixtures/survive/addressed.py`;
  // As in an image, where the snapshots are is not to be seen in the container.
  const hidden = `      volumes: [{ at: ${engine.config.stateDir}, private: disk }]\n`;
  const more = `      ports: [8080]\n      readiness: { http: { port: 8080 }, timeoutSeconds: 3 }\n${hidden}`;
  const workload = hostWorkload('addressed', ['/usr/bin/python3', script, gateway(), String(echo.address().port)], more);

  // As on a machine whose mounts are shared, which is what systemd makes of them.
  const snapshots = join(engine.config.stateDir, 'snapshots');
  await mustExec(exec, 'mount', ['--bind', snapshots, snapshots]);
  onTestFinished(() => mustExec(exec, 'umount', ['--lazy', snapshots]).then(() => undefined));
  await mustExec(exec, 'mount', ['--make-shared', snapshots]);
  const { container: seed } = await engine.seed(workload, 'addressed-seed');
  const clones = [await engine.clone(workload, 'addressed-1'), await engine.clone(workload, 'addressed-2')];
  const mounts = await readFile('/proc/self/mountinfo', 'utf8');

  expect(mounts).not.toContain('files.img');
  for (const container of [seed, ...clones]) {
    const [own] = container.addresses;
    expect(await get(container), container.name).toBe(`${own} ${own} you are ${own}`);
  }
  expect(new Set([seed, ...clones].map(({ addresses }) => addresses[0])).size).toBe(3);
  echo.close();
});

test('a terminal of which the application holds both ends', async () => {
  const script = `
import http.server, os, pty, tty
master, slave = pty.openpty()
tty.setraw(slave)
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        os.write(slave, self.path.encode())
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"over %s: %s" % (os.ttyname(slave).encode(), os.read(master, 100)))
    def log_message(self, *_): pass
http.server.HTTPServer(("", 8080), Answer).serve_forever()
`;
  const workload = hostWorkload('terminal', ['/usr/bin/python3', '-c', script], '      ports: [8080]\n');

  const { container: seed } = await engine.seed(workload, 'terminal-seed');
  const clones = [await engine.clone(workload, 'terminal-1'), await engine.clone(workload, 'terminal-2')];

  for (const container of [seed, ...clones]) {
    expect(await get(container, `/${container.name}`)).toBe(`over /dev/pts/0: /${container.name}`);
  }
});

test('a child that ended and that nobody has waited for, and a listener that would rather be MPTCP', async () => {
  const script = `
import http.server, os, socket, time
child = os.fork()
if child == 0: os._exit(7)
time.sleep(0.05)
IPPROTO_MPTCP = 262
class Server(http.server.HTTPServer):
    def __init__(self, address, handler):
        super().__init__(address, handler, bind_and_activate=False)
        try: self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)
        except OSError as refused: self.refused = refused.strerror
        self.server_bind()
        self.server_activate()
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        answer = f"{self.server.refused}; waiting: {os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT).si_status}"
        self.wfile.write(answer.encode())
    def log_message(self, *_): pass
Server(("", 8080), Answer).serve_forever()
`;
  const workload = hostWorkload('undead', ['/usr/bin/python3', '-c', script], '      ports: [8080]\n');

  const { container: seed } = await engine.seed(workload, 'undead-seed');
  const clones = [await engine.clone(workload, 'undead-1'), await engine.clone(workload, 'undead-2')];

  for (const container of [seed, ...clones]) expect(await get(container)).toBe('Protocol not supported; waiting: 7');
});
