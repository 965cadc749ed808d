import { randomInt } from 'node:crypto';
import { cp, mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { systemClock } from '../../src/lib/clock.ts';
import { exec, mustExec } from '../../src/lib/exec.ts';
import { silentLog } from '../../src/lib/log.ts';
import { LocalHost, type LocalHostDeps } from '../../src/local/host.ts';
import type { Container } from '../../src/workloads/host.ts';
import type { ContainerSpec, WorkloadSpec } from '../../src/workloads/workload.ts';
import { somePool } from '../fixtures/pool-settings.ts';

const PROJECT = path.join(import.meta.dirname, '../..');
export const SLOT_DIR = path.join(PROJECT, '.build/slot');
export const CONNECT = path.join(PROJECT, '.build/agent/connect');
const BUSYBOX = '/bin/busybox';

/** Why containers cannot be tested here, or undefined. */
export async function missing(): Promise<string | undefined> {
  if (process.getuid?.() !== 0) return 'needs root';
  for (const file of [path.join(SLOT_DIR, 'slot'), CONNECT, BUSYBOX, '/usr/bin/conmon']) {
    if (!(await readFile(file).catch(() => undefined))) return `${file} is missing: run scripts/setup --test`;
  }
  return undefined;
}

/** Own directories, bridge and subnet, and a host in them. */
export type Place = AsyncDisposable & {
  readonly dir: string;
  readonly image: string;
  readonly imageDigest: string;
  readonly deps: LocalHostDeps;
  readonly host: LocalHost;
};

export async function aPlace(overrides: Partial<LocalHostDeps> = {}): Promise<Place> {
  const dir = await mkdtemp(path.join(os.tmpdir(), 'rekindle-local-'));
  const octet = randomInt(256);
  const deps: LocalHostDeps = {
    exec,
    clock: systemClock,
    log: silentLog,
    stateDir: path.join(dir, 'state'),
    runDir: path.join(dir, 'run'),
    slotDir: SLOT_DIR,
    subnet: `10.${randomInt(100, 250)}.${octet}.0/24`,
    bridge: `rkt${randomInt(1e9).toString(36)}`,
    ...overrides,
  };
  const imageDigest = await anImage(dir);
  const host = await LocalHost.open(deps);
  return {
    dir,
    image: `oci:${path.join(dir, 'layout')}:box`,
    imageDigest,
    deps,
    host,
    [Symbol.asyncDispose]: async () => {
      await host.removeAll();
      // skopeo or umoci of a creator that a test killed may still be writing.
      await rm(dir, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
    },
  };
}

/** A workload of the test image, which sleeps unless told otherwise. */
export function aWorkload(container: Partial<ContainerSpec>): WorkloadSpec {
  return {
    name: 'box',
    container: {
      command: ['sleep', '3600'],
      env: {},
      instanceEnv: {},
      readOnlyRoot: false,
      noNewPrivileges: true,
      seccomp: 'default',
      preload: false,
      volumes: [],
      ports: [],
      ...container,
    },
    checkpoint: { verify: 'trial', allowSharedRandom: false, keep: 3, deadlineSeconds: 120 },
    restore: { identityFile: '/tmp/rekindle-identity', mergeMemory: false, deadlineSeconds: 10 },
    pool: somePool(),
  };
}

/** Builds the test image, busybox and a few users, as the OCI layout `layout:box`; returns the digest of its configuration. */
export async function anImage(dir: string): Promise<string> {
  const layout = path.join(dir, 'layout');
  const bundle = path.join(dir, 'bundle');
  const root = path.join(bundle, 'rootfs');
  await mustExec(exec, 'umoci', ['init', '--layout', layout]);
  await mustExec(exec, 'umoci', ['new', '--image', `${layout}:box`]);
  await mustExec(exec, 'umoci', ['unpack', '--image', `${layout}:box`, bundle]);
  await Promise.all(
    ['bin', 'etc', 'tmp', 'www'].map((name) => mkdir(path.join(root, name), { mode: name === 'tmp' ? 0o1777 : 0o755, recursive: true })),
  );
  await mustExec(exec, 'chmod', ['1777', path.join(root, 'tmp')]);
  await cp(BUSYBOX, path.join(root, 'bin/busybox'));
  const applets =
    'sh cat grep sleep yes head id hostname ip touch echo ls nc httpd wget stat mount test true ulimit nslookup dd ps kill od chmod unshare'.split(
      ' ',
    );
  await Promise.all(applets.map((applet) => symlink('busybox', path.join(root, 'bin', applet))));
  await writeFile(path.join(root, 'etc/passwd'), 'root:x:0:0::/root:/bin/sh\nanna:x:1001:1002::/home/anna:/bin/sh\n');
  await writeFile(path.join(root, 'etc/group'), 'root:x:0:\nanna:x:1002:\nmusic:x:2000:berta,anna\n');
  await writeFile(path.join(root, 'www/index.html'), 'it works\n');
  await mustExec(exec, 'umoci', ['repack', '--image', `${layout}:box`, bundle]);
  await mustExec(exec, 'umoci', [
    'config',
    '--image',
    `${layout}:box`,
    '--config.env',
    'COLOUR=blue',
    '--config.workingdir',
    '/www',
    '--config.cmd',
    'sleep',
    '--config.cmd',
    '1234',
  ]);
  await rm(bundle, { recursive: true });
  const index = JSON.parse(await readFile(path.join(layout, 'index.json'), 'utf8'));
  const manifest = JSON.parse(await readFile(path.join(layout, 'blobs', ...String(index.manifests[0].digest).split(':')), 'utf8'));
  return String(manifest.config.digest);
}

/** Everything on this machine that belongs to these containers or this place; empty when nothing is left. */
export async function leftovers(place: Pick<Place, 'deps' | 'dir'>, uids: readonly string[]): Promise<readonly string[]> {
  const found: string[] = [];
  const mine = (text: string) => uids.some((uid) => text.includes(uid) || text.includes(`rk${uid.replaceAll('-', '').slice(0, 12)}`));
  for (const line of (await readFile('/proc/self/mountinfo', 'utf8')).split('\n'))
    if (line.includes(place.dir) || mine(line)) found.push(`mount ${line}`);
  for (const name of await readdir('/run/netns')) if (mine(name)) found.push(`netns ${name}`);
  for (const name of await readdir('/sys/class/net')) if (mine(name)) found.push(`link ${name}`);
  for (const hierarchy of ['.', ...(await readdir('/sys/fs/cgroup'))]) {
    for (const name of await readdir(path.join('/sys/fs/cgroup', hierarchy, 'rekindle')).catch(() => []))
      if (mine(name)) found.push(`cgroup ${hierarchy} ${name}`);
  }
  for (const pid of (await readdir('/proc')).filter((entry) => /^\d+$/.test(entry))) {
    const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    const environment = await readFile(`/proc/${pid}/environ`, 'utf8').catch(() => '');
    if (mine(command) || mine(environment)) found.push(`process ${pid} ${command.replaceAll('\0', ' ')}`);
  }
  for (const where of ['state/containers', 'state/addresses', 'run/crun', 'run/runc']) {
    for (const name of await readdir(path.join(place.dir, where)).catch(() => []))
      if (!name.startsWith('.empty') && name !== '.cache') found.push(`file ${where}/${name}`);
  }
  return found;
}

/** What a container said so far, without the time stamps. */
export async function said(host: LocalHost, container: Container): Promise<string> {
  const text = await readFile(host.logFile(container), 'utf8').catch(() => '');
  return text
    .split('\n')
    .map((line) => line.split(' ').slice(3).join(' '))
    .join('\n');
}
