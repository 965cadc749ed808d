import { existsSync, readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { dump } from '../checkpoint/dump.ts';
import type { MachineFacts } from '../checkpoint/machine.ts';
import { resetFiles } from '../checkpoint/reset.ts';
import type { CheckpointTools } from '../checkpoint/tools.ts';
import type { Clock } from '../lib/clock.ts';
import { RekindleError, toRekindleError } from '../lib/errors.ts';
import type { Exec } from '../lib/exec.ts';
import type { Log } from '../lib/log.ts';
import type { JobData } from '../queue/jobs.ts';
import type { SnapshotStore } from '../snapshots/store.ts';
import type { Container, ContainerMaker } from '../workloads/host.ts';
import { applicationOf, isSlot, resume, signalIfThere } from './container-process.ts';
import type { InstanceState } from './events.ts';
import { SUSPENDED_PREFIX } from './inventory.ts';
import { lastWords } from './last-words.ts';
import type { Arrival, PoolSlot } from './pool-slot.ts';
import { HELLO_MS } from './starter.ts';

export type ParkerDeps = {
  readonly host: ContainerMaker;
  readonly store: SnapshotStore;
  readonly machine: MachineFacts;
  readonly tools: CheckpointTools;
  readonly exec: Exec;
  readonly clock: Clock;
  readonly log: Log;
  readonly workDir: string;
  readonly say: (container: Container, state: InstanceState) => void;
  /** What a parked slot is, read from it. */
  readonly learn: (slot: PoolSlot, container: Container) => Promise<void>;
  /** The slot is no more. */
  readonly forget: (slot: PoolSlot) => void;
  readonly stop: AbortSignal;
};

/** Between SIGTERM and SIGKILL. */
const GRACE_MS = 10_000;
const SHORT_GRACE_MS = 1_000;
/** For all that an application may have written. */
const CLEAN_MS = 60_000;
const ASK_EVERY_MS = 5;
/** So long an instance that ended by itself is shown as failed before its slot is parked again. */
const SHOWN_MS = 1_000;
/** So often within {@link MANY_MS}, and it stays failed. */
const MANY_ENDS = 3;
const MANY_MS = 60_000;
/** After a suspension that failed. */
const RETRY_SUSPEND_AFTER_MS = 60_000;

/** Ends what is in the slots of pools, and parks slots: new ones, and those whose application has ended. */
export class Parker {
  readonly #deps: ParkerDeps;

  constructor(deps: ParkerDeps) {
    this.#deps = deps;
  }

  /** Makes the slot's container and parks it. Throws why it could not be made; nothing of the container is left then. */
  make(slot: PoolSlot, signal: AbortSignal): Promise<void> {
    return slot.exclusive(async () => await this.park(slot, await this.create(slot, signal)));
  }

  /** Makes the slot's container; resolves with its hello. To be called by the slot's turn. */
  async create(slot: PoolSlot, signal: AbortSignal): Promise<Arrival> {
    const { host, stop } = this.#deps;
    const { uid, name, workload, revision } = slot;
    const until = AbortSignal.any([signal, stop]);
    const arrival = slot.expectArrival();
    try {
      slot.container = await host.create(workload, { uid, name, pool: { revision }, signal: until });
      return await arrival(HELLO_MS, until);
    } catch (error) {
      slot.container = undefined;
      await host.remove(uid);
      throw error;
    }
  }

  /** Parks a slot that said hello. By the slot's turn. */
  async park(slot: PoolSlot, { container, connection }: Arrival): Promise<void> {
    slot.container = container.pod !== undefined && container.restarts > 0 ? await this.#cleaned(slot, container) : container;
    connection.park();
    slot.attach(connection);
    await this.#deps.learn(slot, slot.container);
    this.isParked(slot);
  }

  /**
   * Ends what is in the slot, and parks it again or removes it. A job for another life of the slot does nothing; of one that failed and holds the state it was
   * suspended with another start is tried.
   */
  remove(slot: PoolSlot, job: Pick<JobData['remove'], 'parks' | 'park'>): Promise<void> {
    return slot.exclusive(async () => {
      if (slot.parks !== job.parks) return;
      // It failed to be parked again, and what it was suspended with is still there.
      if (slot.state === 'failed' && slot.suspended !== undefined && slot.container !== undefined) return this.revive(slot, slot.container);
      if (!job.park || slot.outdated || slot.container === undefined) return this.drop(slot);
      if (slot.state === 'parked' || slot.state === 'suspended') return;
      slot.become('ending');
      slot.endLife();
      await this.#startOver(slot, slot.container);
    });
  }

  /** Removes slot and container, and the state that it was suspended with. By the slot's turn. */
  async drop(slot: PoolSlot): Promise<void> {
    const runs = slot.state === 'live' || slot.state === 'cold' || slot.state === 'restoring';
    slot.become('ending');
    slot.endLife();
    const { suspended, container } = slot;
    if (runs && container !== undefined) await this.#askToEnd(container);
    // A pod is its owner's to delete.
    if (container?.pod === undefined) await this.#deps.host.remove(slot.uid);
    if (suspended !== undefined) await this.#deps.store.remove(suspended).catch(() => undefined);
    slot.detach();
    this.#deps.forget(slot);
  }

  /**
   * Its application ended by itself. That is shown; one that was restored is parked again afterwards, unless it does so all the time. By the slot's turn.
   */
  async ended(slot: PoolSlot, container: Container, status: number | undefined): Promise<void> {
    const { host, clock, stop, say } = this.#deps;
    if (slot.container?.pid !== container.pid) return;
    const wasRestored = slot.state === 'live' || slot.state === 'restoring';
    slot.endLife();
    slot.detach();
    const known = status ?? (await host.wait(container, stop));
    const error = `${container.name} ended with status ${known}${await lastWords(host, container)}`;
    slot.become('failed', { error, ...(slot.told.start === undefined ? {} : { start: slot.told.start }) });
    say(container, { at: 'ended', status: known });
    const now = performance.now();
    slot.ends.push(now);
    if (container.pod !== undefined) {
      // The kubelet starts it again, or not, as for any pod; its next hello finds it in its next life.
      const { revision = slot.revision, parks = 0 } = container.pool ?? {};
      await host.setPool(slot.uid, { revision, parks: parks + 1 }).catch(() => undefined);
      return this.#deps.forget(slot);
    }
    if (!wasRestored || slot.ends.filter((at) => now - at < MANY_MS).length >= MANY_ENDS) return;
    slot.ends.splice(0, slot.ends.length - MANY_ENDS);
    if (slot.outdated) return this.drop(slot);
    await clock.sleep(SHOWN_MS, stop);
    await this.#startOver(slot, container);
  }

  /** A suspended slot whose container is gone: its state is not. By the slot's turn. */
  async revive(slot: PoolSlot, container: Container): Promise<void> {
    slot.endLife();
    slot.detach();
    await this.#startOver(slot, container);
  }

  /**
   * Checkpoints the instance with its state, ends it, and parks the slot again with that state. Throws why not: then the instance goes on. One that is not
   * live, or in another life, is left alone.
   */
  suspend(slot: PoolSlot, job: JobData['suspend'], signal: AbortSignal): Promise<void> {
    return slot.exclusive(async () => {
      const { container } = slot;
      const { state } = slot;
      if (slot.parks !== job.parks || (state !== 'live' && state !== 'cold') || container === undefined) return;
      if (slot.noSuspendBefore > performance.now())
        throw new RekindleError('dump_failed', `${slot.name} could not be suspended a moment ago, and goes on`);
      const { told } = slot;
      slot.become('ending', told);
      // One that started cold is its container's process 1.
      const application = state === 'cold' ? container.pid : applicationOf(container.pid);
      try {
        const digest = await this.#checkpoint(slot, container, application, signal);
        const before = slot.suspended;
        slot.container = await this.#deps.host.setPool(slot.uid, {
          ...(container.pool ?? { revision: slot.revision, parks: 0 }),
          suspended: digest,
        });
        // It could not be resumed from that, and started cold.
        if (before !== undefined) await this.#deps.store.remove(before).catch(() => undefined);
      } catch (error) {
        resume(application);
        slot.noSuspendBefore = performance.now() + RETRY_SUSPEND_AFTER_MS;
        slot.become(state, told);
        throw error;
      }
      slot.endLife();
      // It is stopped, and may not go on: what it did from now on would be lost.
      signalIfThere(container.pid, 'SIGKILL');
      await this.#startOver(slot, container);
    });
  }

  /** Leaves the application stopped. */
  async #checkpoint(slot: PoolSlot, container: Container, application: number, signal: AbortSignal): Promise<string> {
    const { tools, exec, store, machine, workDir } = this.#deps;
    await using draft = await store.begin();
    const work = await mkdtemp(join(workDir, 'dump-'));
    try {
      const { netInode, ...facts } = await dump(
        { ...tools, exec },
        {
          pid: application,
          mountsAtStart: slot.facts?.mounts ?? [],
          volumes: container.volumes,
          imagesDir: draft.imagesDir,
          filesDir: draft.filesDir,
          workDir: work,
          timeoutMs: slot.workload.checkpoint.deadlineSeconds * 1000,
          leave: 'stopped',
        },
        signal,
      );
      await draft.seal(
        {
          ...facts,
          mounts: facts.mounts.map((mount) => ({ ...mount, options: [...mount.options] })),
          volumes: [...facts.volumes],
          workload: `${SUSPENDED_PREFIX}${slot.workload.name}`,
          specHash: `suspended:${slot.uid}`,
          createdAt: new Date().toISOString(),
          class: machine,
          imageDigest: container.imageDigest,
          netns: netInode,
          addresses: [...container.addresses],
          origin: { node: hostname() },
        },
        signal,
      );
      return (await draft.publish(signal)).digest;
    } finally {
      await rm(work, { recursive: true, force: true });
    }
  }

  /**
   * SIGTERM, and time to obey. Who stops handling it has either begun to end or, as Node does without a listener, meant to die of it and cannot, being
   * process 1: that gets less.
   */
  async #askToEnd(container: Container): Promise<void> {
    if (!handlesTerm(container)) return;
    signalIfThere(container.pid, 'SIGTERM');
    const from = performance.now();
    let until = from + GRACE_MS;
    while (performance.now() < until && existsSync(`/proc/${container.pid}/exe`)) {
      if (!handlesTerm(container)) until = Math.min(until, from + SHORT_GRACE_MS);
      await this.#deps.clock.sleep(ASK_EVERY_MS, this.#deps.stop);
    }
  }

  /** Tells that it is. */
  isParked(slot: PoolSlot): void {
    slot.become(slot.suspended === undefined ? 'parked' : 'suspended');
    if (slot.container?.pod !== undefined) this.#deps.say(slot.container, { at: 'parked' });
  }

  /**
   * As {@link #startOver} for a pod, whose container is not ours to start: a restored application is ended with the slot staying, and every file is as it
   * was. What cannot be, and what started cold (it is process 1), is ended with its container, which the kubelet makes anew.
   */
  async #parkAgain(slot: PoolSlot, container: Container): Promise<void> {
    const { host, stop, log } = this.#deps;
    const { connection } = slot;
    if (connection?.canParkAgain === true && !connection.socket.destroyed && isSlot(container.pid)) {
      try {
        await connection.parkAgain(GRACE_MS, stop);
        slot.container = await this.#cleaned(slot, container);
        await this.#deps.learn(slot, slot.container);
        return this.isParked(slot);
      } catch (err) {
        if (stop.aborted) throw err;
        log.warn({ err, slot: slot.uid }, 'slot could not be parked again in place: its container is started anew');
      }
    }
    await this.#askToEnd(container);
    await host.end(container, { graceMs: 0, signal: stop });
    slot.detach();
    this.#deps.forget(slot);
  }

  /** A pod's container in its next life, with its files as they were when it was first made: a pod's volumes outlive its containers. */
  async #cleaned(slot: PoolSlot, container: Container): Promise<Container> {
    const { host, tools, exec, stop } = this.#deps;
    await resetFiles({ ...tools, exec }, { slotPid: container.pid, volumes: container.volumes, timeoutMs: CLEAN_MS }, stop);
    const { revision = slot.revision, parks = 0 } = container.pool ?? {};
    return host.setPool(slot.uid, { revision, parks: parks + 1 });
  }

  /** Ends what still runs, starts the container as if it had never run, and parks it. What cannot be parked any more is removed. */
  async #startOver(slot: PoolSlot, container: Container): Promise<void> {
    if (container.pod !== undefined) return this.#parkAgain(slot, container);
    const { host, stop, log } = this.#deps;
    try {
      await this.#askToEnd(container);
      await host.end(container, { graceMs: 0, signal: stop });
      slot.detach();
      const arrival = slot.expectArrival();
      await host.startOver(container, stop);
      await this.park(slot, await arrival(HELLO_MS, stop));
    } catch (error) {
      if (stop.aborted) throw error;
      log.warn({ err: error, slot: slot.uid }, 'slot could not be parked again, removed');
      if (slot.suspended === undefined) return this.drop(slot);
      slot.become('failed', { error: `its state is kept, but ${toRekindleError(error).message}` });
    }
  }
}

const SIGTERM_BIT = 1n << 14n;

/** Whether the first process of the application handles SIGTERM; one that does not never gets it (pid_namespaces(7)). False when it has ended. */
function handlesTerm({ pid }: Container): boolean {
  try {
    const first = isSlot(pid) ? applicationOf(pid) : pid;
    const caught = /^SigCgt:\s*([0-9a-f]+)$/m.exec(readFileSync(`/proc/${first}/status`, 'utf8'))?.[1] ?? '0';
    return (BigInt(`0x${caught}`) & SIGTERM_BIT) !== 0n;
  } catch {
    return false;
  }
}
