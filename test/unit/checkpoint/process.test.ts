import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { inspectProcess, mountOf, nestedNamespace, openFiles, processTree, startTime } from '../../../src/checkpoint/process.ts';

// A shell with a child that has a file open for writing and one for reading.
const script = 'sh -c "exec 5>>/dev/null 6</dev/zero; echo ready; read wait" & wait';
const shell = spawn('sh', ['-c', `exec 3<&0; ${script.replace('read wait', 'read wait <&3')}`], { stdio: ['pipe', 'pipe', 'ignore'] });

beforeAll(async () => {
  await once(shell.stdout, 'data');
});
afterAll(() => {
  shell.stdin.end();
  shell.kill();
});
const pid = () => shell.pid ?? 0;

describe('a process tree', () => {
  test('is the process and all that descends from it', () => {
    const tree = processTree(pid());

    expect(tree[0]).toBe(pid());
    expect(tree.length).toBe(2);
    expect(processTree(process.pid)).toEqual(expect.arrayContaining(tree));
  });

  test('tells its descriptors and which of them can write', () => {
    const files = openFiles(processTree(pid()).slice(1), []);

    expect(files.find(({ fd }) => fd === '5')).toMatchObject({ target: '/dev/null', writable: true });
    expect(files.find(({ fd }) => fd === '6')).toMatchObject({ target: '/dev/zero', writable: false });
  });

  test('shares its namespaces unless it made its own', () => {
    expect(nestedNamespace(processTree(pid()))).toBeUndefined();
  });
});

test('a process is known by its standard output, and named for ever by its start', () => {
  expect(inspectProcess(pid(), '').stdio.stderr).toBeNull();
  expect(startTime(pid())).toMatch(/^\d+$/);
  expect(startTime(pid())).not.toBe(startTime(1));
});

test('a process that is gone is an error where it matters, and nothing elsewhere', () => {
  const gone = 2 ** 22 - 1;

  expect(() => inspectProcess(gone, '')).toThrow(/ENOENT/);
  expect(processTree(gone)).toEqual([gone]);
  expect(startTime(gone)).toBeUndefined();
  expect(openFiles([gone], [])).toEqual([]);
});

test('a path lies on the mount that is nearest to it', () => {
  const mount = (at: string) => ({ at, type: 'ext4', options: [], superOptions: [], mountId: at.length });
  const mounts = ['/', '/srv', '/srv/data'].map(mount);

  expect(mountOf('/srv/data/x', mounts)?.at).toBe('/srv/data');
  expect(mountOf('/srv/database', mounts)?.at).toBe('/srv');
  expect(mountOf('/elsewhere', mounts)?.at).toBe('/');
});
