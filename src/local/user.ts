import { constants } from 'node:fs';
import { lstat, open, readlink } from 'node:fs/promises';
import path from 'node:path';
import { RekindleError } from '../lib/errors.ts';

/** Whom a container's processes run as. `home` is what passwd says, `/` where it says nothing. */
export type ContainerUser = {
  readonly uid: number;
  readonly gid: number;
  readonly additionalGids: readonly number[];
  readonly home: string;
};

const MAX_LINKS = 40;
const MAX_BYTES = 1024 * 1024;
const MAX_ID = 2 ** 32 - 2;

/**
 * Where a path of a container lies on this machine, symbolic links followed as inside the container: never out of `root`. The tree must
 * not change meanwhile (an image before its container starts). Undefined when it does not exist.
 */
export async function resolveInRoot(root: string, wanted: string): Promise<string | undefined> {
  const todo = wanted.split('/');
  let links = 0;
  let at: string[] = [];
  for (let part = todo.shift(); part !== undefined; part = todo.shift()) {
    if (part === '' || part === '.') continue;
    if (part === '..') {
      at.pop();
      continue;
    }
    const next = path.join(root, ...at, part);
    const found = await lstat(next).catch(() => undefined);
    if (found === undefined) return undefined;
    if (!found.isSymbolicLink()) {
      at.push(part);
      continue;
    }
    if (++links > MAX_LINKS) return undefined;
    const target = await readlink(next);
    if (target.startsWith('/')) at = [];
    todo.unshift(...target.split('/'));
  }
  return path.join(root, ...at);
}

/** The fields of each line of the container's /etc/passwd or /etc/group; none when there is no such regular file of sensible size. */
async function table(root: string, file: string): Promise<readonly (readonly string[])[]> {
  const real = await resolveInRoot(root, file);
  if (real === undefined) return [];
  // A FIFO or device of a hostile image neither blocks nor is read.
  const handle = await open(real, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK).catch(() => undefined);
  if (handle === undefined) return [];
  try {
    const stat = await handle.stat();
    if (!stat.isFile() || stat.size > MAX_BYTES) return [];
    return (await handle.readFile('utf8')).split('\n').map((line) => line.split(':'));
  } finally {
    await handle.close();
  }
}

/**
 * Resolves `UID`, `UID:GID`, `NAME` or `NAME:GROUP` by the passwd and group files of the container whose root filesystem lies at `root`.
 * Supplementary groups are those of the user's name, unless a group was given. Throws `config_invalid` for a name that is not there.
 */
export async function resolveUser(root: string, wanted: string | undefined): Promise<ContainerUser> {
  const [who = '0', groupName] = (wanted === undefined || wanted === '' ? '0' : wanted).split(':');
  const [passwd, groups] = await Promise.all([table(root, '/etc/passwd'), table(root, '/etc/group')]);
  const number = idOf(who);
  const entry = passwd.find((line) => line[0] === who) ?? passwd.find((line) => number !== undefined && idOf(line[2]) === number);
  const uid = entry === undefined ? number : idOf(entry[2]);
  if (uid === undefined) throw unknown('user', who, '/etc/passwd');
  const home = entry?.[5] === undefined || entry[5] === '' ? '/' : entry[5];
  if (groupName !== undefined && groupName !== '') {
    const gid = idOf(groups.find((line) => line[0] === groupName)?.[2]) ?? idOf(groupName);
    if (gid === undefined) throw unknown('group', groupName, '/etc/group');
    return { uid, gid, additionalGids: [], home };
  }
  const gid = idOf(entry?.[3]) ?? 0;
  const name = entry?.[0];
  const additionalGids = groups.flatMap((line) => {
    const id = idOf(line[2]);
    return id !== undefined && id !== gid && name !== undefined && line[3]?.split(',').includes(name) ? [id] : [];
  });
  return { uid, gid, additionalGids, home };
}

function idOf(text: string | undefined): number | undefined {
  return text !== undefined && /^\d{1,10}$/.test(text) && Number(text) <= MAX_ID ? Number(text) : undefined;
}

function unknown(kind: string, name: string, file: string): RekindleError {
  return new RekindleError(
    'config_invalid',
    `the container has no ${kind} ${name}: its ${file} does not name it. Give a number, or a name that is there`,
  );
}
