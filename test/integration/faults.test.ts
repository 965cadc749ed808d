import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { cp, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { processTree } from '../../src/checkpoint/process.ts';
import { exec, mustExec } from '../../src/lib/exec.ts';
import type { Snapshot } from '../../src/snapshots/shelf.ts';
import type { Container } from '../../src/workloads/host.ts';
import type { WorkloadSpec } from '../../src/workloads/workload.ts';
import { AgentProcess } from '../fixtures/agent-process.ts';
import { get, TestEngine } from '../fixtures/engine.ts';
import { applications, leftovers, workers } from '../fixtures/leftovers.ts';
import { until } from '../fixtures/until.ts';

const WITNESS = `${import.meta.dirname}/../fixtures/witness.py`;

function aWitness(extra = '', ballastMiB = 20): WorkloadSpec {
  return TestEngine.workload(`
workloads:
  witness:
    container:
      rootfs: host
      command: [/usr/bin/python3, -S, ${WITNESS}, '${ballastMiB}']
      volumes: [{ at: /data, private: disk }]
      ports: [8080]
      readiness: { http: { port: 8080 }, periodSeconds: 0.05 }
      warmup: { request: { port: 8080 }, count: 9 }
${extra}`);
}

type Answer = { host: string; count: number; found: Record<string, unknown>; kept: number; files: number; issue: string };

async function ask(container: Container): Promise<Answer> {
  return JSON.parse(await get(container));
}

/** Asks a container that is live or cold, whichever, and holds it to what that means: one application, and all files of one kind or the other. */
async function expectSound(container: Container, pristine: Answer['found']): Promise<'live' | 'cold'> {
  const answer = await ask(container);
  // An application answers before criu has let go of it.
  const { restored, pids } = await until('an application of its own', () => {
    const found = applications(container);
    return found.pids.length > 0 && found;
  });
  expect(pids).toHaveLength(1);
  expect(answer).toMatchObject({ host: container.name, found: pristine, kept: 1, files: 40 });
  if (restored) expect(answer.count).toBeGreaterThan(10);
  else expect(answer.count).toBeLessThan(10);
  return restored ? 'live' : 'cold';
}

describe('with an agent in this process', () => {
  const witness = aWitness();
  let engine: TestEngine;
  let pristine: Answer['found'];

  beforeAll(async () => {
    engine = await TestEngine.open();
    const { container } = await engine.seed(witness);
    pristine = (await ask(container)).found;
    await engine.engine.host.remove(container.uid);
  });
  afterAll(() => engine?.[Symbol.asyncDispose]());

  test('a helper killed at any moment of a restore leaves its slot live or cold, whole either way', { timeout: 120_000 }, async () => {
    const ends: string[] = [];
    let killed = 0;
    const work = join(engine.config.runDir, 'work');
    for (let round = 0; round < 24; round++) {
      // The same snapshot again and again would be quarantined: success resets the count, and so every third round is left alone.
      const spare = round % 3 === 2;
      const starting = engine.engine.host.create(witness, { name: `round-${round}`, signal: AbortSignal.timeout(30_000) });
      if (!spare) {
        const helper = await helperIn(
          work,
          starting.then((one) => engine.settled(one)),
        );
        await delay((round * 5) % 75);
        // It may have been quicker.
        if (helper !== undefined && killIfThere(helper.pid)) killed += 1;
      }
      const container = await starting;
      const state = await engine.settled(container);
      expect(await expectSound(container, pristine), JSON.stringify(state)).toBe(state.at);
      ends.push(state.at);
      await engine.engine.host.remove(container.uid);
    }
    console.log('helper killed:', ends.join(' '));
    await expect.poll(() => leftovers(engine.config, engine.engine.host), { timeout: 5_000 }).toEqual([]);
    expect(killed).toBeGreaterThan(4);
    expect(ends).toContain('cold');
  });

  test('criu killed at any moment of a restore leaves its slot cold or live', { timeout: 60_000 }, async () => {
    const work = join(engine.config.runDir, 'work');
    for (let round = 0; round < 6; round++) {
      const starting = engine.engine.host.create(witness, { name: `criu-${round}`, signal: AbortSignal.timeout(30_000) });
      if (round % 3 < 2) {
        const helper = await helperIn(
          work,
          starting.then((one) => engine.settled(one)),
        );
        const pid = helper?.pid ?? 0;
        const criu = await until(
          'its criu',
          () => processTree(pid).find((one) => commandOf(one).startsWith('/usr/sbin/criu')) ?? !alive(pid),
        );
        await delay(round * 6);
        if (typeof criu === 'number') killIfThere(criu);
      }
      const container = await starting;
      const state = await engine.settled(container);
      expect(await expectSound(container, pristine), JSON.stringify(state)).toBe(state.at);
      if (state.at === 'cold') expect(state.code).toBe('restore_failed');
      await engine.engine.host.remove(container.uid);
    }
    await expect.poll(() => leftovers(engine.config, engine.engine.host), { timeout: 5_000 }).toEqual([]);
  });

  test('three restores in a row that fail end the use of a snapshot, also by the next agent; one that succeeds starts the count again', async () => {
    // Deadlines are no part of what must be equal, so this is the same snapshot.
    const hasty = { ...witness, restore: { ...witness.restore, deadlineSeconds: 0.001 } };
    const failing = async (name: string) => {
      const { container, state } = await engine.start(hasty, name);
      expect(state).toMatchObject({ at: 'cold', code: 'restore_failed', reason: expect.stringContaining('deadline') });
      expect(await expectSound(container, pristine)).toBe('cold');
      await engine.engine.host.remove(container.uid);
    };
    const [snapshot] = await engine.engine.store.list();
    const digest = snapshot?.digest ?? '';
    await engine.clone(witness, 'before').then(({ uid }) => engine.engine.host.remove(uid));

    await failing('one');
    await failing('two');
    await engine.clone(witness, 'between').then(({ uid }) => engine.engine.host.remove(uid));
    await failing('three');
    await failing('four');
    expect(engine.engine.store.quarantined().get(digest)).toBeUndefined();
    await failing('five');

    expect(engine.engine.store.quarantined().get(digest)).toMatchObject({
      reason: expect.stringMatching(/3 restores in a row failed.*deadline/),
    });
    // Nobody restores it, and nobody makes another like it at once.
    const { container, state } = await engine.start(witness, 'after');
    expect(state).toMatchObject({ at: 'cold', reason: expect.stringContaining('3 restores in a row failed') });
    await engine.engine.host.remove(container.uid);
    await expect.poll(() => leftovers(engine.config, engine.engine.host), { timeout: 5_000 }).toEqual([]);
  });
});

describe('applications that are of no use after their restore', () => {
  let engine: TestEngine;
  beforeAll(async () => {
    engine = await TestEngine.open();
  });
  afterAll(() => engine?.[Symbol.asyncDispose]());

  /** Serves; what it does when it finds itself in another container than the one it began in comes from the test. */
  function turncoat(name: string, then: string, extra = ''): WorkloadSpec {
    const program = `
import os, socket, time
born = socket.gethostname()
server = socket.create_server(("0.0.0.0", 8080))
while True:
    peer, _ = server.accept()
    if socket.gethostname() == "clone" and born != "clone":
        ${then}
    peer.recv(4096)
    peer.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n" + born.encode())
    peer.close()
`;
    return TestEngine.workload(`
workloads:
  ${name}:
    container:
      rootfs: host
      command: [/usr/bin/python3, -S, -c, ${JSON.stringify(program)}]
      ports: [8080]
      readiness: { http: { port: 8080 }, periodSeconds: 0.05 }
    restore: { deadlineSeconds: 6${extra} }
`);
  }

  test.each([
    ['ends', turncoat('ends', 'os._exit(0)'), /restore failed/],
    ['hangs', turncoat('hangs', 'time.sleep(3600)'), /not ready (within|after) 6/],
    [
      'fails its hook',
      turncoat('hook', 'pass', ', after: "[ $(hostname) != clone ] || { echo no >&2; exit 3; }"'),
      /hook failed: command ended with 3: no/,
    ],
    [
      'has a hook that takes too long',
      turncoat('slow', 'pass', ', after: { command: "[ $(hostname) != clone ] || sleep 60", timeoutSeconds: 2 }'),
      /hook failed: command was not done within 2000 ms/,
    ],
  ])('one that %s is started over, cold, and its reason is told', async (_what, workload, reason) => {
    const { container: seed } = await engine.seed(workload, 'seed');
    const container = await engine.engine.host.create(workload, { name: 'clone', signal: AbortSignal.timeout(30_000) });

    const cold = await engine.until(
      'the cold start',
      (events) => events.find((event) => event.type === 'instance' && event.uid === container.uid && event.state.at === 'cold'),
      30_000,
    );

    expect(cold).toMatchObject({ state: { reason: expect.stringMatching(reason) } });
    const again = await engine.engine.host.find(container.uid);
    expect(again).toMatchObject({ restarts: 1 });
    expect(again && (await get(again))).toBe('clone');
    if (again) expect(applications(again)).toEqual({ restored: false, pids: [again.pid] });
    for (const { uid } of [seed, container]) await engine.engine.host.remove(uid);
    await expect.poll(() => leftovers(engine.config, engine.engine.host), { timeout: 5_000 }).toEqual([]);
  });
});

describe('snapshots that are not what they were', () => {
  const witness = aWitness('', 5);
  let engine: TestEngine;
  beforeAll(async () => {
    engine = await TestEngine.open();
  });
  afterAll(() => engine?.[Symbol.asyncDispose]());

  async function fresh(): Promise<Snapshot> {
    for (const { digest } of await engine.engine.store.list()) await engine.engine.store.remove(digest);
    const { container, snapshot } = await engine.seed(witness);
    await engine.engine.host.remove(container.uid);
    return engine.engine.store.get(snapshot.digest);
  }

  test('one flipped bit is found at the next restore, and by an agent that starts', async () => {
    const found: string[] = [];
    for (const wanted of [/^images\/pages-/, /^images\/core-/, /^files\/.*issue/]) {
      const { dir, manifest } = await fresh();
      const file = manifest.files.find(({ path, type }) => type === 'file' && wanted.test(path))?.path ?? '';
      await flipBit(join(dir, file));

      const { container, state } = await engine.start(witness, 'cold');

      found.push(file);
      expect(state).toMatchObject({ at: 'cold', code: 'snapshot_corrupt', reason: expect.stringContaining(file) });
      expect(await engine.engine.store.list()).toEqual([]);
      expect((await ask(container)).count).toBe(1);
      await engine.engine.host.remove(container.uid);
    }
    expect(found).toHaveLength(3);

    const { dir, manifest } = await fresh();
    await engine.engine[Symbol.asyncDispose]();
    await flipBit(join(dir, manifest.files.findLast(({ type }) => type === 'file')?.path ?? ''));
    await using _agent = await AgentProcess.start(engine.config);
    expect(existsSync(dir)).toBe(false);
  });
});

describe('snapshots that cannot be restored', () => {
  test('images that CRIU does not understand, though their digests are right, give a cold start with its reason', async () => {
    const witness = aWitness('', 5);
    await using engine = await TestEngine.open();
    const { container: seed, snapshot } = await engine.seed(witness);
    const pristine = (await ask(seed)).found;
    const { dir } = await engine.engine.store.get(snapshot.digest);
    const copy = join(engine.config.stateDir, 'copy');
    await cp(dir, copy, { recursive: true, preserveTimestamps: true });
    const name = readdirSync(join(copy, 'images')).find((image) => image.startsWith('core-')) ?? '';
    const text = readFileSync(join(copy, 'images', name)).fill(0xff, 40, 80);
    await writeFile(join(copy, 'images', name), text);
    const manifest = JSON.parse(readFileSync(join(copy, 'manifest.json'), 'utf8'));
    for (const file of manifest.files) if (file.path === `images/${name}`) file.sha256 = createHash('sha256').update(text).digest('hex');
    manifest.createdAt = new Date(Date.parse(manifest.createdAt) + 1000).toISOString();
    await writeFile(join(copy, 'manifest.json'), JSON.stringify(manifest));
    await engine.engine.store.importDirectory(copy, AbortSignal.timeout(10_000));

    const { container, state } = await engine.start(witness, 'cold');

    expect(state).toMatchObject({ at: 'cold', code: 'restore_failed', reason: expect.stringContaining('CRIU says') });
    expect(await expectSound(container, pristine)).toBe('cold');
    await expect.poll(() => leftovers(engine.config, engine.engine.host), { timeout: 5_000 }).toEqual([]);
  });

  test('a full disk stops a checkpoint and nothing else', async () => {
    await using engine = await TestEngine.open();
    const snapshots = join(engine.config.stateDir, 'snapshots');
    await mustExec(exec, 'mount', ['-t', 'tmpfs', '-o', 'size=12m,mode=700', 'rekindle-test', snapshots]);
    try {
      const failure = await engine.seed(aWitness('', 30)).then(() => 'none', String);

      expect(failure).toContain('disk_full');
      const [seed] = await engine.engine.host.list();
      expect(seed && (await ask(seed)).count).toBe(11);
      expect(readdirSync(snapshots)).toEqual([]);
    } finally {
      await mustExec(exec, 'umount', [snapshots]);
    }
  });

  test('criu killed while it dumps: the seed goes on, and its container can be seen to be whole', { timeout: 90_000 }, async () => {
    await using engine = await TestEngine.open();
    const ends: string[] = [];
    for (let round = 0; round < 6; round++) {
      // Another environment is another spec: one that failed is not tried again at once.
      const base = aWitness('', 100);
      const witness = { ...base, container: { ...base.container, env: { ROUND: String(round) } } };
      const container = await engine.engine.host.create(witness, { name: `seed-${round}`, signal: AbortSignal.timeout(30_000) });
      const criu = await until(
        'criu',
        () => workers(join(engine.config.stateDir, 'snapshots')).find(({ command }) => / dump -t /.test(command)),
        20_000,
      );
      await delay(round * 25);
      killIfThere(criu.pid);
      const end = await engine.until('the end of the checkpoint', (events) => events.findLast((event) => event.type !== 'instance'));
      // In the moments before its own code is in the application, a criu that is killed takes that with it: then it is started again.
      const isOver = () =>
        engine.events.some((event) => event.type === 'instance' && event.state.at === 'cold' && event.state.code === 'dump_failed');
      const now = await until('the application', async () => {
        const found = await engine.engine.host.find(container.uid);
        return found !== undefined && (found.restarts === 0 || isOver()) ? found : undefined;
      });
      ends.push(`${end.type}${now.restarts === 0 ? '' : ' (started over)'}`);
      const answer = await ask(now);
      expect(answer).toMatchObject({ kept: 1 + now.restarts, files: 40 });
      expect(readdirSync(`/proc/${now.pid}/root/var/tmp/witness/deep`)).toHaveLength(40);
      expect(readFileSync(`/proc/${now.pid}/stat`, 'utf8')).not.toMatch(/\) [Tt] /);
      await engine.engine.host.remove(container.uid);
      engine.events.length = 0;
    }
    console.log('criu killed while it dumped:', ends.join(' '));
    expect(ends.join(' ')).toContain('checkpoint-failed');
    await expect.poll(() => leftovers(engine.config, engine.engine.host), { timeout: 5_000 }).toEqual([]);
  });
});

function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8');
  } catch {
    return '';
  }
}

function alive(pid: number): boolean {
  return existsSync(`/proc/${pid}`);
}

/** Whether it was there. */
function killIfThere(pid: number): boolean {
  try {
    return process.kill(pid, 'SIGKILL');
  } catch {
    return false;
  }
}

/** The helper of the restore that runs; undefined where it was over before it was seen, as it may be on a machine with much else to do. */
async function helperIn(work: string, over: Promise<unknown>): Promise<{ readonly pid: number } | undefined> {
  let isOver = false;
  const ended = () => {
    isOver = true;
  };
  over.then(ended, ended);
  // Not among all processes of the machine: the agent in this process could do nothing else meanwhile.
  const restores = (command: string) => command.includes('\0restore\0') && command.includes(`${work}/`);
  const helpers = () => processTree(process.pid).filter((pid) => restores(commandOf(pid)));
  const found = await until('a helper', () => helpers()[0] ?? isOver, 60_000);
  return found === true ? undefined : { pid: found };
}

const helperOf = (work: string) => workers(work).find(({ command }) => / restore --pid /.test(command));

/** A restore that was over before its helper was seen. */
const isOver = (agent: AgentProcess, name: string): true | undefined =>
  agent.said.some((one) => one.type === 'instance' && one.name === name && ['live', 'cold'].includes(one.state.at)) || undefined;

/** As a bad disk would, and so with the times as they were. */
async function flipBit(path: string): Promise<void> {
  const content = readFileSync(path);
  const at = Math.floor(content.length / 2);
  content[at] = (content[at] ?? 0) ^ 1;
  await writeFile(path, content);
}

describe('with an agent that is killed', () => {
  const witness = aWitness();
  let engine: TestEngine;
  let pristine: Answer['found'];

  beforeAll(async () => {
    engine = await TestEngine.open();
    await engine.engine[Symbol.asyncDispose]();
  });
  afterAll(() => engine?.[Symbol.asyncDispose]());

  test('at any moment of a checkpoint: the seed serves, and the next agent begins anew', { timeout: 360_000 }, async () => {
    const { host } = engine.engine;
    const taken: string[] = [];
    for (let round = 0; round < 10; round++) {
      await using killed = await AgentProcess.start(engine.config);
      const container = await host.create(witness, { name: `seed-${round}`, signal: AbortSignal.timeout(30_000) });
      await killed.stateOf(container, ['seed']);
      await until('the dump', () =>
        killed.said.some((one) => one.type === 'instance' && one.state.at === 'seed' && one.state.step === 'checkpointing'),
      );
      await delay(round * 60);
      await killed.kill('SIGKILL');
      const last = killed.said.findLast((one) => one.type === 'instance');
      taken.push(last?.type === 'instance' && last.state.at === 'seed' ? last.state.step : 'published');

      const answer = await ask(container);
      pristine ??= answer.found;
      // All requests of the warm-up were answered, and the application is still the one that began.
      expect(answer).toMatchObject({ host: container.name, found: pristine, kept: 1, files: 40 });
      expect(answer.count).toBeGreaterThan(10);
      expect(applications(container)).toEqual({ restored: false, pids: [container.pid] });
      await host.remove(container.uid);
      await using _next = await AgentProcess.start(engine.config);
      await until('nothing is left', async () => (await leftovers(engine.config, host)).length === 0).catch(async () =>
        expect(await leftovers(engine.config, host)).toEqual([]),
      );
      for (const { digest } of await engine.engine.store.list()) await engine.engine.store.remove(digest);
    }
    console.log('agent killed while', taken.join(', '));
  });

  test('at any moment of a restore: the slot is live or cold, and the next agent hears of its end', { timeout: 360_000 }, async () => {
    const { host } = engine.engine;
    const work = join(engine.config.runDir, 'work');
    await using first = await AgentProcess.start(engine.config);
    const seed = await host.create(witness, { name: 'seed', signal: AbortSignal.timeout(30_000) });
    await until('a snapshot', () => first.said.some(({ type }) => type === 'snapshot'), 60_000);
    pristine ??= (await ask(seed)).found;
    await host.remove(seed.uid);
    await first.kill('SIGTERM');
    const ends: string[] = [];
    for (let round = 0; round < 12; round++) {
      await using killed = await AgentProcess.start(engine.config);
      const starting = host.create(witness, { name: `round-${round}`, signal: AbortSignal.timeout(30_000) });
      if (round > 0) await until('a helper', () => helperOf(work) ?? isOver(killed, `round-${round}`), 30_000);
      await delay((round * 7) % 80);
      // As Ctrl-C in a terminal, every other time.
      await killed.kill(round % 2 === 0 ? 'SIGKILL' : 'SIGINT', 'group');
      const container = await starting;

      ends.push(await expectSound(container, pristine));
      await using next = await AgentProcess.start(engine.config);
      await until('nothing is left', async () => (await leftovers(engine.config, host)).length === 0);
      if (ends.at(-1) === 'live') {
        await next.stateOf(container, ['back']);
        for (const pid of applications(container).pids) process.kill(pid, 'SIGKILL');
        await next.stateOf(container, ['ended']);
      }
      await host.remove(container.uid);
    }
    console.log('agent killed:', ends.join(' '));
    // How many depends on how fast the machine is; that the helper goes on without its agent shows in some.
    expect(ends).toContain('live');
  });

  test('together with its helper: the next agent puts the files back and starts the container over', { timeout: 240_000 }, async () => {
    const { host } = engine.engine;
    const work = join(engine.config.runDir, 'work');
    const ends: string[] = [];
    for (let round = 0; round < 6; round++) {
      await using killed = await AgentProcess.start(engine.config);
      const starting = host.create(witness, { name: `both-${round}`, signal: AbortSignal.timeout(30_000) });
      const helper = await until('a helper', () => helperOf(work) ?? isOver(killed, `both-${round}`), 30_000);
      await delay(4 + ((round * 11) % 60));
      if (helper !== true && alive(helper.pid)) process.kill(helper.pid, 'SIGSTOP');
      await killed.kill('SIGKILL');
      if (helper !== true) killIfThere(helper.pid);
      const { uid } = await starting;

      await using _next = await AgentProcess.start(engine.config);
      await until('nothing of the restore is left', async () =>
        (await leftovers(engine.config, host)).every((left) => left.startsWith('container')),
      );
      const container = await host.find(uid);
      // One that could not start among half of the files has ended before the next agent came, as any application may that fails to start.
      ends.push(container === undefined ? 'ended' : await expectSound(container, pristine));
      await host.remove(uid);
    }
    console.log('agent and helper killed:', ends.join(' '));
  });
});
