import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { exec } from '../../../src/lib/exec.ts';
import { resolveInRoot, resolveUser } from '../../../src/local/user.ts';

let dir: string;
let root: string;
beforeEach(async () => {
  dir = await mkdtemp(path.join(os.tmpdir(), 'rekindle-user-'));
  root = path.join(dir, 'root');
  await mkdir(path.join(root, 'etc'), { recursive: true });
  await writeFile(path.join(root, 'etc/passwd'), 'root:x:0:0::/root:/bin/sh\nanna:x:1001:1002::/home/anna:/bin/sh\n');
  await writeFile(path.join(root, 'etc/group'), 'root:x:0:\nanna:x:1002:anna\nmusic:x:2000:berta,anna\nart:x:2001:anna\n');
});
afterEach(async () => {
  await rm(dir, { recursive: true });
});

test.each([
  [undefined, { uid: 0, gid: 0, additionalGids: [], home: '/root' }],
  ['anna', { uid: 1001, gid: 1002, additionalGids: [2000, 2001], home: '/home/anna' }],
  ['1001', { uid: 1001, gid: 1002, additionalGids: [2000, 2001], home: '/home/anna' }],
  ['anna:music', { uid: 1001, gid: 2000, additionalGids: [], home: '/home/anna' }],
  ['anna:7', { uid: 1001, gid: 7, additionalGids: [], home: '/home/anna' }],
  ['4711', { uid: 4711, gid: 0, additionalGids: [], home: '/' }],
  ['4711:4712', { uid: 4711, gid: 4712, additionalGids: [], home: '/' }],
])('user %s is resolved by the container', async (wanted, user) => {
  expect(await resolveUser(root, wanted)).toEqual(user);
});

test.each(['berta', 'anna:nobody', '-1', '99999999999', '0x0'])('%s is unknown there', async (wanted) => {
  await expect(resolveUser(root, wanted)).rejects.toMatchObject({ code: 'config_invalid' });
});

test('symbolic links are followed as inside the container, never out of it', async () => {
  await writeFile(path.join(dir, 'secret'), 'ghost:x:1:1::/:\n');
  await mkdir(path.join(root, 'usr/etc'), { recursive: true });
  await writeFile(path.join(root, 'usr/etc/passwd'), 'inner:x:5:6::/:\n');
  await symlink('/usr/etc/passwd', path.join(root, 'etc/absolute'));
  await symlink('../../../../../../secret', path.join(root, 'etc/outside'));
  await symlink('loop', path.join(root, 'etc/loop'));
  await symlink('/../usr', path.join(root, 'up'));

  expect(await resolveInRoot(root, '/etc/absolute')).toBe(path.join(root, 'usr/etc/passwd'));
  expect(await resolveInRoot(root, '/up/etc/passwd')).toBe(path.join(root, 'usr/etc/passwd'));
  expect(await resolveInRoot(root, '/etc/../../../etc/passwd')).toBe(path.join(root, 'etc/passwd'));
  expect(await resolveInRoot(root, '/etc/outside')).toBeUndefined();
  expect(await resolveInRoot(root, '/etc/loop')).toBeUndefined();
});

test('a passwd that is a FIFO, a directory or absent neither blocks nor fails for a numeric user', async () => {
  const passwd = path.join(root, 'etc/passwd');

  for (const make of [() => exec('mkfifo', [passwd]), () => mkdir(passwd), async () => {}]) {
    await rm(passwd, { recursive: true, force: true });
    await make();

    expect(await resolveUser(root, '5:6')).toEqual({ uid: 5, gid: 6, additionalGids: [], home: '/' });
  }
});
