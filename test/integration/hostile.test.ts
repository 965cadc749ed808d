import { randomBytes, randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { agentRuns } from '../../src/commands/engine.ts';
import { exec, mustExec } from '../../src/lib/exec.ts';
import type { WorkloadSpec } from '../../src/workloads/workload.ts';
import { AgentProcess } from '../fixtures/agent-process.ts';
import { get, TestEngine } from '../fixtures/engine.ts';
import { leftovers } from '../fixtures/leftovers.ts';
import { SlotRig } from '../fixtures/slot-rig.ts';
import { until } from '../fixtures/until.ts';

/** A directory of this machine, and so of the image `rootfs: host`. */
let tree: string;
let vandal: WorkloadSpec;
let engine: TestEngine;
let seen: { readonly before: unknown; readonly now: unknown };

beforeAll(async () => {
  tree = await mkdtemp('/var/tmp/canary-');
  for (const dir of ['deleted-dir', 'becomes-link', 'emptied', 'other-mode']) {
    await mkdir(join(tree, dir));
    await writeFile(join(tree, dir, 'old'), 'of the image');
  }
  for (const file of ['deleted', 'becomes-dir', 'changed']) await writeFile(join(tree, file), 'of the image');
  await symlink('/etc', join(tree, 'link-out'));
  await chmod(join(tree, 'other-mode'), 0o755);
  vandal = TestEngine.workload(`
workloads:
  vandal:
    container:
      rootfs: host
      command: [/usr/bin/python3, -S, ${import.meta.dirname}/../fixtures/vandal.py, ${tree}, /data]
      noNewPrivileges: false
      volumes: [{ at: /data, private: disk }]
      ports: [8080]
      readiness: { http: { port: 8080 }, periodSeconds: 0.05 }
`);
  engine = await TestEngine.open();
});

afterAll(async () => {
  await engine?.[Symbol.asyncDispose]();
  if (tree !== undefined) await rm(tree, { recursive: true, force: true });
});

/** Everything about the directory that a write to it would change. */
async function canary(): Promise<string> {
  const { stdout } = await mustExec(exec, 'find', [tree, '/etc/passwd', '/etc/shadow', '-printf', '%p %i %m %U %G %s %T@ %C@\\n']);
  return stdout;
}

test('whatever a seed did to its files its clones have, and nothing outside a slot was touched', async () => {
  const before = await canary();
  const { container: seed } = await engine.seed(vandal);
  seen = { before: JSON.parse(await get(seed, '/before')), now: JSON.parse(await get(seed, '/now')) };

  const clone = await engine.clone(vandal, 'clone');

  expect(withoutTimesOfTops(JSON.parse(await get(clone, '/now')))).toEqual(withoutTimesOfTops(seen.now));
  expect(await canary()).toBe(before);
  expect(existsSync(`/run/${basename(tree)}`)).toBe(false);
  await engine.engine.host.remove(clone.uid);
  await engine.engine.host.remove(seed.uid);
});

test.each([
  ['is named .wh.', `open("/var/tmp/.wh.x", "w")`, /a name that begins with \.wh\. cannot travel/],
  [
    'lies 300 directories deep',
    `import os\nos.chdir("/var/tmp")\nfor i in range(300): os.mkdir("d"); os.chdir("d")`,
    /nested more than 200 deep cannot travel/,
  ],
])('what %s is no part of a snapshot, and the seed serves', async (_what, python, reason) => {
  const program = `${python}\nimport socket, time\ns = socket.create_server(("0.0.0.0", 8080))\nwhile True: s.accept()[0].sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\nhere")`;
  const workload = TestEngine.workload(`
workloads:
  odd:
    container:
      rootfs: host
      command: [/usr/bin/python3, -S, -c, ${JSON.stringify(program)}, ${randomUUID()}]
      ports: [8080]
`);

  const failure = await engine.seed(workload, 'odd').then(() => 'none', String);

  expect(failure).toMatch(reason);
  expect(failure).toContain('dump_refused');

  const [odd] = (await engine.engine.host.list()).filter(({ name }) => name === 'odd');
  expect(odd && (await get(odd))).toBe('here');
  await engine.engine.host.remove(odd?.uid ?? '');
});

test('whoever speaks for another container, floods or talks nonsense keeps nobody else from being served', {
  timeout: 60_000,
}, async () => {
  const plain = TestEngine.workload(`
workloads:
  plain:
    container:
      rootfs: host
      command: [/usr/bin/python3, -S, -m, http.server, '8080', --directory, ${tree}]
      ports: [8080]
`);
  await engine.seed(plain, 'plain-seed');
  const victim = await engine.clone(plain, 'victim');
  await using crowd = new Crowd(engine.engine.host.agentSocket);

  // It answers whatever it is asked, but it is not process 1 of the container it names.
  const impostor = await crowd.join(`hello 1 ${victim.uid} plain undecided\n`, (line) =>
    line.startsWith('prove ') ? 'proved\n' : undefined,
  );
  await until('the impostor is thrown out', () => impostor.destroyed);
  const flood = setInterval(() => {
    for (let i = 0; i < 4; i++) {
      void crowd.join(`hello 1 ${i % 2 ? victim.uid : randomUUID()} plain undecided\n`);
      void crowd.join(randomBytes(64));
      void crowd.join('hello 1');
    }
  }, 10);
  try {
    const clones = await Promise.all(['amid-one', 'amid-two', 'amid-three'].map((name) => engine.clone(plain, name)));
    for (const clone of [...clones, victim]) expect(await get(clone)).toContain('becomes-link');
  } finally {
    clearInterval(flood);
  }
  expect(crowd.said).not.toContain('claim');
  expect(engine.events.filter((event) => event.type === 'instance' && event.uid === victim.uid && event.state.at === 'ended')).toEqual([]);
  for (const { uid } of await engine.engine.host.list()) await engine.engine.host.remove(uid);
});

test('an application that becomes a slot again is not restored into', async () => {
  // With the command line and environment of another workload it would get that one's memory.
  const program = `import os, time\nif not os.path.exists("/tmp/again"):\n  open("/tmp/again", "w").close()\n  time.sleep(0.3)\n  os.execv("/rekindle/slot", ["/rekindle/slot", "/usr/bin/python3", "-S", "-c", "import socket\\ns = socket.create_server(('0.0.0.0', 8080))\\nwhile True: s.accept()[0].sendall(b'HTTP/1.0 200 OK\\\\r\\\\n\\\\r\\\\nmine')"])`;
  const workload = TestEngine.workload(`
workloads:
  again:
    container:
      rootfs: host
      command: [/usr/bin/python3, -S, -c, ${JSON.stringify(program)}]
      ports: [8080]
    restore: { identity: ignore }
`);
  const container = await engine.engine.host.create(workload, { name: 'again', signal: AbortSignal.timeout(10_000) });

  const told = await engine.until('the second hello', (events) =>
    events.find(
      (event) =>
        event.type === 'instance' && event.uid === container.uid && event.state.at === 'cold' && event.state.reason.includes('before'),
    ),
  );

  expect(told).toBeDefined();
  expect(await get(container)).toBe('mine');
  await engine.engine.host.remove(container.uid);
});

test('a second agent for the same machine is refused, and the first goes on', async () => {
  await expect(AgentProcess.start(engine.config)).rejects.toThrow(/another agent listens there/);

  expect(await agentRuns(engine.engine.host.agentSocket)).toBe(true);
});

test('a restore that fails puts every file back as it was', async () => {
  const digest = (await engine.engine.store.list()).find(({ manifest }) => manifest.workload === 'vandal')?.digest ?? '';
  await using rig = await SlotRig.open(engine, digest);

  const fewer = { ...vandal, container: { ...vandal.container, noNewPrivileges: true } };
  const { container, error } = await rig.refused(fewer, 'fewer');

  expect(error.code).toBe('rights_exceeded');
  const before = JSON.parse(await get(container, '/before'));
  // Directories in which something was made and removed again have the time of that.
  expect(withoutTimesOfDirectories(before)).toEqual(withoutTimesOfDirectories(seen.before));
  await expect.poll(() => leftovers(engine.config, engine.engine.host), { timeout: 5_000 }).toEqual([]);
});

test('the helper kills nobody in its own PID namespace, should a slot’s number be another’s by now', async () => {
  const helper = join(engine.config.buildDir, 'agent', 'helper');
  const script = `sleep 60 & ${helper} undo --pid $! --journal ${tree}/none; ${helper} undo --cold --pid $! --journal ${tree}/none; kill -0 $! && echo alive`;

  const { stdout } = await mustExec(exec, 'unshare', ['--pid', '--fork', '--kill-child', '--mount-proc', 'sh', '-c', script], {
    timeoutMs: 10_000,
    keepBytes: 100,
  });

  expect(stdout).toContain('alive');
});

/** Sockets are bound anew in the two uppermost directories, which changes their times. */
function withoutTimesOfTops(value: unknown): unknown {
  return JSON.parse(JSON.stringify(value, (key, inner) => (key === '' && 'owner' in inner ? { ...inner, time: 0 } : inner)));
}

function withoutTimesOfDirectories(value: unknown): unknown {
  return JSON.parse(JSON.stringify(value, (_key, inner) => (inner?.mode?.startsWith('0o4') ? { ...inner, time: 0 } : inner)));
}

/** Connections to the agent that mean no good. */
class Crowd implements AsyncDisposable {
  readonly said: string[] = [];
  readonly #path: string;
  readonly #sockets = new Set<Socket>();

  constructor(path: string) {
    this.#path = path;
  }

  async join(first: string | Buffer, answer: (line: string) => string | undefined = () => undefined): Promise<Socket> {
    const socket = connect(this.#path);
    this.#sockets.add(socket);
    socket.on('error', () => socket.destroy());
    socket.on('close', () => this.#sockets.delete(socket));
    socket.on('data', (chunk) => {
      for (const line of chunk.toString().trim().split('\n')) {
        this.said.push(line);
        const reply = answer(line);
        if (reply !== undefined) socket.write(reply);
      }
    });
    socket.write(first);
    return socket;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
  }
}
