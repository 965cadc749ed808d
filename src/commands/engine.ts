import { mkdir, open, readFile, rm, statfs } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import type { Config } from '../config.ts';
import { monotonicClock, systemClock } from '../lib/clock.ts';
import { RekindleError } from '../lib/errors.ts';
import { exec, mustExec } from '../lib/exec.ts';
import type { Log } from '../lib/log.ts';
import { LocalHost } from '../local/host.ts';
import { SnapshotStore } from '../snapshots/store.ts';
import { type AgentEngine, type AgentOptions, type AgentPlace, openAgent } from './agent-engine.ts';
import type { Context } from './context.ts';

/** Containers and snapshots of this machine, without an agent: what it takes to look, or to make containers for an agent that runs elsewhere. */
export type Machine = { readonly host: LocalHost; readonly store: SnapshotStore };

/** A machine with its agent in this process. */
export type Engine = AgentEngine<LocalHost> & {
  /** Stops the agent, ends every container and takes down what was made for them: bridge, cgroups, tmpfs. Snapshots and images stay. */
  readonly removeAll: () => Promise<void>;
};

const TMPFS_MAGIC = 0x01021994; // statfs(2)

/** Throws `machine_unsupported` when something is missing, root's rights first of all. */
export async function openMachine(config: Config, log: Log): Promise<Machine> {
  if (process.geteuid?.() !== 0) throw new RekindleError('machine_unsupported', 'this needs root: run it by sudo -E, or in a root shell');
  await mountRunDir(config.runDir);
  const host = await LocalHost.open({
    exec,
    clock: monotonicClock,
    log: log.child({ component: 'local' }),
    stateDir: config.stateDir,
    runDir: config.runDir,
    slotDir: join(config.buildDir, 'slot'),
    subnet: config.subnet,
    bridge: config.bridge,
    ...(config.runtime === undefined ? {} : { runtime: config.runtime }),
  });
  const store = new SnapshotStore({
    dir: join(config.stateDir, 'snapshots'),
    log: log.child({ component: 'snapshots' }),
    clock: systemClock,
    exec,
  });
  return { host, store };
}

/** Whether an agent serves this machine's slots already. */
export function agentRuns(socketPath: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(socketPath);
    socket.once('connect', () => socket.destroy() && resolve(true));
    socket.once('error', () => resolve(false));
  });
}

/** This machine as the place of an agent. */
export async function openLocalPlace({ config, log }: Pick<Context, 'config' | 'log'>): Promise<AgentPlace<LocalHost>> {
  const { host, store } = await openMachine(config, log);
  const listen = { unixPath: host.agentSocket };
  return { host, store, listen, hostRoot: '', says: host.agentSocket, [Symbol.asyncDispose]: async () => undefined };
}

/** Opens the machine with an agent in this process; see {@link openAgent}. */
export async function openEngine(config: Config, options: AgentOptions): Promise<Engine> {
  const place = await openLocalPlace({ config, log: options.log });
  const engine = await openAgent(config, place, options);
  const removeAll = async () => {
    // First the agent: its socket keeps the tmpfs busy.
    await engine[Symbol.asyncDispose]();
    await takeDown(config, place.host);
  };
  return { ...engine, removeAll };
}

/** Ends every container and removes what was made for them: bridge, cgroups, tmpfs. Snapshots and images stay. For when no agent runs. */
export async function takeDown(config: Config, host: LocalHost): Promise<void> {
  await host.removeAll();
  await removeRunDir(config);
}

/** When nothing runs there any more. No error if it is gone. */
export async function removeRunDir(config: Config): Promise<void> {
  if (await isMountPoint(config.runDir)) await mustExec(exec, 'umount', [config.runDir], { timeoutMs: 10_000 });
  await rm(config.runDir, { recursive: true, force: true });
}

/** criu keeps its cache of kernel features on a tmpfs only, and restores work there; where /run is none, one is mounted on our directory. */
export async function mountRunDir(dir: string): Promise<void> {
  await mkdir(dir, { recursive: true, mode: 0o755 });
  const isTmpfs = async () => (await statfs(dir)).type === TMPFS_MAGIC;
  if (await isTmpfs()) return;
  // Two that mounted at once would have a tmpfs each, the second hiding what is in the first.
  await using below = await open(dir);
  await mustExec(exec, 'flock', ['3'], { extraFds: [below.fd], timeoutMs: 10_000 });
  if (await isTmpfs()) return;
  await mustExec(exec, 'mount', ['-t', 'tmpfs', '-o', 'mode=755,nosuid,nodev', 'rekindle', dir], { timeoutMs: 10_000 });
}

async function isMountPoint(dir: string): Promise<boolean> {
  return (await readFile('/proc/self/mountinfo', 'utf8')).split('\n').some((line) => line.split(' ')[4] === dir);
}
