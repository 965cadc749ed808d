import { access, readFile } from 'node:fs/promises';
import type { Clock } from '../lib/clock.ts';
import type { Exec } from '../lib/exec.ts';
import type { AddressPool } from './addresses.ts';
import { type Cgroups, killGroups, removeGroups } from './cgroups.ts';
import type { LocalNetwork } from './network.ts';
import { identify, isAlive, type ProcessId, runtimeProcessesOf, signalProcess } from './processes.ts';
import {
  type ContainerPaths,
  type ContainerRecord,
  containerPaths,
  listUids,
  readRecord,
  removeUnfinished,
  writeRecord,
} from './record.ts';
import { ContainerFiles } from './root.ts';
import type { Runtime, RuntimeName } from './runtime.ts';

export type RemoverDeps = {
  readonly exec: Exec;
  readonly clock: Clock;
  readonly stateDir: string;
  readonly cgroups: Cgroups;
  readonly network: LocalNetwork;
  readonly pool: AddressPool;
  readonly runtimes: Readonly<Record<RuntimeName, Runtime>>;
};

/** How long conmon has to write the exit status and the last output once everything in the container is dead. */
const CONMON_MS = 2_000;

/** Removes containers whole, from whatever state they are in. */
export class ContainerRemover {
  readonly #deps: RemoverDeps;
  readonly #removing = new Map<string, Promise<void>>();

  constructor(deps: RemoverDeps) {
    this.#deps = deps;
  }

  /** Ends and removes the container. No error if it is gone; after an error it may be called again. */
  remove(uid: string, graceMs: number): Promise<void> {
    const pending = this.#removing.get(uid);
    if (pending !== undefined) return pending;
    const removal = this.#remove(uid, graceMs).finally(() => this.#removing.delete(uid));
    this.#removing.set(uid, removal);
    return removal;
  }

  /** Removes what processes that are gone left half made, half removed or dead; keeps what runs. Returns the uids of the removed. */
  async cleanUp(): Promise<readonly string[]> {
    const { stateDir, pool } = this.#deps;
    const removed: string[] = [];
    for (const uid of await listUids(stateDir)) {
      const record = await readRecord(stateDir, uid);
      if (record !== undefined && (await this.#isKept(record))) continue;
      await this.remove(uid, 0);
      removed.push(uid);
    }
    await removeUnfinished(stateDir);
    const left = new Set(await listUids(stateDir));
    await pool.freeAllBut((uid) => left.has(uid));
    return removed;
  }

  async #isKept(record: ContainerRecord): Promise<boolean> {
    if (isAlive(record.creator)) return true;
    // What it held lies in a snapshot and waits for it.
    if (record.pool?.suspended !== undefined) return true;
    return record.phase === 'running' && record.init !== undefined && isAlive(record.init);
  }

  async #remove(uid: string, graceMs: number): Promise<void> {
    const { stateDir, exec, cgroups, network, pool, runtimes } = this.#deps;
    const paths = containerPaths(stateDir, uid);
    if (
      !(await access(paths.dir).then(
        () => true,
        () => false,
      ))
    )
      return;
    const record = await readRecord(stateDir, uid);
    // Before anything ends: whoever sees it end looks here for why.
    if (record?.phase === 'running') await writeRecord(stateDir, { ...record, phase: 'removing' });
    await this.#end(uid, paths, record, graceMs);
    if (record === undefined) await Promise.all(Object.values(runtimes).map((runtime) => runtime.delete(uid)));
    else await runtimes[record.runtime].delete(uid);
    await Promise.all([network.detach(uid), removeGroups(cgroups, uid)]);
    if (record?.address !== undefined) await pool.free(record.address, uid);
    // Last: as long as the directory is there, the next clean-up knows that something may be left.
    await new ContainerFiles({ exec, paths }).remove();
  }

  /** Ends every process of the container, conmon's too. */
  async #end(uid: string, paths: ContainerPaths, record: ContainerRecord | undefined, graceMs: number): Promise<void> {
    // One that was being made: whoever makes it first, so that nothing more appears.
    if (record?.phase !== 'running') for (const pid of await runtimeProcessesOf(uid)) signalProcess(pid, 'SIGKILL');
    const init = record?.init ?? (await identifyIn(paths.pid));
    if (init !== undefined && isAlive(init)) {
      if (graceMs > 0) {
        signalProcess(init.pid, 'SIGTERM');
        await this.#gone(init, graceMs);
      }
      if (isAlive(init)) signalProcess(init.pid, 'SIGKILL');
    }
    await killGroups(this.#deps.cgroups, uid);
    const conmon = await identifyIn(paths.conmonPid, uid);
    if (conmon !== undefined && !(await this.#gone(conmon, CONMON_MS))) signalProcess(conmon.pid, 'SIGKILL');
  }

  /** Ends what runs in it, without removing anything. */
  async end(record: ContainerRecord, graceMs: number): Promise<void> {
    await this.#end(record.uid, containerPaths(this.#deps.stateDir, record.uid), record, graceMs);
  }

  async #gone(process: ProcessId, withinMs: number): Promise<boolean> {
    const { clock } = this.#deps;
    const deadline = clock.now() + withinMs;
    while (isAlive(process)) {
      if (clock.now() >= deadline) return false;
      await clock.sleep(3);
    }
    return true;
  }
}

/** The process that a pid file names, if its command line has the argument `having` (a file may outlive its process, and numbers are used again). */
async function identifyIn(pidFile: string, having?: string): Promise<ProcessId | undefined> {
  const pid = Number(await readFile(pidFile, 'utf8').catch(() => ''));
  if (!(pid > 0)) return undefined;
  const process = identify(pid);
  if (having === undefined || process === undefined) return process;
  const args = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0');
  return args.includes(having) ? process : undefined;
}
