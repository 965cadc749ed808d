import { expect, test } from 'vitest';
import { externalMounts, isRemote, parseMountinfo, rightsOf } from '../../../src/checkpoint/mountinfo.ts';

// Of a container made by crun, shortened.
const text = `1511 1362 0:80 / / rw,relatime - overlay overlay rw,lowerdir=/,upperdir=/var/lib/rekindle/c/1/fresh/upper,workdir=/var/lib/rekindle/c/1/fresh/work,uuid=on
1512 1511 0:84 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
1513 1511 0:85 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755
1516 1513 0:88 / /dev/shm rw,nosuid,nodev,noexec,relatime - tmpfs shm rw,size=65536k
1530 1511 254:0 /lib/rekindle/c/1/etc/hosts /etc/hosts rw,relatime master:1 - ext4 /dev/vda rw,discard
1531 1511 254:0 /lib/rekindle/c/1/volumes/0 /srv/my\\040data ro,relatime shared:7 master:1 - ext4 /dev/vda rw,discard
1540 1512 0:24 / /proc/acpi ro,relatime - tmpfs tmpfs rw
1541 1512 0:6 /null /proc/keys ro,relatime - devtmpfs devtmpfs rw,size=4096k
1542 1512 0:84 /bus /proc/bus ro,nosuid,nodev,noexec,relatime - proc proc rw
1550 1531 0:90 / /srv/my\\040data rw,nosuid,nodev,relatime - tmpfs over rw
`;

test('mounts are read with their options sorted, spaces in paths and optional fields understood', () => {
  const mounts = parseMountinfo(text);

  expect(mounts.find(({ at }) => at === '/etc/hosts')).toEqual({
    at: '/etc/hosts',
    type: 'ext4',
    options: ['relatime', 'rw'],
    superOptions: ['rw', 'discard'],
    mountId: 1530,
  });
  expect(mounts.find(({ at }) => at === '/')?.superOptions).toContain('upperdir=/var/lib/rekindle/c/1/fresh/upper');
});

test('of several mounts at one place the topmost counts', () => {
  const at = parseMountinfo(text).filter((mount) => mount.at === '/srv/my data');

  expect(at.map(({ mountId, type }) => [mountId, type])).toEqual([[1550, 'tmpfs']]);
});

test('external are all but the root, /proc and what CRIU makes again below it', () => {
  expect(externalMounts(parseMountinfo(text)).map(({ at }) => at)).toEqual([
    '/dev',
    '/dev/shm',
    '/etc/hosts',
    '/proc/keys',
    '/srv/my data',
  ]);
});

test('rights of a mount are the options that forbid something', () => {
  expect(rightsOf({ options: ['nodev', 'noexec', 'nosuid', 'relatime', 'ro'] })).toEqual(['ro', 'nosuid', 'nodev', 'noexec']);
  expect(rightsOf({ options: ['relatime', 'rw'] })).toEqual([]);
});

test('what is of no filesystem that is known to be here may be a server that does not answer', () => {
  expect(parseMountinfo(text).filter(isRemote)).toEqual([]);
  expect(['nfs4', 'cifs', 'ceph', 'fuse', 'fuse.sshfs', '9p', 'something'].every((type) => isRemote({ type }))).toBe(true);
});
