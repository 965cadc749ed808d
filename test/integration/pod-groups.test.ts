import { type ChildProcess, spawn } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, test, vi } from 'vitest';
import { PodGroups } from '../../src/cluster/cgroups.ts';

const POD = '8919d397-f545-4664-bf69-c69ded9d2596';
const ID = 'fc6bcd9b3ec51617cb7e0a9d5ec43c3c47cc0a51da191df47f98eb0ceb7861b4';
const started: ChildProcess[] = [];
const dirs: string[] = [];

afterEach(async () => {
  for (const child of started.splice(0)) child.kill('SIGKILL');
  for (const dir of dirs.splice(0)) await rm(dir, { recursive: true, force: true });
});

/** Process 1 of a PID namespace this many levels down, which runs `command`. */
async function processOne(levels: number, command: readonly string[]): Promise<number> {
  const nested = Array.from({ length: levels }, () => ['unshare', '--pid', '--fork', '--kill-child']).flat();
  const [program = '', ...args] = [...nested, ...command];
  const child = spawn(program, args, { stdio: ['pipe', 'ignore', 'ignore'], cwd: tmpdir() });
  started.push(child);
  let pid = child.pid ?? 0;
  for (let level = 0; level < levels; level++) {
    const parent = pid;
    pid = await vi.waitFor(async () => {
      const child = await childOf(parent);
      expect(child).toBeGreaterThan(0);
      return child;
    });
  }
  await expect.poll(() => readFile(`/proc/${pid}/cmdline`, 'utf8')).toBe(`${command.join('\0')}\0`);
  return pid;
}

const childOf = async (pid: number): Promise<number> => Number((await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8')).split(' ')[0]);

async function groupOf(...pids: readonly number[]): Promise<PodGroups> {
  const root = await mkdtemp(join(tmpdir(), 'rekindle-groups-'));
  dirs.push(root);
  const group = join(root, 'cgroup/kubepods', `pod${POD}`, ID);
  await mkdir(group, { recursive: true });
  await writeFile(join(group, 'cgroup.procs'), pids.map((pid) => `${pid}\n`).join(''));
  return new PodGroups({ root, mounts: '30 1 0:26 / /cgroup rw - cgroup2 cgroup2 rw\n', now: () => performance.now() });
}

test('process 1 of a namespace that a container made itself is not the container, though it was adopted from outside', async () => {
  const fake = await processOne(2, ['sleep', '1000']);
  const real = await processOne(1, ['sleep', '1000']);

  expect((await groupOf(fake, real)).init(POD, ID)).toBe(real);
});

test('a container has no process 1 before that has become its command, whatever else there is', async () => {
  const fake = await processOne(2, ['sleep', '1000']);
  // As `runc init` calls itself.
  const runtime = await processOne(1, ['tee', 'init']);

  expect((await groupOf(fake, runtime)).init(POD, ID)).toBeUndefined();
});
