import { constants } from 'node:fs';
import { open, readdir, readFile, rm, rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import { Registry } from 'prom-client';
import { Retiring } from '../agent/retiring.ts';
import { machineSettings } from '../checkpoint/kernel-settings.ts';
import { untilAborted } from '../lib/abort.ts';
import { monotonicClock, systemClock } from '../lib/clock.ts';
import { errno, RekindleError } from '../lib/errors.ts';
import { spawnDuplex } from '../lib/exec.ts';
import { SlotServer } from '../slots/slot-server.ts';
import { ALONE, sweep } from './agent-engine.ts';
import { NODE_ROOT, openClusterPlace } from './cluster-place.ts';
import { type Context, say } from './context.ts';
import type { Listen } from './listen.ts';
import { openRoleServer } from './role-server.ts';

export type RetireOptions = {
  readonly node?: string | undefined;
  readonly listen?: Listen | undefined;
  readonly cluster?: boolean | undefined;
  readonly keepSnapshots?: boolean | undefined;
};

const HEALTH_PORT = 7656;
/** Restores that had begun are ended by their helpers. */
const HELPERS_MS = 60_000;
const LOOK_EVERY_MS = 500;
const SNAPSHOTS = 'snapshots';

/**
 * `rekindle agent --cluster --retire`: the last agent of its node, which needs no Redis. In this order: what is parked is started (agent/retiring.ts); restores that
 * had begun end; everything of rekindle's on the node is removed; then `/readyz` says 200. Until it is told to end, slots that ask are started cold. Safe to
 * repeat.
 */
export async function retire(context: Context, { cluster, keepSnapshots = false, ...options }: RetireOptions): Promise<void> {
  const { config, log, signal } = context;
  const { hostIp, stateDir, runDir, buildDir } = config;
  const node = options.node ?? config.node;
  if (cluster !== true || hostIp === undefined || node === undefined)
    throw new RekindleError('usage', '--retire is for an agent of a cluster: it needs --cluster, REKINDLE_NODE and REKINDLE_HOST_IP');
  let progress: string | undefined = 'this agent is starting';
  await using _server = await openRoleServer(
    { registry: new Registry(), whyNotReady: () => progress, log },
    options.listen ?? { host: hostIp, port: HEALTH_PORT },
  );
  await using place = await openClusterPlace(context, { node, view: { view: ALONE }, onPass: () => undefined });
  const { host, listen } = place;
  const retiring = new Retiring({
    host,
    dial: { spawnDuplex, connect: join(buildDir, 'agent', 'connect') },
    listener: (event) => place.onEvent?.(event),
    clock: monotonicClock,
    log: log.child({ component: 'retiring' }),
    stop: signal,
  });
  await using slots = new SlotServer({
    ...(listen.tcp === undefined ? {} : { tcp: listen.tcp }),
    onConnection: retiring.onConnection,
    clock: systemClock,
    log: log.child({ component: 'slots' }),
  });
  await slots.listen();
  say(`agent: retires from node ${node}; what is parked there is started`);
  try {
    const silent = await retiring.untilNoneParked((left) => {
      progress = `${left} parked pods are to be started, ${retiring.started} were`;
    });
    if (silent.length > 0) log.error({ pods: silent }, 'slots stay parked: they did not come to be started; delete their pods');
    progress = 'restores that had begun are ending';
    const tools = { helper: join(buildDir, 'agent', 'helper') };
    const workDir = join(runDir, 'work');
    const until = monotonicClock.now() + HELPERS_MS;
    for (;;) {
      const names = await readdir(workDir).catch(() => []);
      if (names.length === 0 || monotonicClock.now() > until) break;
      await sweep({ names, containers: [] }, { host, tools, workDir, log }, signal);
      await monotonicClock.sleep(LOOK_EVERY_MS, signal);
    }
    progress = 'this node is being cleaned';
    await empty(runDir, []);
    await empty(stateDir, keepSnapshots ? [SNAPSHOTS] : []);
    // As an agent left them that was killed during a restore.
    const { thp, ksm } = machineSettings(NODE_ROOT);
    await Promise.all([thp.recover(), ksm.recover()]);
    progress = undefined;
    say(`agent: node ${node} is clean; ${retiring.started} parked pods were started`);
  } catch (error) {
    if (!signal.aborted) throw error;
  }
  await untilAborted(signal);
  // The node's own, which are mounted here: only once nothing needs them, and only when nothing is left in them.
  for (const dir of [runDir, stateDir]) await removeIfEmpty(join(NODE_ROOT, dir)).catch((error: unknown) => mayStay(error));
}

/**
 * The kernel refuses to remove what something is mounted at only in the mount namespace of whoever asks: at a directory of another it takes the mount away
 * (detach_mounts in fs/namespace.c of Linux), and a disk that the node has for its snapshots would be gone.
 */
async function removeIfEmpty(dir: string): Promise<void> {
  const [own, above] = await Promise.all([mountOf(dir), mountOf(`${dir}/..`)]);
  if (own !== undefined && own === above) await rmdir(dir);
}

/** The number of the mount that a directory is in: `mnt_id` in proc_pid_fdinfo(5). */
async function mountOf(dir: string): Promise<string | undefined> {
  await using opened = await open(dir, constants.O_RDONLY | constants.O_DIRECTORY);
  return /^mnt_id:\s*(\d+)$/m.exec(await readFile(`/proc/self/fdinfo/${opened.fd}`, 'utf8'))?.[1];
}

/** Of all but these names. The directory itself may be a place where something is mounted. */
async function empty(dir: string, but: readonly string[]): Promise<void> {
  for (const name of await readdir(dir).catch(() => []))
    if (!but.includes(name)) await rm(join(dir, name), { recursive: true, force: true });
}

function mayStay(error: unknown): void {
  if (!['ENOTEMPTY', 'ENOENT', 'EEXIST', 'EBUSY', 'ENOTDIR'].includes(errno(error) ?? '')) throw error;
}
