import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { cp, open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Static, type TSchema, Type } from 'typebox';
import { Value } from 'typebox/value';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { CommandLine, type Running } from '../fixtures/command-line.ts';
import { until } from '../fixtures/until.ts';

const NODE = `${import.meta.dirname}/../../.build/node`;
const serve = (name: string) => `
  ${name}:
    container:
      rootfs: host
      env: { KIND: ${name} }
      command:
        - ${NODE}
        - -e
        - |
          let n = 0;
          process.on('SIGTERM', () => process.exit(0));
          require('node:http').createServer((q, r) => r.end(require('node:os').hostname() + ' ' + n++)).listen(8080);
      ports: [8080]
      readiness: { http: { path: /, port: 8080 }, periodSeconds: 0.05 }
      warmup: { request: { port: 8080 }, count: 20 }
`;
const YAML = `
workloads:${serve('web')}${serve('other')}
  fails: { container: { rootfs: host, command: [/bin/sh, -c, 'echo oh no; exit 3'], ports: [8080] } }
  never: { container: { rootfs: host, command: [/bin/sleep, '600'], readiness: { tcp: { port: 8080 }, periodSeconds: 0.05, failureThreshold: 3 } } }
  away: { container: { image: 'oci-archive:./away.tar' } }
`;

// What the README says of `--json`.
const Digest = Type.String({ pattern: '^[0-9a-f]{64}$' });
const strict = { additionalProperties: false };
const Started = Type.Array(
  Type.Object(
    {
      name: Type.String(),
      uid: Type.String(),
      address: Type.String(),
      start: Type.Union([Type.Literal('restore'), Type.Literal('seed'), Type.Literal('cold')]),
      ms: Type.Optional(Type.Number()),
      reason: Type.Optional(Type.String()),
    },
    strict,
  ),
);
const Kept = Type.Object(
  { digest: Digest, created: Type.Boolean(), freezeMs: Type.Number(), totalBytes: Type.Number(), warnings: Type.Array(Type.String()) },
  strict,
);
const Status = Type.Object(
  {
    agent: Type.Union([Type.Null(), Type.Object({ pid: Type.Integer() }, strict)]),
    instances: Type.Array(
      Type.Object(
        {
          name: Type.String(),
          uid: Type.String(),
          workload: Type.String(),
          addresses: Type.Array(Type.String()),
          restarts: Type.Integer(),
          ageMs: Type.Number(),
          logFile: Type.String(),
          state: Type.Object({ at: Type.String() }),
        },
        strict,
      ),
    ),
    snapshots: Type.Array(
      Type.Object({ digest: Digest, workload: Type.String(), totalBytes: Type.Number(), ageMs: Type.Number() }, strict),
    ),
    // Of `rekindle up` or a REDIS_URL: see status.test.ts.
    service: Type.Null(),
  },
  strict,
);
const Figures = Type.Object(
  Object.fromEntries(
    ['coldMs', 'snapshotBytes', 'freezeMs', 'restoreMsP50', 'restoreMsP99', 'timesFaster'].map((name) => [
      name,
      Type.Number({ exclusiveMinimum: 0 }),
    ]),
  ),
);
const Count = Type.Integer({ minimum: 0 });
const Ms = Type.Number({ exclusiveMinimum: 0 });
const Burst = Type.Object(
  {
    ...{ name: Type.String(), requests: Count, answered: Count, failed: Count, restored: Count, cold: Count },
    ...{ firstMs: Ms, allMs: Ms, p50Ms: Ms, p99Ms: Ms, coldMs: Ms },
  },
  strict,
);
const Demo = Type.Object({ passed: Type.Boolean(), workloads: Type.Array(Figures), bursts: Type.Optional(Type.Array(Burst)) }, strict);

/** `value`, which must be as the schema says. */
function as<S extends TSchema>(schema: S, value: unknown): Static<S> {
  if (!Value.Check(schema, value))
    throw new Error(`${JSON.stringify(Value.Errors(schema, value).slice(0, 3))} in ${JSON.stringify(value)}`);
  return value;
}

let cli: CommandLine;
const running: Running[] = [];
const start = (...args: string[]): Running => {
  const one = cli.start(args);
  running.push(one);
  return one;
};
const status = async () => as(Status, await cli.json('status'));
const instances = async () => (await status()).instances.map(({ name }) => name).sort();
const answer = async (address: string | undefined) =>
  (await fetch(`http://${address}:8080/`, { signal: AbortSignal.timeout(5_000) })).text();

beforeAll(async () => {
  cli = await CommandLine.open(YAML);
  await writeFile(join(cli.dir, 'bad.yaml'), 'workloads:\n  web:\n    contaner: {}\n');
  // Of another kind than the one in the first file, so that they do not share a failure.
  await writeFile(join(cli.dir, 'again.yaml'), YAML.replace('oh no', 'oh no again'));
});
afterEach(async () => {
  for (const one of running.splice(0)) if (one.child.exitCode === null) await one.end('SIGKILL');
});
afterAll(() => cli[Symbol.asyncDispose]());

describe('what goes wrong is told, with the exit status of its error', () => {
  test.concurrent.each([
    [['run', 'web', '--cuont', '3'], 2, /unknown option '--cuont'[\s\S]*--count[\s\S]*see `rekindle run --help`/],
    [['snapshots', 'rm'], 2, /missing required argument 'digests'[\s\S]*`rekindle snapshots rm --help`/],
    [['stop'], 2, /which instances/],
    [['demo', '--only', 'nope'], 2, /no sample nope: they are node, python, java/],
    [['run', 'web', '-f', 'none.yaml'], 3, /there is no .*none\.yaml: name the file with -f/],
    [['run', 'web', '-f', 'bad.yaml'], 3, /bad\.yaml:3:5: .*contaner.*did you mean `container`/],
    [['run', 'away'], 5, /away\.tar cannot be read/],
    [['run', 'wbe'], 7, /did you mean web/],
    [['restore', 'web'], 7, /`rekindle checkpoint web`/],
    [['stop', 'web-1'], 7, /no instance web-1/],
    [['snapshots', 'inspect', 'abc'], 7, /no snapshot abc/],
    [['snapshots', 'import', '/nonexistent'], 7, /no manifest\.json/],
    [['run', 'fails'], 6, /ended with status 3[\s\S]*oh no/],
    [['checkpoint', 'fails', '-f', 'again.yaml'], 6, /ended (with 3|at once)[\s\S]*oh no/],
    [['checkpoint', 'never'], 8, /connection refused/],
  ])('%j ends with %d', async (args, expected, says) => {
    const { status, stderr } = await cli.run(...args);

    expect(stderr).toMatch(says);
    expect(stderr).not.toMatch(/\n {4}at /);
    expect(status).toBe(expected);
  });

  test.concurrent('without root, and with a wrong variable', async () => {
    const nobody = await cli.start(['status'], { uid: 65534 }).ended;
    const wrong = await cli.start(['status'], { env: { REKINDLE_SUBNET: '10.1' } }).ended;

    expect([nobody.status, wrong.status]).toEqual([4, 3]);
    expect(nobody.stderr).toMatch(/needs root/);
    expect(wrong.stderr).toMatch(/REKINDLE_SUBNET=10\.1/);
  });
});

test('nothing is left of what went wrong', async () => {
  expect(await status()).toEqual({ agent: null, instances: [], snapshots: [], service: null });
});

test('a checkpoint is made once, and instances are restored from it, left running, listed and stopped', async () => {
  const made = await cli.run('checkpoint', 'web', '--json');
  const kept = as(Kept, JSON.parse(made.stdout));
  const again = as(Kept, await cli.json('checkpoint', 'web'));
  const started = as(Started, await cli.json('restore', 'web', '-n', '2', '-d'));
  const answers = await Promise.all(started.map(({ address }) => answer(address)));
  const now = await status();
  const stopped = await cli.json('stop', ...started.map(({ name }) => name));

  expect(made.stderr).toMatch(/starting cold[\s\S]*warming up[\s\S]*checkpointing[\s\S]*trial restore/);
  expect(kept).toMatchObject({ created: true, warnings: [] });
  expect(again).toEqual({ ...kept, created: false });
  expect(started.map((one) => one.start)).toEqual(['restore', 'restore']);
  // Each request of readiness counts: one of the seed's, the warm-up, one of its own.
  expect(answers).toEqual(started.map(({ name }) => `${name} 22`));
  expect(now.agent).toBeNull();
  expect(now.instances.map(({ name, state }) => [name, state.at]).sort()).toEqual(started.map(({ name }) => [name, 'live']).sort());
  expect(now.snapshots.map(({ digest }) => digest)).toEqual([kept.digest]);
  expect(stopped).toEqual({ ended: expect.arrayContaining(started.map(({ name }) => name)) });
  expect(await instances()).toEqual([]);
});

test('one of several becomes the snapshot, and what is left running without an agent waits for that', async () => {
  const first = await cli.run('run', 'other', '-n', '3', '-d', '--json');
  const second = as(Started, await cli.json('run', 'other', '-d'));

  expect(first.status).toBe(0);
  const starts = as(Started, JSON.parse(first.stdout));
  expect(starts.map((one) => one.start).sort()).toEqual(['cold', 'cold', 'seed']);
  expect(starts.find((one) => one.start === 'cold')?.reason).toMatch(/another container is being made into one/);
  expect(first.stderr).toMatch(/waiting for the snapshot[\s\S]*snapshot [0-9a-f]{12}: the next instances are restored/);
  expect(second[0]?.start).toBe('restore');
  expect(await cli.json('stop', '--all')).toMatchObject({ ended: expect.any(Array) });
});

test('Ctrl-C ends the instances in the foreground; SIGTERM while they start leaves none', async () => {
  const foreground = start('run', 'web', '-n', '2');
  await foreground.says('Ctrl-C ends them');
  const during = await instances();
  const ended = await foreground.end('SIGINT');
  const early = start('run', 'web', '-n', '30');
  await early.says('starting 3 of 30');
  const cut = await early.end('SIGTERM');

  expect(during).toHaveLength(2);
  expect([ended.status, cut.status]).toEqual([0, 143]);
  expect(cut.stdout).toBe('');
  expect(await instances()).toEqual([]);
});

test('instances outlive a killed command, are known by how they started, and the next command serves', async () => {
  const foreground = start('run', 'web');
  await foreground.says('Ctrl-C ends it');
  await foreground.end('SIGKILL');

  const left = await status();
  const next = as(Started, await cli.json('run', 'web', '-d'));
  const after = await status();

  expect(foreground.stdout).toMatch(/ {2}restored in \d+ ms/);
  expect(left.agent).toBeNull();
  expect(left.instances.map(({ state }) => state.at)).toEqual(['live']);
  expect(next[0]?.start).toBe('restore');
  expect(after.instances.map(({ state }) => state.at)).toEqual(['live', 'live']);
  expect(await answer(left.instances[0]?.addresses[0])).toMatch(/^web-/);
  await cli.run('stop', '--all');
});

test('an agent of its own serves the containers of other commands, and they outlive it', async () => {
  const agent = start('agent', '--json');
  await agent.says('serves the slots');

  const second = await cli.run('agent');
  const started = as(Started, await cli.json('run', 'web', '-n', '2', '-d'));
  const served = await status();
  const ended = await agent.end('SIGTERM');
  const answers = await Promise.all(started.map(({ address }) => answer(address)));

  expect(second).toMatchObject({ status: 2, stderr: expect.stringContaining('another agent listens') });
  expect(started.map((one) => one.start)).toEqual(['restore', 'restore']);
  expect(served.agent).toEqual({ pid: agent.child.pid });
  expect(ended.status).toBe(0);
  const told = ended.stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
  expect(told.filter(({ type, state }) => type === 'instance' && state.at === 'live')).toHaveLength(2);
  expect(answers).toEqual(started.map(({ name }) => expect.stringContaining(name)));
  expect((await status()).agent).toBeNull();
  await cli.run('stop', '--all');
});

test('commands at once share one agent, whoever becomes it and ends first', async () => {
  const started = await Promise.all(Array.from({ length: 3 }, () => cli.json('run', 'web', '-d')));

  expect(started.flatMap((one) => as(Started, one)).map((one) => one.start)).toEqual(['restore', 'restore', 'restore']);
  expect(await instances()).toHaveLength(3);
  await cli.run('stop', '--all');
});

test('a flipped bit is found and ends with 13, the snapshot goes, and the next start is cold', async () => {
  const { digest } = as(Kept, await cli.json('checkpoint', 'web'));
  const whole = await cli.json('snapshots', 'verify', digest.slice(0, 12));
  const listed = await cli.json('snapshots', 'ls');
  const inspected = await cli.json('snapshots', 'inspect', digest.slice(0, 12));
  await using file = await open(join(cli.dir, 'state', 'snapshots', digest, 'images', 'pages-1.img'), 'r+');
  const byte = Buffer.alloc(1);
  await file.read(byte, 0, 1, 5000);
  await file.write(Buffer.of((byte[0] ?? 0) ^ 1), 0, 1, 5000);

  const verified = await cli.run('snapshots', 'verify', '--json');
  const next = await cli.run('restore', 'web');

  expect(whole).toEqual({ intact: [digest], corrupt: [] });
  expect(listed).toContainEqual(expect.objectContaining({ digest, workload: 'web', totalBytes: expect.any(Number) }));
  expect(inspected).toMatchObject({ digest, manifest: { workload: 'web' } });
  expect(verified.status).toBe(13);
  expect(JSON.parse(verified.stdout).corrupt).toEqual([{ digest, problem: expect.stringContaining('pages-1.img') }]);
  expect(next.status).toBe(7);
});

test('snapshots are removed by the start of their digest, and pruned', async () => {
  const { digest } = as(Kept, await cli.json('checkpoint', 'other'));

  const pruned = await cli.json('snapshots', 'prune');
  const removed = await cli.json('snapshots', 'rm', digest.slice(0, 10));

  expect(pruned).toEqual({ removed: [] });
  expect(removed).toEqual({ removed: [digest] });
  expect(await cli.json('snapshots', 'ls')).toEqual([]);
});

test('`stop --all` leaves nothing but the state', async () => {
  await cli.run('stop', '--all');

  expect(existsSync(cli.env.REKINDLE_RUN_DIR ?? '')).toBe(false);
  expect(readFileSync('/proc/self/mountinfo', 'utf8')).not.toContain(cli.dir);
  expect(readdirSync('/sys/class/net')).not.toContain(cli.env.REKINDLE_BRIDGE);
  expect(readdirSync(join(cli.dir, 'state', 'containers'))).toEqual([]);
});

test('the demo ends with its figures as one line, and leaves nothing behind', async () => {
  const demo = start('demo', '--only', 'node', '--clones', '2', '--no-burst', '--json');
  const uids = new Set<string>();
  const folder = () => readdirSync(cli.dir).find((name) => name.startsWith('rekindle-demo-')) ?? 'none';
  const containers = () => join(cli.dir, folder(), 'containers');
  await until(
    'the demo to end',
    () => {
      for (const name of existsSync(containers()) ? readdirSync(containers()) : []) if (!name.startsWith('.')) uids.add(name);
      return demo.child.exitCode !== null;
    },
    60_000,
  );

  const { status, stdout, stderr } = await demo.ended;

  expect(stderr).toMatch(/node: starting cold[\s\S]*first answer after[\s\S]*snapshot of[\s\S]*2 of 2 answer/);
  expect(status).toBe(0);
  expect(stdout.split('\n')).toHaveLength(2);
  const { passed, workloads, bursts } = as(Demo, JSON.parse(stdout));
  expect(passed).toBe(true);
  expect(bursts).toBeUndefined();
  expect(workloads.map((one) => Object.keys(one))).toEqual([
    ['name', 'coldMs', 'snapshotBytes', 'freezeMs', 'restoreMsP50', 'restoreMsP99', 'timesFaster', 'clones', 'failed'],
  ]);
  expect(workloads[0]).toMatchObject({ name: 'node', clones: 2, failed: 0 });
  // A seed, two slots of the trial, two clones.
  expect(uids.size).toBe(5);
  expect([...uids].flatMap(remains)).toEqual([]);
  expect(readdirSync(cli.dir).filter((name) => name.startsWith('rekindle-demo-'))).toEqual([]);
  expect(readFileSync('/proc/self/mountinfo', 'utf8')).not.toContain(`${cli.dir}/rekindle-demo-`);
});

test('the demo ends with a burst that a service answers from zero by restores, and leaves nothing of the service either', {
  timeout: 120_000,
}, async () => {
  const { status, stdout, stderr } = await cli.start(['demo', '--only', 'node', '--clones', '1', '--json']).ended;

  expect(status, stderr).toBe(0);
  expect(stderr).toMatch(
    /watch it at http:\/\/127\.0\.0\.1:\d+\/[\s\S]*6 slots are parked[\s\S]*60 requests at once[\s\S]*ending the service/,
  );
  const { bursts } = as(Demo, JSON.parse(stdout));
  expect(bursts).toMatchObject([{ name: 'node', requests: 60, answered: 60, failed: 0, cold: 0 }]);
  const [burst] = bursts ?? [];
  expect(burst?.restored).toBeGreaterThan(0);
  expect(burst?.firstMs).toBeLessThan(burst?.coldMs ?? 0);
  expect(readdirSync(cli.dir).filter((name) => name.startsWith('rekindle-demo-'))).toEqual([]);
  const id = /rekindle-demo-(\w+)\/redis/.exec(stderr)?.[1] ?? 'none';
  expect(existsSync(`/run/rekindle-demo-${id}`)).toBe(false);
  expect(readFileSync('/proc/self/mountinfo', 'utf8')).not.toContain(`rekindle-demo-${id}`);
  expect(readdirSync('/sys/class/net')).not.toContain(`rkd-${id}`);
  const processes = readdirSync('/proc').filter((pid) => /^\d+$/.test(pid) && read(`/proc/${pid}/cmdline`).includes(`rekindle-demo-${id}`));
  expect(processes.map((pid) => read(`/proc/${pid}/cmdline`))).toEqual([]);
});

test('a demo in which nothing can be restored says so, ends with 11, and leaves nothing behind either', async () => {
  const build = join(cli.dir, 'build');
  await cp(join(import.meta.dirname, '..', '..', '.build', 'slot'), join(build, 'slot'), { recursive: true });
  await cp(join(import.meta.dirname, '..', '..', '.build', 'agent'), join(build, 'agent'), { recursive: true });
  await writeFile(join(build, 'agent', 'helper'), '#!/bin/sh\necho no helper today >&2\nexit 1\n');

  const demo = await cli.start(['demo', '--only', 'node', '--clones', '2', '--json'], { env: { REKINDLE_BUILD_DIR: build } }).ended;

  expect(demo.stderr).toMatch(/node: failed: /);
  expect(JSON.parse(demo.stdout)).toMatchObject({ passed: false, workloads: [{ name: 'node', clones: 2, failed: 2 }] });
  expect(demo.status).toBe(11);
  expect(readdirSync(cli.dir).filter((name) => name.startsWith('rekindle-demo-'))).toEqual([]);
});

/** What this machine still has of a container: processes, network, cgroups, mounts. */
function remains(uid: string): string[] {
  const has = (dir: string, name: string) => (existsSync(join(dir, name)) ? [join(dir, name)] : []);
  const processes = readdirSync('/proc').filter(
    (pid) =>
      /^\d+$/.test(pid) &&
      read(`/proc/${pid}/cgroup`)
        .concat(read(`/proc/${pid}/cmdline`))
        .includes(uid),
  );
  return [
    ...processes.map((pid) => `process ${pid}: ${read(`/proc/${pid}/cmdline`)}`),
    ...has('/run/netns', `rekindle-${uid}`),
    ...has('/sys/class/net', `rk${uid.replaceAll('-', '').slice(0, 12)}`),
    ...['memory', 'pids', 'unified', ''].flatMap((hierarchy) => has(join('/sys/fs/cgroup', hierarchy, 'rekindle'), uid)),
    ...(read('/proc/self/mountinfo').includes(uid) ? [`mounts of ${uid}`] : []),
  ];
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
