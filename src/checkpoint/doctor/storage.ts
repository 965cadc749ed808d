import { mkdir, mkdtemp, readFile, rm, stat, statfs, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Exec } from '../../lib/exec.ts';
import { bytesText, examine, type Fact, type Finding, fail, ok, warn } from '../../lib/fact.ts';
import { couldLoad, tryAlone } from './trial.ts';

const GROUP = 'disk and memory';
const TMPFS_MAGIC = 0x01021994; // statfs(2)
const LITTLE_DISK = 5 * 1024 ** 3;
const NO_DISK = 256 * 1024 ** 2;
const LITTLE_MEMORY = 1024 ** 3;
const TIMEOUT_MS = 2_500;

/**
 * Mounts an overlay and replaces a directory of its lower layer, which takes an extended attribute. $1 lower, $2 directory for upper and
 * work, $3 mount point, $4 the directory to replace or nothing. Runs in mounts of its own, which end with it.
 */
const TRY_OVERLAY =
  '[ "$4" ] || mount -t tmpfs rekindle "$2"; mkdir "$2/upper" "$2/work" && mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" overlay "$3" && ' +
  '{ [ -z "$4" ] || { rm -r "$3/$4" && mkdir "$3/$4" && ! [ -e "$3/$4/file" ]; }; }';

export type StorageDeps = { readonly exec: Exec; readonly stateDir: string; readonly runDir: string };

/** Disk and memory. What is tried out is tried in a temporary directory in `stateDir` (or where that will be), which is removed again. */
export async function examineStorage(deps: StorageDeps): Promise<Fact[]> {
  const { stateDir, runDir } = deps;
  const looked = examine(GROUP, {
    'state directory': async () => directory('state directory', stateDir, await existing(stateDir)),
    'run directory': async () => runDirectory(runDir, await existing(runDir)),
    'free disk': async () => {
      const { bavail, bsize } = await statfs(await existing(stateDir));
      return freeDisk(stateDir, bavail * bsize);
    },
    memory: async () => memory(await readFile('/proc/meminfo', 'utf8')),
  });
  return (await Promise.all([looked, tryOut(deps)])).flat();
}

/** The path itself, or the nearest directory above that exists. */
export async function existing(path: string): Promise<string> {
  const there = await stat(path).catch(() => undefined);
  return there?.isDirectory() || dirname(path) === path ? path : existing(dirname(path));
}

async function directory(name: string, wanted: string, found: string): Promise<Finding> {
  // As the local host refuses them: they stand in mount options and lists of paths.
  if (/[:,\\\s]/.test(wanted))
    return fail(
      name,
      `${wanted} has a space, colon, comma or backslash in it`,
      'choose another path (REKINDLE_STATE_DIR, REKINDLE_RUN_DIR)',
    );
  if (found !== wanted) return ok(name, `${wanted} will be made`);
  const { uid } = await stat(wanted);
  return uid === (process.getuid?.() ?? uid)
    ? ok(name, wanted)
    : warn(name, `${wanted} belongs to user ${uid}, who could change snapshots`, `chown root ${wanted}`);
}

async function runDirectory(wanted: string, found: string): Promise<Finding> {
  const one = await directory('run directory', wanted, found);
  if (one.level === 'fail') return one;
  const inMemory = (await statfs(found)).type === TMPFS_MAGIC;
  return ok('run directory', `${wanted}, ${inMemory ? 'in memory' : 'on a disk: a tmpfs is mounted there at the start'}`);
}

export function freeDisk(dir: string, bytes: number): Finding {
  const says = `${bytesText(bytes)} for ${dir}`;
  const remedy = 'free some, `rekindle snapshots prune`, or set REKINDLE_STATE_DIR to a larger disk';
  if (bytes < NO_DISK) return fail('free disk', `${says}: no room for a snapshot`, remedy);
  return bytes < LITTLE_DISK ? warn('free disk', `${says}: room for few snapshots`, remedy) : ok('free disk', says);
}

/** From the text of /proc/meminfo. */
export function memory(meminfo: string): Finding {
  const bytes = (key: string) => Number(new RegExp(`^${key}:\\s+(\\d+) kB`, 'm').exec(meminfo)?.[1] ?? Number.NaN) * 1024;
  const available = bytes('MemAvailable');
  const says = `${bytesText(available)} of ${bytesText(bytes('MemTotal'))} available`;
  if (Number.isNaN(available)) return warn('memory', '/proc/meminfo does not say how much is available');
  return available < LITTLE_MEMORY
    ? warn('memory', `${says}: each clone has a copy of its own`, 'end what is not needed, or merge memory (restore.mergeMemory)')
    : ok('memory', says);
}

async function tryOut({ exec, stateDir }: StorageDeps): Promise<Fact[]> {
  let dir: string;
  try {
    dir = await mkdtemp(join(await existing(stateDir), '.rekindle-doctor-'));
  } catch (error) {
    return examine(GROUP, { 'overlay and reflinks': () => Promise.reject(error) });
  }
  try {
    // Waits for all of them, so that nothing is written any more when the directory is removed.
    return await examine(GROUP, {
      overlay: () => overlay(exec, dir, stateDir),
      "overlay on this machine's root": () => hostOverlay(exec, dir),
      reflinks: () => reflinks(exec, dir, stateDir),
    });
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

async function overlay(exec: Exec, dir: string, stateDir: string): Promise<Finding> {
  const name = 'overlay';
  if (await couldLoad('overlay')) return ok(name, 'the module is there and loads with the first container');
  const [lower, fresh, at] = ['lower', 'fresh', 'merged'].map((part) => join(dir, part));
  await Promise.all([mkdir(`${lower}/d`, { recursive: true }), mkdir(`${fresh}`), mkdir(`${at}`)]);
  await writeFile(`${lower}/d/file`, '');
  const { status, stderr } = await tryOverlay(exec, [`${lower}`, `${fresh}`, `${at}`, 'd']);
  return status === 0
    ? ok(name, `works in ${stateDir}, extended attributes too`)
    : fail(
        name,
        `does not work in ${stateDir}: ${lastLine(stderr, status)}`,
        'use a kernel with overlayfs and a disk with extended attributes (ext4, xfs, btrfs) for REKINDLE_STATE_DIR',
      );
}

async function hostOverlay(exec: Exec, dir: string): Promise<Finding> {
  const name = "overlay on this machine's root";
  if (await couldLoad('overlay')) return ok(name, 'tried once the module is loaded');
  const [fresh, at] = ['host-fresh', 'host-merged'].map((part) => join(dir, part));
  await Promise.all([mkdir(`${fresh}`), mkdir(`${at}`)]);
  const { status, stderr } = await tryOverlay(exec, ['/', `${fresh}`, `${at}`, '']);
  return status === 0
    ? ok(name, 'works: `rootfs: host` can be used')
    : warn(
        name,
        `does not work: ${lastLine(stderr, status)}. Containers with \`rootfs: host\` (the demo) cannot be made`,
        'use images, or run on the machine itself rather than in a container',
      );
}

/** Without reflinks the frozen application waits while its changed files are copied. */
async function reflinks(exec: Exec, dir: string, stateDir: string): Promise<Finding> {
  const from = join(dir, 'file');
  await writeFile(from, 'text');
  const { status } = await exec('cp', ['--reflink=always', from, join(dir, 'copy')], { timeoutMs: TIMEOUT_MS });
  const says =
    status === 0
      ? 'works: changed files are copied at once'
      : `not on this filesystem: a seed stands still while its changed files are copied`;
  return ok(`reflinks in ${stateDir}`, says);
}

function tryOverlay(exec: Exec, args: readonly string[]) {
  return tryAlone(exec, 'mount', 'sh', ['-c', TRY_OVERLAY, 'sh', ...args]);
}

function lastLine(text: string, status: number): string {
  return text.trim().split('\n').at(-1) || `ended with ${status}`;
}
