import { constants } from 'node:fs';
import { access, mkdir, open, readdir, readFile, rm } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { Abandoned } from '../agent/abandoned.ts';
import { Agent, type AgentDeps } from '../agent/agent.ts';
import type { AgentListener } from '../agent/events.ts';
import { Inventory } from '../agent/inventory.ts';
import type { NodeTruthDeps } from '../agent/node-truth.ts';
import type { PeerServerDeps } from '../agent/peer-server.ts';
import { Puller, type PullerDeps } from '../agent/pull.ts';
import { endInterrupted } from '../agent/recover.ts';
import { machineKey } from '../agent/service-secret.ts';
import { SpecReader } from '../agent/spec-facts.ts';
import { SpecIndex } from '../agent/spec-index.ts';
import { filesAnywhere } from '../agent/volume-files.ts';
import { machineSettings } from '../checkpoint/kernel-settings.ts';
import { LargePages } from '../checkpoint/large-pages.ts';
import { type MachineFacts, machineFacts } from '../checkpoint/machine.ts';
import { PageMerging } from '../checkpoint/page-merging.ts';
import { RestoreHelpers } from '../checkpoint/restore-helpers.ts';
import { type CheckpointTools, checkpointTools } from '../checkpoint/tools.ts';
import type { Config } from '../config.ts';
import { monotonicClock, systemClock } from '../lib/clock.ts';
import { RekindleError } from '../lib/errors.ts';
import { exec, spawnDuplex } from '../lib/exec.ts';
import type { Log } from '../lib/log.ts';
import { type Loop, type LoopDeps, runLoop } from '../lib/loop.ts';
import type { NodeTruth, View } from '../queue/truth.ts';
import { SlotServer, type SlotServerOptions } from '../slots/slot-server.ts';
import type { SnapshotStore } from '../snapshots/store.ts';
import type { Container, ContainerMaker } from '../workloads/host.ts';
import { type AgentFileKeeper, agentFile, keepAgentFile } from './agent-file.ts';

/** What makes a machine's agent a node of a service; without it, it is alone. */
export type ServiceSide = {
  /** Key of the spec hashes, the same on all nodes. */
  readonly specKey: () => Uint8Array;
  /** What the agents of the service show each other. */
  readonly peerToken: () => string;
  readonly view: () => View;
  /** See `AgentDeps`; alone, seeds are counted by the agent itself. */
  readonly claimSeed?: AgentDeps['claimSeed'];
  readonly onPull?: PullerDeps['onPull'];
};

/** What is heard where there is no service. */
export const ALONE: View = { nodes: new Map(), gateways: new Map(), scaler: undefined, workloads: undefined };

/** A machine with its agent in this process. */
export type AgentEngine<H extends ContainerMaker> = AsyncDisposable & {
  readonly host: H;
  readonly store: SnapshotStore;
  readonly agent: Agent;
  readonly machine: MachineFacts;
  /** What a node tells is made of. */
  readonly told: NodeTruthDeps;
  /** `changed` is called whenever something that is told has changed, before anything is written or logged. */
  readonly onChange: (changed: () => void) => void;
  /** Resolves when what has happened so far can be read by other processes (agent-file.ts). */
  readonly written: () => Promise<void>;
};

/** Per core: for the first of a burst. They are small. */
const SPARE_HELPERS = 4;
const VERIFY_BYTES_PER_SECOND = 50 * 1024 * 1024;
const VERIFY_EVERY_MS = 3_600_000;

/** Where the agent's containers are, and where their slots are heard: this machine, or a Kubernetes node. */
export type AgentPlace<H extends ContainerMaker> = AsyncDisposable & {
  readonly host: H;
  readonly store: SnapshotStore;
  readonly listen: Pick<SlotServerOptions, 'unixPath' | 'tcp'>;
  /** See `CheckpointTools`. */
  readonly hostRoot: string;
  /** Where slots find the agent, for people. */
  readonly says: string;
  /** See `PeerServerDeps`. */
  readonly image?: PeerServerDeps['image'];
  /** Told of everything that happens. */
  readonly onEvent?: AgentListener;
  /** Adds to what every node tells; `onChange` takes what is to be called when that has changed. */
  readonly truth?: (told: NodeTruth) => NodeTruth;
  readonly onChange?: (changed: () => void) => void;
  /** Takes what tells of a container that is still to be made from which snapshot it will be restored. */
  readonly expect?: (expectation: Expectation) => void;
  readonly holdBack?: AgentDeps['holdBack'];
};

export type Expectation = Agent['expects'];

export type AgentOptions = {
  readonly log: Log;
  readonly listener: AgentListener;
  readonly signal: AbortSignal;
  readonly service?: ServiceSide;
  readonly onPass?: NonNullable<LoopDeps['onPass']>;
};

/**
 * Starts an agent in this process. Order of stopping: no more connections, then what runs (restores end, snapshots in the making
 * are dropped), then the background check.
 * Throws `usage` when another agent serves this machine.
 */
export async function openAgent<H extends ContainerMaker>(
  config: Config,
  { host, store, listen, hostRoot, holdBack }: AgentPlace<H>,
  options: AgentOptions,
): Promise<AgentEngine<H>> {
  const { log, listener, signal, onPass } = options;
  const workDir = join(config.runDir, 'work');
  await mkdir(workDir, { recursive: true, mode: 0o700 });
  const tools = await checkpointTools(exec, { ...config, criu: await findCriu(), hostRoot });
  // Mount points of the helper's private /run.
  for (const dir of ['rekindle', 'criu']) await mkdir(join(tools.criuRunDir, dir), { recursive: true, mode: 0o700 });
  const agentDir = join(config.buildDir, 'agent');
  const helpers = new RestoreHelpers({ helper: tools.helper, spares: SPARE_HELPERS * availableParallelism() });
  const settings = machineSettings(hostRoot);
  const largePages = new LargePages({ settings: settings.thp, log });
  const merging = new PageMerging({
    settings: settings.ksm,
    clones: async () => (await host.list()).flatMap(({ uid, workload }) => (workload.restore.mergeMemory ? [uid] : [])),
  });
  const ownKey = await machineKey(config.stateDir);
  const service: ServiceSide = options.service ?? { specKey: () => ownKey, peerToken: () => '', view: () => ALONE };
  const machine = await machineFacts(exec, tools.criu);
  const inventory = new Inventory({ store, machine, now: () => systemClock.now() });
  const index = new SpecIndex({ path: join(config.stateDir, 'spec-hashes.json'), log, key: service.specKey });
  await index.open();
  let changed = () => {};
  const ended = new AbortController();
  const puller = new Puller({
    ...{ store, inventory, machine, clock: systemClock, log: log.child({ component: 'pull' }), view: service.view },
    token: service.peerToken,
    onPull: service.onPull,
    received: (snapshot) => agent.received(snapshot),
    changed: () => changed(),
    stop: ended.signal,
  });
  const agent = new Agent({
    host,
    store,
    tools: { ...tools, helpers },
    largePages,
    exec,
    // Monotonic: what waits or has a deadline goes by it, and the machine's time may be set meanwhile.
    clock: monotonicClock,
    log: log.child({ component: 'agent' }),
    listener: (event) => {
      if (event.type === 'instance' && (event.state.at === 'live' || event.state.at === 'ended')) mergingLoop?.wake();
      keep?.(event);
      listener(event);
    },
    dial: { spawnDuplex, connect: join(agentDir, 'connect') },
    randomProbe: join(agentDir, 'random-probe'),
    machine,
    specs: new SpecReader({ key: service.specKey, files: filesAnywhere }),
    index,
    inventory,
    view: service.view,
    claimSeed: service.claimSeed ?? (async () => new AsyncDisposableStack()),
    holdBack,
    bring: puller.bring.bind(puller),
    workDir,
    concurrency: availableParallelism(),
  });
  let mergingLoop: Loop | undefined;
  let keep: AgentFileKeeper | undefined;
  // Disposed here when something fails from now on, else by whoever gets the engine.
  await using undo = new AsyncDisposableStack();
  undo.use(helpers);
  undo.use(puller);
  undo.defer(() => ended.abort(new RekindleError('agent_unavailable', 'the agent is ending', { retryable: true })));
  agent.pool.onChange(() => changed());
  const background = new AbortController();
  const loopDeps = { log, clock: systemClock, ...(onPass === undefined ? {} : { onPass }) };
  // What is there now was left by another agent, unless one runs: then we do not get past `listen`. Later there is work of our own too.
  const left = { names: await readdir(workDir), containers: await host.list(), resting: await host.resting() };
  const server = new SlotServer({
    ...listen,
    onConnection: agent.onConnection,
    clock: systemClock,
    log: log.child({ component: 'slots' }),
  });
  undo.use(await beOnlyAgent(join(config.runDir, 'agent.lock')));
  await server.listen();
  helpers.prepare();
  // From here on we are the agent of this machine: what another one left half done is ours to remove.
  keep = await keepAgentFile(
    agentFile(config),
    left.containers.map(({ uid }) => uid),
  );
  await Promise.all([settings.thp.recover(), settings.ksm.recover()]);
  undo.use(largePages);
  undo.use(agent);
  undo.use(server);
  await sweep(left, { host, tools, workDir, log }, signal);
  const verified = store.open(AbortSignal.any([signal, background.signal])).then(() => inventory.refresh());
  // In a service others must hear soon which instances still serve; a restore verifies what has not been.
  if (options.service === undefined) await verified;
  else await inventory.refresh();
  verified.catch((err: unknown) => background.signal.aborted || log.error({ err }, 'snapshots could not be verified'));
  await agent.pool.adopt(await host.list(), left.resting);
  const looks = runLoop(agent.pool, loopDeps, background.signal);
  const verifier = runLoop(
    store.verifier({ bytesPerSecond: VERIFY_BYTES_PER_SECOND, everyMs: VERIFY_EVERY_MS }),
    loopDeps,
    background.signal,
  );
  const here = async () => new Set((await host.list()).map(({ workload }) => workload.name));
  const abandoned = runLoop(new Abandoned({ store, view: service.view, here, clock: systemClock, log }), loopDeps, background.signal);
  mergingLoop = runLoop(merging, loopDeps, background.signal);
  undo.defer(async () => {
    background.abort();
    await Promise.all([verifier.done, abandoned.done, mergingLoop?.done, looks.done, verified.catch(() => undefined)]);
    await settings.ksm.restore();
  });
  const stack = undo.move();
  return {
    host,
    store,
    agent,
    machine,
    told: {
      pool: agent.pool,
      seeds: agent.seeds,
      inventory,
      index,
      trials: agent.trials,
      pulling: () => puller.pulling(),
      view: service.view,
    },
    onChange: (callback) => {
      changed = callback;
    },
    written: async () => keep?.written(),
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

/**
 * Two that start at once must not both be the agent of this machine: the slots of one would be the other's. Held until disposed, and let go by the
 * kernel however this process ends. Throws `usage` (retryable) when another holds it.
 */
async function beOnlyAgent(path: string): Promise<AsyncDisposable> {
  const file = await open(path, 'a', 0o600);
  // flock(1) locks what we have open and ends; the lock is that of the open file (flock(2)), which is ours.
  const { status } = await exec('flock', ['--nonblock', '3'], { extraFds: [file.fd], timeoutMs: 10_000 });
  if (status === 0) return file;
  await file.close();
  const message = `cannot serve this machine: another agent listens there, and holds ${path}. Stop that, or choose another REKINDLE_RUN_DIR`;
  throw new RekindleError('usage', message, {
    retryable: true,
  });
}

async function findCriu(): Promise<string> {
  for (const path of ['/usr/local/sbin/criu', '/usr/sbin/criu', '/usr/bin/criu']) {
    if (
      await access(path, constants.X_OK).then(
        () => true,
        () => false,
      )
    )
      return path;
  }
  throw new RekindleError('machine_unsupported', 'criu is not installed: run scripts/setup');
}

/**
 * Removes what a killed agent left: containers of trials, and work of restores whose helper (which outlives its agent) has ended too. What another one works
 * on stays.
 */
export async function sweep(
  left: { readonly names: readonly string[]; readonly containers: readonly Container[] },
  deps: { readonly host: ContainerMaker; readonly tools: Pick<CheckpointTools, 'helper'>; readonly workDir: string; readonly log: Log },
  signal: AbortSignal,
): Promise<void> {
  const { host, workDir, log } = deps;
  for (const container of left.containers) {
    if (container.addresses.length > 0) continue;
    log.info({ container: container.name }, 'container of an interrupted trial removed');
    await host.remove(container.uid);
  }
  const running = await commandLines();
  const idle = left.names.filter((name) => !running.some((line) => line.includes(join(workDir, name))));
  await endInterrupted({ ...deps, clock: monotonicClock }, idle, signal);
  for (const name of idle) {
    await rm(join(workDir, name), { recursive: true, force: true });
    log.info({ name }, 'leftover of an interrupted restore removed');
  }
}

async function commandLines(): Promise<string[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  return Promise.all(pids.map((pid) => readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')));
}
