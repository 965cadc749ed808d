import { constants } from 'node:fs';
import { access, mkdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import type { Clock } from '../lib/clock.ts';
import { freeText, isOfFullDisk } from '../lib/disk.ts';
import { RekindleError, toRekindleError } from '../lib/errors.ts';
import type { Exec } from '../lib/exec.ts';
import type { Log } from '../lib/log.ts';
import type { Container, ContainerMaker, ExecOutcome, PoolMembership } from '../workloads/host.ts';
import type { WorkloadSpec } from '../workloads/workload.ts';
import { AddressPool, parseSubnet } from './addresses.ts';
import { ContainerBuilder } from './builder.ts';
import { type Cgroups, findCgroups, removeParents } from './cgroups.ts';
import { lookUntil } from './exit-watch.ts';
import { Images } from './images.ts';
import { LocalNetwork } from './network.ts';
import { identify, isAlive } from './processes.ts';
import { asContainer, type ContainerRecord, containerPaths, isLaterLife, listUids, readRecord, writeRecord } from './record.ts';
import { ContainerRemover } from './remover.ts';
import { Runtime, type RuntimeName } from './runtime.ts';
import { installSlotFiles } from './slot-files.ts';
import type { OciProcess } from './spec.ts';

export type LocalHostDeps = {
  readonly exec: Exec;
  readonly clock: Clock;
  readonly log: Log;
  /** Containers, images, volumes and addresses: survives a reboot. One directory per bridge. */
  readonly stateDir: string;
  /** The slot's files with the agent's socket, and the runtime's state: best memory-backed. */
  readonly runDir: string;
  /** The built slot and its libraries. */
  readonly slotDir: string;
  /** Default: crun where it is installed, else runc. */
  readonly runtime?: RuntimeName;
  /** Default: 10.87.0.0/16. */
  readonly subnet?: string;
  /** Default: rekindle0. */
  readonly bridge?: string;
};

/** What a container's status is said to be when nobody was there to record it. */
const UNKNOWN_STATUS = 137;

/**
 * Containers of this machine, each with the slot as PID 1. All that is known of them is on disk and in /proc, so several processes with the
 * same directories may use one another's containers, and containers outlive the process that made them.
 */
export class LocalHost implements ContainerMaker {
  readonly #deps: LocalHostDeps;
  readonly #cgroups: Cgroups;
  readonly #images: Images;
  readonly #network: LocalNetwork;
  readonly #runtimes: Readonly<Record<RuntimeName, Runtime>>;
  readonly #builder: ContainerBuilder;
  readonly #remover: ContainerRemover;
  /** What this process made: saves reading it back on the way of every restore. */
  readonly #known = new Map<string, ContainerRecord>();

  private constructor(deps: LocalHostDeps, cgroups: Cgroups, runtimeName: RuntimeName, programs: Readonly<Record<RuntimeName, string>>) {
    const { exec, clock, log, stateDir, runDir } = deps;
    const subnet = parseSubnet(deps.subnet ?? '10.87.0.0/16');
    this.#deps = deps;
    this.#cgroups = cgroups;
    this.#images = new Images({ exec, log, dir: path.join(stateDir, 'images') });
    this.#network = new LocalNetwork({ exec, bridge: deps.bridge ?? 'rekindle0', subnet });
    const root = (name: RuntimeName) => path.join(runDir, name);
    this.#runtimes = {
      crun: new Runtime({ exec, clock, program: programs.crun, root: root('crun') }),
      runc: new Runtime({ exec, clock, program: programs.runc, root: root('runc') }),
    };
    const pool = new AddressPool({ dir: path.join(stateDir, 'addresses'), subnet });
    const shared = { exec, clock, stateDir, cgroups, network: this.#network, pool, runtimes: this.#runtimes };
    this.#builder = new ContainerBuilder({ ...shared, slotDir: this.slotDir, images: this.#images, runtimeName });
    this.#remover = new ContainerRemover(shared);
  }

  /**
   * Prepares this machine (cgroups, the slot's files) and removes what a killed process left; running containers stay.
   * Throws `machine_unsupported` when something is missing.
   */
  static async open(deps: LocalHostDeps): Promise<LocalHost> {
    for (const dir of [deps.stateDir, deps.runDir]) {
      if (!path.isAbsolute(dir) || /[:,\\\s]/.test(dir))
        throw new RekindleError(
          'usage',
          `${dir} cannot hold containers: give an absolute path without spaces, colons, commas and backslashes`,
        );
    }
    if (process.getuid?.() !== 0) throw new RekindleError('machine_unsupported', 'containers on this machine need root: run as root');
    await mkdir(deps.stateDir, { recursive: true, mode: 0o700 });
    await mkdir(deps.runDir, { recursive: true, mode: 0o755 });
    const programs = { crun: await installed('crun'), runc: await installed('runc') };
    const name = deps.runtime ?? (programs.crun === undefined ? 'runc' : 'crun');
    if (programs[name] === undefined) throw new RekindleError('machine_unsupported', `${name} is not installed: run scripts/setup`);
    const host = new LocalHost(deps, await findCgroups(deps.exec), name, { crun: programs.crun ?? 'crun', runc: programs.runc ?? 'runc' });
    await installSlotFiles(deps.slotDir, host.slotDir);
    const removed = await host.cleanUp();
    if (removed.length > 0) deps.log.info({ containers: removed }, 'removed containers that nobody runs any more');
    return host;
  }

  /** The directory that containers see at /rekindle. */
  get slotDir(): string {
    return path.join(this.#deps.runDir, 'slot');
  }

  /** Where the agent is to listen (mode 0666); containers see it as /rekindle/agent.sock. */
  get agentSocket(): string {
    return path.join(this.slotDir, 'agent.sock');
  }

  async create(workload: WorkloadSpec, options: Parameters<ContainerMaker['create']>[1]): Promise<Container> {
    const { signal } = options;
    signal.throwIfAborted();
    const planned = await this.#builder.plan(workload, { ...options, trial: options.trial ?? false });
    const { uid, name } = planned.record;
    try {
      return running(await this.#builder.build(planned, (record) => this.#known.set(uid, record), signal));
    } catch (error) {
      // Before the removal, which makes room.
      const explained = await this.#explained(error, name);
      await this.remove(uid).catch((failure: unknown) =>
        this.#deps.log.error({ container: name, err: failure }, 'failed container not removed, left for the next start'),
      );
      if (signal.aborted) throw signal.reason;
      throw explained;
    }
  }

  restart(container: Container, signal: AbortSignal): Promise<Container> {
    return this.#again(container, false, signal);
  }

  startOver(container: Container, signal: AbortSignal): Promise<Container> {
    return this.#again(container, true, signal);
  }

  async setPool(uid: string, pool: PoolMembership): Promise<Container> {
    const record = await readRecord(this.#deps.stateDir, uid);
    if (record === undefined) throw notFound(uid);
    const changed = { ...record, pool };
    await writeRecord(this.#deps.stateDir, changed);
    if (this.#known.has(uid)) this.#known.set(uid, changed);
    return running(changed);
  }

  async resting(): Promise<readonly Container[]> {
    const records = await Promise.all((await listUids(this.#deps.stateDir)).map((uid) => readRecord(this.#deps.stateDir, uid)));
    return records.flatMap((record) => {
      if (record?.pool?.suspended === undefined || (record.init !== undefined && isAlive(record.init))) return [];
      // One that was being started over when its agent ended has no PID 1; it had one.
      return asContainer({ ...record, init: record.init ?? { pid: 1, startTime: '' } }) ?? [];
    });
  }

  async end(container: Container, options: { readonly graceMs: number; readonly signal: AbortSignal }): Promise<number> {
    const record = await readRecord(this.#deps.stateDir, container.uid);
    if (record !== undefined && !isLaterLife(record, container)) await this.#remover.end(record, options.graceMs);
    return this.wait(container, options.signal);
  }

  async #again(container: Container, over: boolean, signal: AbortSignal): Promise<Container> {
    const { uid, name } = container;
    signal.throwIfAborted();
    const record = await readRecord(this.#deps.stateDir, uid);
    if (record === undefined) throw notFound(uid);
    if (record.init !== undefined && isAlive(record.init))
      throw new RekindleError('container_failed', `container ${name} still runs: it can be started again once it has ended`);
    // Its conmon still writes the last of the log and the status; of one whose maker was killed nobody does.
    if (record.phase === 'running') await this.wait(asContainer(record) ?? container, signal);
    else await this.#remover.end(record, 0);
    try {
      return running(await this.#builder.rebuild(record, { over, onPid: (made) => this.#known.set(uid, made), signal }));
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      throw await this.#explained(error, name);
    }
  }

  async remove(uid: string, options: { graceMs?: number } = {}): Promise<void> {
    await this.#remover.remove(uid, options.graceMs ?? 0);
    this.#known.delete(uid);
  }

  async find(uid: string): Promise<Container | undefined> {
    const record = await this.#living(uid);
    return record === undefined ? undefined : asContainer(record);
  }

  async isLeaving(uid: string): Promise<boolean> {
    const record = await readRecord(this.#deps.stateDir, uid);
    return record === undefined || record.phase === 'removing';
  }

  async list(): Promise<readonly Container[]> {
    const found = await Promise.all((await listUids(this.#deps.stateDir)).map((uid) => this.find(uid)));
    return found.filter((container) => container !== undefined);
  }

  async exec(container: Container, command: readonly string[], options: { timeoutMs: number; signal: AbortSignal }): Promise<ExecOutcome> {
    const { uid } = container;
    const record = await this.#living(uid);
    if (record === undefined) throw notFound(uid);
    const paths = containerPaths(this.#deps.stateDir, uid);
    const own = processIn(await readFile(paths.spec, 'utf8'));
    const outcome = await this.#runtimes[record.runtime].run(uid, paths, { ...own, args: command }, options);
    if (outcome.status !== 0 && (await this.#living(uid)) === undefined) throw notFound(uid);
    return outcome;
  }

  wait(container: Container, signal: AbortSignal): Promise<number> {
    const { stateDir, clock } = this.#deps;
    return lookUntil(containerPaths(stateDir, container.uid).exitDir, () => this.#statusOf(container), clock, signal);
  }

  logFile(container: Container): string {
    return containerPaths(this.#deps.stateDir, container.uid).log;
  }

  /** Removes containers that were half made, or have ended, and whose maker is gone; returns their uids. Running ones stay. */
  async cleanUp(): Promise<readonly string[]> {
    await this.#images.cleanUp();
    return this.#remover.cleanUp();
  }

  /** Removes every container, whoever made it, and then the bridge and the parent of the cgroups if nobody else uses them. Images stay. */
  async removeAll(): Promise<void> {
    await Promise.all((await listUids(this.#deps.stateDir)).map((uid) => this.remove(uid)));
    await this.#network.removeBridge();
    await removeParents(this.#cgroups);
  }

  /** Why a container could not be made. */
  async #explained(cause: unknown, name: string): Promise<RekindleError> {
    const { stateDir } = this.#deps;
    const ours = toRekindleError(cause);
    const foreign = ours.code === 'internal' || ours.code === 'container_failed' || ours.code === 'disk_full';
    if (foreign && (await isOfFullDisk(stateDir, cause))) {
      const free = `${await freeText(stateDir)} free below ${stateDir}`;
      const what = `container ${name} could not be made, for the disk is full (${free}): free some space, or keep fewer snapshots`;
      return new RekindleError(
        'disk_full',
        `${what} (checkpoint.keep). What failed first: ${cause instanceof Error ? cause.message : cause}`,
        { cause },
      );
    }
    return ours.code === 'internal'
      ? new RekindleError('container_failed', `container ${name} could not be made: ${ours.message}`, { cause })
      : ours;
  }

  /** The record of a container whose PID 1 lives. */
  async #living(uid: string): Promise<ContainerRecord | undefined> {
    const known = this.#known.get(uid);
    if (known?.init !== undefined && isAlive(known.init)) return known;
    if (!/^[0-9a-f-]{36}$/.test(uid)) return undefined;
    const record = await readRecord(this.#deps.stateDir, uid);
    return record?.init !== undefined && isAlive(record.init) ? record : undefined;
  }

  /** The status of a container that has ended and whose conmon has finished, undefined while it has not. */
  async #statusOf(container: Container): Promise<number | undefined> {
    const { stateDir } = this.#deps;
    const paths = containerPaths(stateDir, container.uid);
    const text = await readFile(paths.exit, 'utf8').catch(() => undefined);
    if (text !== undefined) return Number(text);
    const record = await readRecord(stateDir, container.uid);
    if (record === undefined || isLaterLife(record, container)) return UNKNOWN_STATUS;
    if (record.init === undefined || isAlive(record.init)) return undefined;
    const conmon = Number(await readFile(paths.conmonPid, 'utf8').catch(() => ''));
    if (conmon > 0 && identify(conmon) !== undefined) return undefined;
    // conmon may have written it between the two looks.
    const last = await readFile(paths.exit, 'utf8').catch(() => undefined);
    return last === undefined ? UNKNOWN_STATUS : Number(last);
  }
}

function running(record: ContainerRecord): Container {
  const container = asContainer(record);
  if (container === undefined) throw new RekindleError('internal', `container ${record.uid} runs without a PID`);
  return container;
}

function notFound(uid: string): RekindleError {
  return new RekindleError('not_found', `there is no running container ${uid}`);
}

/** The `process` of a configuration that we wrote. */
function processIn(text: string): OciProcess {
  const { process }: { process: OciProcess } = JSON.parse(text);
  return process;
}

async function installed(program: string): Promise<string | undefined> {
  for (const dir of ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin']) {
    const file = path.join(dir, program);
    if (
      await access(file, constants.X_OK).then(
        () => true,
        () => false,
      )
    )
      return file;
  }
  return undefined;
}
