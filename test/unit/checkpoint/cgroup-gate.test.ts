import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { CgroupGate } from '../../../src/checkpoint/cgroup-gate.ts';

let dir: string;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'rekindle-gate-'));
});
afterEach(() => rm(dir, { recursive: true, force: true }));

async function aProcess(cgroup: string, mounts: readonly string[], group: string): Promise<string> {
  await mkdir(join(dir, group), { recursive: true });
  await writeFile(join(dir, group, 'cgroup.procs'), '');
  await writeFile(join(dir, 'cgroup'), cgroup);
  await writeFile(join(dir, 'mountinfo'), `${mounts.join('\n')}\n`);
  return join(dir, group, 'cgroup.procs');
}

test.each([
  ['version 2', '0::/agent\n', (at: string) => [`30 1 0:26 / ${at} rw - cgroup2 cgroup2 rw,nsdelegate`]],
  [
    'version 1, where not every hierarchy is mounted',
    '9:name=systemd:/x\n8:cpu,cpuacct:/agent\n0::/\n',
    (at: string) => [`30 1 0:26 / ${at} rw - cgroup cgroup rw,cpu,cpuacct`],
  ],
])('this process enters its own cgroup again: %s', async (_, cgroup, mounts) => {
  const procs = await aProcess(cgroup, mounts(dir), 'agent');

  new CgroupGate(dir).open();

  await vi.waitFor(async () => expect(await readFile(procs, 'utf8')).toBe(String(process.pid)));
});

test('a machine without cgroups that can be seen is no failure', async () => {
  const procs = await aProcess('0::/agent\n', [], 'agent');

  new CgroupGate(dir).open();

  expect(await readFile(procs, 'utf8')).toBe('');
});
