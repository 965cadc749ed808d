import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { WorkloadSpec } from '../../src/workloads/workload.ts';
import { get, TestEngine } from '../fixtures/engine.ts';

const NODE = `${import.meta.dirname}/../../.build/node`;

let engine: TestEngine;
beforeAll(async () => {
  engine = await TestEngine.open();
});
afterAll(() => engine?.[Symbol.asyncDispose]());

/** A python program that answers every request with what `answer` evaluates to. */
function answering(name: string, answer: string, options: { before?: string; container?: string; policy?: string } = {}): WorkloadSpec {
  const program = `
import os, socket, sys
${options.before ?? ''}
server = socket.create_server(("0.0.0.0", 8080))
while True:
    peer, _ = server.accept()
    peer.recv(4096)
    peer.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n" + str(${answer}).encode())
    peer.close()
`;
  return TestEngine.workload(`
workloads:
  ${name}:
    container:
      rootfs: host
      command: [/usr/bin/python3, -S, -c, ${JSON.stringify(program)}]
      ports: [8080]
${options.container ?? ''}
${options.policy ?? ''}`);
}

describe('variables that differ per instance', () => {
  const own = '      instanceEnv: { ME: name, WHERE: address }';

  test('without a policy: every instance starts cold, and the reason says what to do', async () => {
    const { container, state } = await engine.start(answering('plain', 'os.environ["ME"]', { container: own }), 'plain-one');

    expect(state).toMatchObject({ at: 'cold', reason: expect.stringMatching(/ME, WHERE differ per instance.*restore\.identity/) });
    expect(await get(container)).toBe('plain-one');
  });

  test('identity: file gives a clone its own values, in time for its hook', async () => {
    const workload = answering('file', 'open("/tmp/taken").read()', {
      before: 'open("/tmp/taken", "w").write("seed")',
      container: own,
      policy: '    restore: { identity: file, identityFile: /tmp/who, after: ". /tmp/who; echo -n $ME at $WHERE > /tmp/taken" }',
    });
    await engine.seed(workload, 'file-seed');

    const clone = await engine.clone(workload, 'file-clone');

    expect(await get(clone)).toBe(`file-clone at ${clone.addresses[0]}`);
  });

  test('identity: ignore restores, with the values of the seed', async () => {
    const workload = answering('ignore', 'os.environ["ME"]', { container: own, policy: '    restore: { identity: ignore }' });
    await engine.seed(workload, 'ignore-seed');

    expect(await get(await engine.clone(workload, 'ignore-clone'))).toBe('ignore-seed');
  });
});

describe('random numbers', () => {
  /** Has drawn before it is ready, so that what it drew with is in the snapshot. */
  const drawing = (name: string, container: string, policy = '') =>
    TestEngine.workload(`
workloads:
  ${name}:
    container:
      rootfs: host
      command:
        - ${NODE}
        - -e
        - |
          const c = require('node:crypto'); c.randomBytes(8); c.randomUUID();
          require('node:http').createServer((q, r) => r.end(c.randomBytes(16).toString('hex') + ' ' + c.randomUUID())).listen(8080);
      ports: [8080]
${container}
    checkpoint: { ${policy} }
`);

  test('two clones of a Node service draw different bytes and UUIDs', async () => {
    const workload = drawing('different', '');
    await engine.seed(workload, 'random-seed');

    const clones = await Promise.all([engine.clone(workload, 'random-one'), engine.clone(workload, 'random-two')]);

    const [one, two] = (await Promise.all(clones.map((clone) => get(clone)))).map((said) => said.split(' '));
    expect(one?.[0]).not.toBe(two?.[0]);
    expect(one?.[1]).not.toBe(two?.[1]);
  });

  test('without the preloaded libraries the snapshot is not published, unless the policy says so', async () => {
    const failure = await engine.seed(drawing('shared', '      preload: false'), 'shared-seed').then(() => 'none', String);

    expect(failure).toMatch(/random_shared.*two clones draw the same random bytes from .*container\.preload/);
    const { snapshot } = await engine.seed(drawing('allowed', '      preload: false', 'allowSharedRandom: true'), 'allowed-seed');
    expect(snapshot.warnings.join()).toContain('the same random bytes');
  });

  test('a source that the policy names is compared too', async () => {
    const policy = '    checkpoint: { random: [{ request: { port: 8080 } }] }';
    const same = answering('same', '7 * 6', { policy });
    const other = answering('other', 'os.urandom(8)', { policy });

    const failure = await engine.seed(same, 'same-seed').then(() => 'none', String);

    expect(failure).toMatch(/random_shared.*checkpoint\.random\[0\]/);
    await engine.seed(other, 'other-seed');
  });
});

describe('what stays with one container', () => {
  test('a container that is started again keeps what it wrote in its volume, and starts cold', async () => {
    const workload = answering('again', 'open("/data/starts").read()', {
      before: 'open("/data/starts", "a").write("x")',
      container: '      volumes: [{ at: /data, private: disk }]',
    });
    await engine.seed(workload, 'again-seed');
    const clone = await engine.clone(workload, 'again-clone');
    expect(await get(clone)).toBe('x');
    process.kill(clone.pid, 'SIGKILL');
    await engine.engine.host.wait(clone, AbortSignal.timeout(10_000));

    const again = await engine.engine.host.restart(clone, AbortSignal.timeout(10_000));

    const cold = await engine.until('the cold start', (events) =>
      events.find((event) => event.type === 'instance' && event.uid === again.uid && event.state.at === 'cold'),
    );
    expect(cold).toMatchObject({ state: { reason: expect.stringContaining('restarted') } });
    expect(await get(again)).toBe('xx');
  });

  test('a file open for writing on a shared volume is refused in words, and one only read is not', async () => {
    const shared = await mkdtemp(join(tmpdir(), 'rekindle-shared-'));
    try {
      await writeFile(join(shared, 'file'), 'ours');
      const container = `      volumes: [{ at: /mnt, from: ${shared} }]`;
      const failure = await engine
        .seed(answering('writer', '1', { before: 'log = open("/mnt/log", "a")', container }), 'writer-seed')
        .then(() => 'none', String);

      expect(failure).toMatch(/dump_refused.*open for writing.*\/mnt\/log on the shared volume \/mnt.*make the volume private/);
      const reader = answering('reader', 'os.pread(kept.fileno(), 9, 0).decode()', { before: 'kept = open("/mnt/file")', container });
      const { container: seed } = await engine.seed(reader, 'reader-seed');
      const clone = await engine.clone(reader, 'reader-clone');
      expect(await get(clone)).toBe('ours');
      expect(await readdir(shared)).toEqual(['file', 'log']);
      for (const { uid } of [seed, clone]) await engine.engine.host.remove(uid);
    } finally {
      for (const { uid, workload } of await engine.engine.host.list()) if (workload.name === 'writer') await engine.engine.host.remove(uid);
      await rm(shared, { recursive: true, force: true });
    }
  });

  test('readiness commands and hooks have no right that the container lacks', async () => {
    const rights = 'grep -E "^(Cap|NoNewPrivs|Seccomp:|Uid)" /proc/self/status';
    const workload = answering('modest', 'open("/tmp/ready").read() + "|" + open("/proc/1/status").read()', {
      container: `      user: '65534:65534'\n      capabilities: []\n      readiness: ${JSON.stringify(`${rights} > /tmp/ready`)}`,
    });
    const { container } = await engine.seed(workload, 'modest-seed');

    const [ready = '', own = ''] = (await get(container)).split('|');

    expect(ready.trim().split('\n').sort()).toEqual(
      own
        .split('\n')
        .filter((line) => /^(Cap|NoNewPrivs|Seccomp:|Uid)/.test(line))
        .sort(),
    );
    expect(ready).toMatch(/CapBnd:\s0000000000000000/);
    expect(await readFile(`/proc/${container.pid}/status`, 'utf8')).toContain('NoNewPrivs:\t1');
  });
});
