import { chmod, mkdir, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { exec, mustExec } from '../../src/lib/exec.ts';

const root = resolve(import.meta.dirname, '../..');
const fixtures = join(root, 'test/fixtures/random');
const node = process.execPath;
const isRoot = process.getuid?.() === 0;

/** Everything compiled for these tests, and the folders of their processes. */
let built = '';

async function has(program: string): Promise<boolean> {
  return (await exec('sh', ['-c', `command -v ${program}`])).status === 0;
}

const found = { criu: await has('criu'), musl: await has('musl-gcc'), ruby: await has('ruby'), python: await has('python3') };
const cannot = isRoot && found.criu ? undefined : 'needs root and criu: processes are really dumped and restored';

async function eventually<T>(what: string, look: () => Promise<T | undefined>, timeoutMs = 15_000): Promise<T> {
  for (const end = performance.now() + timeoutMs; performance.now() < end; await sleep(10)) {
    const seen = await look().catch(() => undefined);
    if (seen !== undefined) return seen;
  }
  throw new Error(`not within ${timeoutMs} ms: ${what}`);
}

const exists = (file: string) => stat(file).then(() => true as const);

async function gone(pid: number): Promise<void> {
  process.kill(pid, 'SIGKILL');
  // A zombie whose parent is slow holds no memory and no PID of the clone's namespace.
  await eventually(`the end of ${pid}`, async () => {
    const state = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => ') Z');
    return /\) [ZX]/.test(state) ? true : undefined;
  });
}

type Drawn = Readonly<Record<string, string>>;
type Clone = { readonly drawn: Drawn; readonly probed: readonly unknown[]; readonly blocks: number };

/** Starts a program, dumps it once it has drawn, ends it, and lets two clones of it draw, one after the other. */
async function twoClones(program: readonly string[], options: { guarded: boolean; probe?: boolean }): Promise<readonly [Clone, Clone]> {
  const folder = await mkdtemp(join(built, 'run-'));
  const images = join(folder, 'images');
  await mkdir(images);
  const env: Record<string, string> = options.guarded
    ? { LD_PRELOAD: join(built, 'entropy.so'), NODE_OPTIONS: `--require=${join(root, 'images/slot/random-uuid.cjs')}` }
    : {};
  const started = await mustExec(exec, 'env', [
    ...Object.entries(env).map(([k, v]) => `${k}=${v}`),
    join(built, 'launch'),
    ...program,
    folder,
  ]);
  const pid = Number(started.stdout);
  try {
    await eventually(`${program[0]} draws for the first time`, () => exists(join(folder, 'ready')));
    const dump = ['dump', '-t', String(pid), '-D', images, '-o', 'dump.log', '--file-locks', '--link-remap', '--leave-running'];
    await mustExec(exec, 'criu', dump, { logFile: join(images, 'dump.log') });
  } finally {
    await gone(pid);
  }
  await using _ = { [Symbol.asyncDispose]: () => rm(folder, { recursive: true }) };
  return [await cloneOnce(folder, 'first', options.probe ?? false), await cloneOnce(folder, 'second', options.probe ?? false)];
}

async function cloneOnce(folder: string, name: string, probe: boolean): Promise<Clone> {
  const renewed = join(folder, `${name}.renewed`);
  const script = join(folder, `${name}.sh`);
  const pidFile = join(folder, `${name}.pid`);
  await writeFile(
    script,
    `#!/bin/sh\n[ "$CRTOOLS_SCRIPT_ACTION" = pre-resume ] || exit 0\nexec ${join(built, 'renew')} "$CRTOOLS_INIT_PID" > ${renewed}\n`,
  );
  await chmod(script, 0o755);
  await rm(join(folder, 'drawn'), { force: true });
  const images = join(folder, 'images');
  const restore = ['restore', '-d', '-D', images, '-o', `${name}.log`, '--pidfile', pidFile, '--action-script', script];
  await mustExec(exec, 'criu', restore, { logFile: join(images, `${name}.log`) });
  const pid = Number(await readFile(pidFile, 'utf8'));
  try {
    const probed = probe ? await probeOf(pid) : [];
    await writeFile(join(folder, 'go'), '');
    const drawn = await eventually('a clone draws', () => readFile(join(folder, 'drawn'), 'utf8'));
    const blocks = (await readFile(renewed, 'utf8'))
      .trim()
      .split('\n')
      .map((line) => Number(line.split(' ')[1]));
    return { drawn: JSON.parse(drawn), probed, blocks: blocks.reduce((a, b) => a + b, 0) };
  } finally {
    await gone(pid);
  }
}

async function probeOf(pid: number): Promise<readonly unknown[]> {
  const { stdout } = await mustExec(exec, join(built, 'random-probe'), [String(pid)], { timeoutMs: 10_000 });
  return stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line));
}

/** Names of what two clones drew alike. */
function shared([a, b]: readonly [Clone, Clone]): readonly string[] {
  return Object.keys(a.drawn).filter((name) => a.drawn[name] === b.drawn[name]);
}

async function compile(compiler: string, output: string, args: readonly string[]): Promise<void> {
  await mustExec(exec, compiler, ['-std=gnu11', '-O1', '-Wall', '-Wextra', '-Werror', '-o', join(built, output), ...args], { cwd: root });
}

describe.skipIf(cannot !== undefined)(`random numbers of clones${cannot === undefined ? '' : ` (${cannot})`}`, () => {
  beforeAll(async () => {
    built = await mkdtemp(join(tmpdir(), 'rekindle-random-'));
    const generation = 'images/agent/helper-generation.c';
    await compile('gcc', 'entropy.so', ['-shared', '-fPIC', '-nostdlib', '-fno-stack-protector', 'images/slot/entropy.c']);
    await compile('gcc', 'random-probe', ['-static', 'images/agent/random-probe.c']);
    await compile('gcc', 'launch', [join(fixtures, 'launch.c')]);
    await compile('gcc', 'renew', [join(fixtures, 'renew.c'), generation]);
  });

  afterAll(async () => {
    if (built !== '') await rm(built, { recursive: true });
  });

  it('are the same in two clones of a Node process that nobody guards, and random-probe sees it', async () => {
    const clones = await twoClones([node, join(fixtures, 'draw.mjs')], { guarded: false, probe: true });

    expect(shared(clones)).toEqual(
      expect.arrayContaining(['newWorker', 'worker', 'randomBytes', 'pool', 'getRandomValues', 'randomUUID', 'webUUID', 'key']),
    );
    expect(clones[0].probed).toEqual([
      { pid: expect.any(Number), source: expect.stringMatching(/^openssl:.*node$/), bytes: expect.stringMatching(/^[0-9a-f]{128}$/) },
    ]);
    expect(clones[0].probed).toEqual([{ ...Object(clones[1].probed[0]), pid: expect.any(Number) }]);
  });

  it('differ in two clones of a guarded Node process, in every thread, except Math.random', async () => {
    const clones = await twoClones([node, join(fixtures, 'draw.mjs')], { guarded: true });

    expect(shared(clones)).toEqual(['mathRandom', 'pid']);
    expect(clones[0].drawn.pid).toBe('1');
    expect(clones.map((clone) => clone.blocks)).toEqual([1, 1]);
  });

  it('differ for random-probe too once a Node process is guarded, and the probed clone goes on', async () => {
    const clones = await twoClones([node, join(fixtures, 'draw.mjs')], { guarded: true, probe: true });

    expect(clones.map(({ probed }) => probed)).toEqual([
      [expect.objectContaining({ bytes: expect.stringMatching(/^[0-9a-f]{128}$/) })],
      [expect.objectContaining({ bytes: expect.not.stringContaining(Object(clones[0].probed[0]).bytes) })],
    ]);
    expect(shared(clones)).toEqual(['mathRandom', 'pid']);
  });

  it.skipIf(!found.python)('are the same in two clones of a Python process that nobody guards', async () => {
    const clones = await twoClones(['python3', join(fixtures, 'draw.py')], { guarded: false });

    expect(shared(clones)).toEqual(expect.arrayContaining(['newThread', 'oldThread', 'ssl']));
  });

  it.skipIf(!found.python)(
    'differ in two clones of a guarded Python process, in every thread and fork, except the random module',
    async () => {
      const clones = await twoClones(['python3', join(fixtures, 'draw.py')], { guarded: true, probe: true });

      expect(shared(clones)).toEqual(['random', 'pid']);
      expect(clones[0].probed).toEqual([
        expect.objectContaining({ source: expect.stringMatching(/^openssl:.*libcrypto/), bytes: expect.any(String) }),
      ]);
      expect(Object(clones[0].probed[0]).bytes).not.toBe(Object(clones[1].probed[0]).bytes);
    },
  );

  it.skipIf(!found.ruby)('differ in two clones of a guarded Ruby process', async () => {
    const clones = await twoClones(['ruby', join(fixtures, 'draw.rb')], { guarded: true });

    expect(shared(clones)).toEqual(['pid']);
  });

  for (const compiler of ['gcc', 'musl-gcc']) {
    it.skipIf(compiler === 'musl-gcc' && !found.musl)(
      `a library that only has RAND_poll polls once per clone, whatever its threads do (${compiler})`,
      async () => {
        await compile(compiler, `libfake-${compiler}.so`, ['-shared', '-fPIC', join(fixtures, 'fake-crypto.c')]);
        const link = [`-L${built}`, `-lfake-${compiler}`, `-Wl,-rpath,${built}`, '-pthread'];
        await compile(compiler, `draw-${compiler}`, [join(fixtures, 'draw-fake.c'), ...link]);

        const clones = await twoClones([join(built, `draw-${compiler}`)], { guarded: true });

        const once = { pid: '1', errno: '77', seen: '1,1,1,1,1,1,1,1' };
        expect(clones.map((clone) => clone.drawn)).toEqual([once, once]);
      },
    );
  }

  it('are left alone in a process without the library, and one that ended is said to have', async () => {
    const missing = await mustExec(exec, join(built, 'renew'), [String(process.pid), '4194304']);
    const probe = await mustExec(exec, join(built, 'random-probe'), ['4194304']);

    expect(missing.stdout).toContain(`${process.pid} 0`);
    expect(missing.stdout).toContain('4194304 -3');
    expect(probe.stdout).toBe('{"pid":4194304,"source":"process","error":"No such file or directory"}');
  });

  it.skipIf(!found.python)(
    'are renewed only behind the magic at a page boundary, and not without end in a process that maps many such files',
    async () => {
      const folder = await mkdtemp(join(built, 'hostile-'));
      const magic = 'rekindle-entropy';
      await writeFile(
        join(folder, 'entropy.so'),
        Buffer.concat([Buffer.alloc(8192), Buffer.from(magic), Buffer.alloc(4000), Buffer.from(magic)], 20_480),
      );
      const map = `import mmap, sys, time
file = open(sys.argv[2] + '/entropy.so', 'rb')
kept = [mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) for _ in range(int(sys.argv[1]))]
open(sys.argv[2] + '/ready' + sys.argv[1], 'w').close()
while True: time.sleep(1)`;
      await writeFile(join(folder, 'map.py'), map);
      const renewedBlocks = async (mappings: string) => {
        const pid = Number((await mustExec(exec, join(built, 'launch'), ['python3', join(folder, 'map.py'), mappings, folder])).stdout);
        await using _ = { [Symbol.asyncDispose]: () => gone(pid) };
        await eventually('it has mapped them', () => exists(join(folder, `ready${mappings}`)));
        return (await mustExec(exec, join(built, 'renew'), [String(pid)])).stdout.split(' ')[1];
      };

      const blocks = [await renewedBlocks('1'), await renewedBlocks('3'), await renewedBlocks('50')];

      expect(blocks).toEqual(['1', '3', '-7']);
    },
  );

  it('that are waited for in vain: random-probe gives up after its deadline and the process goes on as if nothing had been', async () => {
    await compile('gcc', 'libcrypto-stuck.so', ['-shared', '-fPIC', join(fixtures, 'stuck-crypto.c')]);
    await compile('gcc', 'draw-stuck', [join(fixtures, 'draw-stuck.c'), `-L${built}`, '-lcrypto-stuck', `-Wl,-rpath,${built}`]);
    const folder = await mkdtemp(join(built, 'stuck-'));
    const pid = Number((await mustExec(exec, join(built, 'launch'), [join(built, 'draw-stuck'), folder])).stdout);
    await using _ = { [Symbol.asyncDispose]: () => gone(pid) };
    await eventually('it runs', () => exists(join(folder, 'ready')));

    const [stuck] = await probeOf(pid);
    await writeFile(join(folder, 'go'), '');

    expect(stuck).toEqual({ pid, source: `openssl:${join(built, 'libcrypto-stuck.so')}`, error: 'RAND_bytes did not return in time' });
    expect(await eventually('it goes on', () => readFile(join(folder, 'drawn'), 'utf8'))).toBe('0');
  });

  it('need nothing of a libc: the preloaded library has no dependency and only weak references', async () => {
    const needed = await mustExec(exec, 'readelf', ['-d', '-s', '-W', join(built, 'entropy.so')]);

    expect(needed.stdout).not.toContain('(NEEDED)');
    expect(needed.stdout.split('\n').filter((line) => line.includes(' GLOBAL ') && line.includes(' UND '))).toEqual([]);
  });
});
