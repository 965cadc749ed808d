import { readdirSync } from 'node:fs';
import { cp, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { checkGrpc } from '../../src/probes/grpc.ts';
import type { Manifest } from '../../src/snapshots/manifest.ts';
import type { Container } from '../../src/workloads/host.ts';
import type { WorkloadSpec } from '../../src/workloads/workload.ts';
import { get, TestEngine } from '../fixtures/engine.ts';
import { leftovers, workers } from '../fixtures/leftovers.ts';
import { hostWorkload } from '../fixtures/survive/workloads.ts';
import { until } from '../fixtures/until.ts';

const NODE = join(import.meta.dirname, '../../.build/node');

/** Counts its requests; is not ready without a way out, if it is told so; ends when it finds itself in the container `doomed`, but not if born there. */
const PROGRAM = `
import os, socket, sys
born, count, ballast = socket.gethostname(), 0, os.urandom(int(sys.argv[1]) << 20)
def online():
    with open("/proc/net/route") as routes: return any(line.split()[1] == "00000000" for line in routes)
server = socket.create_server(("0.0.0.0", 8080))
while True:
    peer, _ = server.accept()
    if socket.gethostname() == "doomed" != born: os._exit(1)
    try:
        if peer.recv(4096):
            count += 1
            status = 503 if "networked" in sys.argv and not online() else 200
            peer.sendall(b"HTTP/1.0 %d Answer\\r\\n\\r\\n%s %d" % (status, born.encode(), count))
    except OSError: pass
    peer.close()
`;

type Options = { ballast?: number; networked?: boolean; revision?: number; checkpoint?: string; restore?: string };

function counter(
  name: string,
  { ballast = 1, networked = false, revision = 1, checkpoint = '', restore = '' }: Options = {},
): WorkloadSpec {
  const command = ['/usr/bin/python3', '-S', '-c', PROGRAM, String(ballast), ...(networked ? ['networked'] : [])];
  const more = `      ports: [8080]
      env: { REVISION: '${revision}' }
      readiness: { http: { port: 8080 }, periodSeconds: 0.05 }
`;
  return hostWorkload(name, command, more, `    checkpoint: { ${checkpoint} }\n    restore: { ${restore} }`);
}

/** No trial at all: a seed is published as soon as it is written down. */
const UNTRIED = 'verify: first-restore, allowSharedRandom: true';

let engine: TestEngine;
const lines: { msg: string; time: number; slot?: string; at?: string; reason?: string }[] = [];

beforeAll(async () => {
  const log = pino({ level: 'info' }, { write: (line: string) => lines.push(JSON.parse(line)) });
  engine = await TestEngine.open({ log });
});
afterAll(() => engine?.[Symbol.asyncDispose]());

async function removeAll(...containers: readonly Container[]): Promise<void> {
  await Promise.all(containers.map(({ uid }) => engine.engine.host.remove(uid, { graceMs: 0 })));
}

/** Puts another snapshot in the place of one, the same but for what `change` says; resolves with its digest. */
async function rewrite(digest: string, change: (manifest: Manifest) => Partial<Manifest>): Promise<string> {
  const { store } = engine.engine;
  const { dir, manifest } = await store.get(digest);
  const copy = await mkdtemp(join(engine.config.stateDir, 'copy-'));
  await cp(dir, copy, { recursive: true, preserveTimestamps: true });
  await writeFile(join(copy, 'manifest.json'), JSON.stringify({ ...manifest, ...change(manifest) }));
  const imported = await store.importDirectory(copy, AbortSignal.timeout(10_000));
  await store.remove(digest);
  return imported.digest;
}

function steps(seed: Container): string[] {
  return engine.events.flatMap((event) =>
    event.type === 'instance' && event.uid === seed.uid && event.state.at === 'seed' ? [event.state.step] : [],
  );
}

async function digests(workload: string): Promise<string[]> {
  return (await engine.engine.store.list()).flatMap(({ digest, manifest }) => (manifest.workload === workload ? [digest] : []));
}

describe('with verify: first-restore', () => {
  test('an application that needs its network is published, though a trial would refuse it', async () => {
    const networked = (checkpoint: string) => counter('networked', { networked: true, checkpoint, restore: 'deadlineSeconds: 4' });
    await expect(engine.seed(networked('verify: trial'), 'tried')).rejects.toThrow('verify_failed');

    const { container, snapshot } = await engine.seed(networked('verify: first-restore'), 'seed');
    const clone = await engine.clone(networked('verify: first-restore'), 'clone');

    expect(await get(clone)).toMatch(/^seed /);
    expect(engine.engine.store.quarantined().get(snapshot.digest)).toBeUndefined();
    await removeAll(container, clone, ...(await engine.engine.host.list()));
  });

  test('the first real restore is the trial: if it fails the snapshot is left alone at once, and the instance is cold', async () => {
    const workload = counter('unlucky', { checkpoint: UNTRIED, restore: 'deadlineSeconds: 2' });
    const { container: seed, snapshot } = await engine.seed(workload, 'seed');
    expect(steps(seed)).not.toContain('verifying by a trial restore');

    const { container: doomed, state } = await engine.start(workload, 'doomed');

    expect(state).toMatchObject({ at: 'cold', why: 'failed', reason: expect.stringContaining('the restore failed') });
    const quarantined = await until('quarantine', () => engine.engine.store.quarantined().get(snapshot.digest));
    expect(quarantined.reason).toMatch(/its first restore, which was its trial.*the restore failed/);
    expect(await get(doomed)).toMatch(/^doomed /);
    const next = await engine.start(workload, 'next');
    expect(next.state).toMatchObject({ at: 'cold', why: 'refused', reason: expect.stringContaining('which was its trial') });
    // The slot of an application that ends as soon as it runs may be gone before its helper has tidied up.
    await expect.poll(() => leftovers(engine.config, engine.engine.host)).toEqual([]);
    await removeAll(seed, doomed, next.container);
  });

  test('one that was restored once is as good as tried: a failure is no longer its end', async () => {
    const workload = counter('lucky', { checkpoint: UNTRIED, restore: 'deadlineSeconds: 2' });
    const { container: seed, snapshot } = await engine.seed(workload, 'seed');
    const clone = await engine.clone(workload, 'clone');
    await until('the note', () => engine.engine.store.isProven(snapshot.digest));

    const { container: doomed, state } = await engine.start(workload, 'doomed');
    const next = await engine.clone(workload, 'next');

    expect(state).toMatchObject({ at: 'cold', why: 'failed' });
    expect(await get(next)).toMatch(/^seed /);
    expect(engine.engine.store.quarantined().get(snapshot.digest)).toBeUndefined();
    await removeAll(seed, clone, doomed, next);
  });
});

test('restores run at most as many at once as there are cores; the others wait their turn and are restored too', async () => {
  const workload = counter('burst', { ballast: 40, checkpoint: UNTRIED, restore: 'deadlineSeconds: 25' });
  const { container: seed } = await engine.seed(workload, 'seed');
  const cores = availableParallelism();

  const containers = await whileHelpersAreHeld(400, () =>
    Promise.all(
      Array.from({ length: Math.max(8, cores + 4) }, (_, i) =>
        engine.engine.host.create(workload, { name: `burst-${i}`, signal: AbortSignal.timeout(30_000) }),
      ),
    ),
  );
  const states = await Promise.all(containers.map((container) => engine.settled(container)));

  expect(states.map(({ at }) => at)).toEqual(containers.map(() => 'live'));
  const waits = states.map((state) => (state.at === 'live' ? state.timing.decidedMs : 0));
  expect(Math.max(...waits)).toBeGreaterThan(200);
  const turns = states.map((state, i) => {
    // Counted back from when it was told to be live: a line of its begin comes as much later as the event loop is busy.
    const told = lines.find(({ slot, at }) => slot === containers[i]?.uid && at === 'live')?.time ?? Number.NaN;
    const { decidedMs = 0, filesMs = 0, criuMs = 0, readyMs = 0 } = state.at === 'live' ? state.timing : {};
    const begun = told - (readyMs ?? 0) + decidedMs;
    // Its helper's own time: what the agent measures ends when it gets to it, and the next turn may have begun by then. Times of lines are whole milliseconds.
    return { begun, over: begun + filesMs + criuMs - 2 };
  });
  const atOnce = turns.map(({ begun }) => turns.filter((other) => other.begun <= begun && begun < other.over).length);
  expect(Math.max(...atOnce)).toBeGreaterThan(0);
  expect(Math.max(...atOnce)).toBeLessThanOrEqual(cores);
  await removeAll(seed, ...containers);
});

test('a new revision removes the snapshot of the one before (keep: 1), but none that is in use or of what still runs', async () => {
  const revision = (number: number) => counter('revised', { revision: number, checkpoint: `${UNTRIED}, keep: 1` });
  const first = await engine.seed(revision(1), 'one');
  await removeAll(first.container);

  const second = await engine.seed(revision(2), 'two');
  await expect.poll(() => digests('revised')).toEqual([second.snapshot.digest]);

  // Revision 2 still runs.
  const third = await engine.seed(revision(3), 'three');
  expect(await engine.settled(third.container)).toMatchObject({ at: 'cold', why: 'seed' });
  expect(new Set(await digests('revised'))).toEqual(new Set([second.snapshot.digest, third.snapshot.digest]));

  await removeAll(second.container, third.container);
  const pin = engine.engine.store.pin(second.snapshot.digest);
  const fourth = await engine.seed(revision(4), 'four');
  await expect.poll(async () => new Set(await digests('revised'))).toEqual(new Set([second.snapshot.digest, fourth.snapshot.digest]));
  pin[Symbol.dispose]();
  await removeAll(fourth.container);
});

test('a snapshot of another machine is not restored: the start becomes a seed, and says why', async () => {
  const workload = counter('moved', { checkpoint: UNTRIED });
  const { container: first, snapshot } = await engine.seed(workload, 'first');
  const digest = await rewrite(snapshot.digest, (manifest) => ({
    class: { ...manifest.class, cpuFeatures: [...manifest.class.cpuFeatures, 'zz_quantum'] },
  }));

  const { container: second, snapshot: own } = await engine.seed(workload, 'second');
  const state = await engine.settled(second);
  const clone = await engine.clone(workload, 'clone');

  const why = `snapshot ${digest.slice(0, 12)} was made with CPU features that this machine lacks: zz_quantum`;
  expect(state).toMatchObject({ at: 'cold', why: 'seed', reason: `the first of its kind here: ${why}` });
  expect(lines).toContainEqual(expect.objectContaining({ msg: 'a snapshot does not fit this machine: another is made', reason: why }));
  expect(own.digest).not.toBe(digest);
  expect(await get(clone)).toMatch(/^second /);
  await removeAll(first, second, clone);
});

test('a snapshot older than maxAgeSeconds is not restored: the start becomes a seed, and what is too old goes', async () => {
  const workload = counter('aged', { checkpoint: `${UNTRIED}, maxAgeSeconds: 600` });
  const { container: first, snapshot } = await engine.seed(workload, 'first');
  await rewrite(snapshot.digest, ({ createdAt }) => ({ createdAt: new Date(Date.parse(createdAt) - 601_000).toISOString() }));

  const { container: second, snapshot: fresh } = await engine.seed(workload, 'second');
  const clone = await engine.clone(workload, 'clone');

  expect(await get(clone)).toMatch(/^second /);
  expect(await digests('aged')).toEqual([fresh.digest]);
  await removeAll(first, second, clone);
});

test('a gRPC service is ready when its health service says so, is checkpointed, and its clones answer', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'rekindle-grpc-'));
  const script = join(dir, 'health.mjs');
  await writeFile(
    script,
    `import { createServer } from 'node:http2';
let asked = 0;
const server = createServer();
server.on('stream', (stream) => {
  stream.on('error', () => {});
  stream.resume();
  stream.on('end', () => {
    const serving = ++asked < 4 ? 2 : 1;
    stream.respond({ ':status': 200, 'content-type': 'application/grpc', asked: String(asked) }, { waitForTrailers: true });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
    stream.end(Buffer.from([0, 0, 0, 0, 2, 8, serving]));
  });
});
server.listen(8080);
`,
  );
  const more = '      readiness: { grpc: { port: 8080 }, periodSeconds: 0.05 }\n';
  const workload = hostWorkload('grpc', [NODE, script], more, '    checkpoint: { deadlineSeconds: 40 }');

  const { container: seed } = await engine.seed(workload, 'seed');
  const clones = [await engine.clone(workload, 'clone-1'), await engine.clone(workload, 'clone-2')];

  // The first three answers were NOT_SERVING: a clone that had not the seed's memory would say that again.
  for (const container of [seed, ...clones]) expect(await healthOf(container), container.name).toEqual({ ok: true });
  await removeAll(seed, ...clones);
  await rm(dir, { recursive: true });
});

describe('checkpoint.deadlineSeconds that passes', () => {
  async function expectNothingOf(workload: WorkloadSpec, seed: Container): Promise<void> {
    expect(await get(seed)).toMatch(/^seed \d+$/);
    expect((await engine.engine.host.find(seed.uid))?.restarts).toBe(0);
    expect(await digests(workload.name)).toEqual([]);
    await expect.poll(() => leftovers(engine.config, engine.engine.host), { timeout: 5_000 }).toEqual([]);
    const ofIt = (await engine.engine.host.list()).filter((container) => container.workload.name === workload.name);
    expect(ofIt.map(({ name }) => name)).toEqual(['seed']);
    await removeAll(seed);
  }

  async function failed(
    workload: WorkloadSpec,
    whileIt: () => Promise<void> = async () => {},
  ): Promise<{ seed: Container; event: unknown }> {
    const before = engine.events.length;
    const seed = await engine.engine.host.create(workload, { name: 'seed', signal: AbortSignal.timeout(30_000) });
    await whileIt();
    const event = await engine.until('the end', (events) => events.slice(before).find(({ type }) => type !== 'instance'), 20_000);
    return { seed, event };
  }

  test('during the trial ends it: the seed goes on, and nothing is left', async () => {
    const workload = counter('slow-trial', { networked: true, checkpoint: 'deadlineSeconds: 5', restore: 'deadlineSeconds: 30' });

    const { seed, event } = await failed(workload);

    expect(event).toMatchObject({
      type: 'checkpoint-failed',
      code: 'timeout',
      reason: 'no snapshot within 5 s (checkpoint.deadlineSeconds), when it was verifying by a trial restore',
    });
    await expectNothingOf(workload, seed);
  });

  test('during the dump is met by criu, which lets go of the application', async () => {
    const workload = counter('slow-dump', { ballast: 100, checkpoint: 'deadlineSeconds: 1' });
    const snapshots = join(engine.config.stateDir, 'snapshots');

    const { seed, event } = await failed(workload, async () => {
      const criu = await until('criu', () => workers(snapshots).find(({ command }) => / dump -t /.test(command)));
      process.kill(criu.pid, 'SIGSTOP');
      const from = performance.now();
      await until('the deadline', () => performance.now() - from > 1_200);
      process.kill(criu.pid, 'SIGCONT');
    });

    expect(event).toMatchObject({
      type: 'checkpoint-failed',
      code: 'timeout',
      reason: expect.stringMatching(/^no snapshot within 1 s \(checkpoint.deadlineSeconds\), when it was (checkpointing|writing it down)$/),
    });
    await expectNothingOf(workload, seed);
    expect(readdirSync(snapshots).filter((name) => name.startsWith('.partial'))).toEqual([]);
  });
});

async function healthOf(container: Container): Promise<unknown> {
  const target = {
    exec: async () => ({ status: 1, output: 'not asked for' }),
    connect: async (port: number) => connect({ host: container.addresses[0] ?? '', port }),
  };
  return checkGrpc(target, 8080, '', AbortSignal.timeout(5_000));
}

/** Stops every helper of a restore as soon as it is seen, so that what comes meanwhile piles up; `ms` after `work` is done all go on. */
async function whileHelpersAreHeld<T>(ms: number, work: () => Promise<T>): Promise<T> {
  const held = new Set<number>();
  const signal = (pid: number, name: NodeJS.Signals) => {
    try {
      process.kill(pid, name);
    } catch {
      // It was quicker.
    }
  };
  let isDone = false;
  const done = () => {
    isDone = true;
  };
  const working = work();
  working.then(done, done);
  const isHelper = ({ command }: { command: string }) => / restore --pid /.test(command);
  try {
    let from = 0;
    await until(
      'helpers',
      () => {
        for (const { pid } of workers(join(engine.config.runDir, 'work')).filter(isHelper)) {
          if (held.has(pid)) continue;
          signal(pid, 'SIGSTOP');
          held.add(pid);
        }
        if (isDone && held.size > 0) from ||= performance.now();
        return from > 0 && performance.now() - from > ms;
      },
      30_000,
    );
  } finally {
    for (const pid of held) signal(pid, 'SIGCONT');
  }
  return working;
}
