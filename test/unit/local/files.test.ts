import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { writeEtcFiles } from '../../../src/local/etc-files.ts';
import { withoutDigest } from '../../../src/local/images.ts';
import { identify, isAlive, processTree } from '../../../src/local/processes.ts';
import {
  asContainer,
  type ContainerRecord,
  containerPaths,
  createRecord,
  listUids,
  readRecord,
  removeUnfinished,
  writeRecord,
} from '../../../src/local/record.ts';
import { parseSync } from '../../../src/local/runtime.ts';
import { installSlotFiles } from '../../../src/local/slot-files.ts';
import { somePool } from '../../fixtures/pool-settings.ts';

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(path.join(os.tmpdir(), 'rekindle-files-'));
});
afterEach(async () => {
  await rm(dir, { recursive: true });
});

function aRecord(): ContainerRecord {
  return {
    version: 1,
    uid: '11111111-2222-4333-8444-555555555555',
    name: 'web-1',
    workload: {
      name: 'web',
      container: {
        env: { A: 'b' },
        instanceEnv: {},
        readOnlyRoot: false,
        noNewPrivileges: true,
        seccomp: 'default',
        preload: true,
        volumes: [],
        ports: [80],
        readiness: 'true',
      },
      checkpoint: { verify: 'trial', allowSharedRandom: false, keep: 3, deadlineSeconds: 120 },
      restore: { identityFile: '/tmp/x', mergeMemory: false, deadlineSeconds: 10 },
      pool: somePool(),
    },
    trial: false,
    runtime: 'crun',
    creator: { pid: 1, startTime: '1' },
    phase: 'creating',
    restarts: 0,
    addresses: ['10.0.0.2'],
    imageDigest: 'host',
    volumes: [{ at: '/data', kind: 'private' }],
    createdAtMs: 1,
  };
}

test('a record is read as it was written, and only root may read it', async () => {
  const record = aRecord();
  await createRecord(dir, record);
  await writeRecord(dir, { ...record, init: { pid: 7, startTime: '9' }, phase: 'running' });

  expect(await readRecord(dir, record.uid)).toEqual({ ...record, init: { pid: 7, startTime: '9' }, phase: 'running' });
  expect(await listUids(dir)).toEqual([record.uid]);
  expect((await stat(containerPaths(dir, record.uid).record)).mode & 0o777).toBe(0o600);
  expect((await stat(containerPaths(dir, record.uid).dir)).mode & 0o777).toBe(0o700);
});

test('a record that is missing, half written or of another version is not understood', async () => {
  const record = aRecord();
  const paths = containerPaths(dir, record.uid);
  await mkdir(paths.dir, { recursive: true });

  expect(await readRecord(dir, record.uid)).toBeUndefined();
  for (const text of [JSON.stringify(record).slice(0, -5), JSON.stringify({ ...record, version: 2 }), '']) {
    await writeFile(paths.record, text);
    expect(await readRecord(dir, record.uid)).toBeUndefined();
  }
});

test('a container without a PID 1 is none yet', () => {
  expect(asContainer(aRecord())).toBeUndefined();
  expect(asContainer({ ...aRecord(), init: { pid: 7, startTime: '9' } })).toMatchObject({ pid: 7, name: 'web-1' });
});

test('directories that a process began are removed once it is gone', async () => {
  const mine = `.new-${process.pid}-${identify(process.pid)?.startTime}-x`;
  await mkdir(path.join(dir, 'containers', mine), { recursive: true });
  await mkdir(path.join(dir, 'containers', `.new-${process.pid}-1-y`));

  await removeUnfinished(dir);

  expect(await readdir(path.join(dir, 'containers'))).toEqual([mine]);
});

test('a process is known by its number and start', async () => {
  const own = identify(process.pid);

  expect(own !== undefined && isAlive(own)).toBe(true);
  expect(isAlive({ pid: process.pid, startTime: '1' })).toBe(false);
  expect(identify(2 ** 22 + 1)).toBeUndefined();
  expect((await processTree(process.pid))[0]).toBe(process.pid);
});

test('what conmon says is understood only once it is whole', () => {
  expect(parseSync('')).toBeUndefined();
  expect(parseSync('{"data": 12')).toBeUndefined();
  expect(parseSync('{"data": 1234}\n')).toEqual({ data: 1234 });
  expect(parseSync('{"data": -1, "message": "no such file\\n"}')).toEqual({ data: -1, message: 'no such file' });
});

test('a digest is taken off what lies in files, and left to registries', () => {
  const digest = `sha256:${'a'.repeat(64)}`;

  expect(withoutDigest(`oci:/x:tag@${digest}`)).toEqual({ source: 'oci:/x:tag', wanted: digest });
  expect(withoutDigest(`docker://x/y@${digest}`)).toEqual({ source: `docker://x/y@${digest}` });
  expect(withoutDigest('oci:/x:tag')).toEqual({ source: 'oci:/x:tag' });
});

test('slot files are replaced only when they changed, and the socket stays', async () => {
  const built = path.join(dir, 'built');
  const slot = path.join(dir, 'slot');
  await mkdir(built);
  await writeFile(path.join(built, 'slot'), 'one');
  await chmod(path.join(built, 'slot'), 0o700);
  await writeFile(path.join(built, 'entropy.so'), 'same');
  await installSlotFiles(built, slot);
  await writeFile(path.join(slot, 'agent.sock'), '');
  const inodes = async () => Promise.all(['slot', 'entropy.so'].map(async (file) => (await stat(path.join(slot, file))).ino));
  const before = await inodes();

  await writeFile(path.join(built, 'slot'), 'two');
  await installSlotFiles(built, slot);

  const after = await inodes();
  expect(await readFile(path.join(slot, 'slot'), 'utf8')).toBe('two');
  expect((await stat(path.join(slot, 'slot'))).mode & 0o777).toBe(0o755);
  expect(after[0]).not.toBe(before[0]);
  expect(after[1]).toBe(before[1]);
  expect((await readdir(slot)).sort()).toEqual(['agent.sock', 'entropy.so', 'slot']);
});

test('a slot that was not built is an error that says what to do', async () => {
  await expect(installSlotFiles(path.join(dir, 'nothing'), dir)).rejects.toMatchObject({
    code: 'machine_unsupported',
    message: expect.stringContaining('scripts/setup'),
  });
});

test('a trial has no name servers, and nobody has one on the loopback', async () => {
  await writeEtcFiles(path.join(dir, 'trial'), { name: 'a', addresses: ['192.0.2.2'], trial: true });
  await writeEtcFiles(path.join(dir, 'real'), { name: 'a', addresses: ['10.0.0.2'], trial: false });

  expect(await readFile(path.join(dir, 'trial/resolv.conf'), 'utf8')).toBe('');
  expect(await readFile(path.join(dir, 'real/resolv.conf'), 'utf8')).not.toMatch(/nameserver 127/);
  expect(await readFile(path.join(dir, 'real/hosts'), 'utf8')).toContain('10.0.0.2\ta\n');
});
