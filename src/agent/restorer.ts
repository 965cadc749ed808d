import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { LargePages } from '../checkpoint/large-pages.ts';
import { type Restored, type RestoreTools, restore } from '../checkpoint/restore.ts';
import { abortedAfter, orAborted } from '../lib/abort.ts';
import type { Clock } from '../lib/clock.ts';
import { RekindleError } from '../lib/errors.ts';
import { Semaphore } from '../lib/semaphore.ts';
import { runActions } from '../probes/action.ts';
import { waitReady } from '../probes/probe.ts';
import type { SlotConnection } from '../slots/slot-connection.ts';
import type { Manifest } from '../snapshots/manifest.ts';
import type { Container, Host } from '../workloads/host.ts';
import { afterRestoreOf, type NormalProbe, readinessOf } from '../workloads/normalise.ts';
import type { WorkloadSpec } from '../workloads/workload.ts';
import { type TargetDeps, targetOf } from './targets.ts';

export type RestorerDeps = TargetDeps & {
  readonly host: Host;
  readonly tools: RestoreTools;
  readonly largePages: Pick<LargePages, 'hold'>;
  readonly clock: Clock;
  /** Where work directories and journals of restores are; on a tmpfs. */
  readonly workDir: string;
  /** How many restores at once: as many as there are cores. */
  readonly concurrency: number;
};

/** A snapshot, or a sealed draft of one. */
export type Restorable = {
  readonly imagesDir: string;
  readonly filesDir: string;
  readonly manifest: Pick<Manifest, 'stdio' | 'mounts' | 'volumes' | 'addresses'>;
};

/** How often a restored application is asked whether it answers; each command costs the node a process, which it needs for other restores. */
const ASK_EVERY_MS = { command: 50, other: 2 } as const;
/** Attempts that a command has until the deadline at least. On a node that is busy with a burst even a ready application's may take longer than its timeout. */
const COMMAND_ATTEMPTS = 3;

/** Restores into slots, as many at once as the machine has cores, and says when an instance is live. */
export class Restorer {
  readonly #deps: RestorerDeps;
  readonly #turns: Semaphore;
  /** Of restores that are not live yet: whether the application is ready. */
  readonly #askedAhead = new WeakMap<Container, Promise<void>>();

  constructor(deps: RestorerDeps) {
    this.#deps = deps;
    this.#turns = new Semaphore(deps.concurrency);
  }

  /**
   * Claims the slot and restores into it. When this rejects before the application runs the slot still waits, and must be told `cold`: that is
   * the caller's, who knows the reason to give. `onBegin` is called when its turn has come: what fails before says nothing of the snapshot.
   */
  restore(
    container: Container,
    connection: SlotConnection,
    snapshot: Restorable,
    signal: AbortSignal,
    onBegin?: () => void,
  ): Promise<Restored> {
    const { tools, workDir, largePages } = this.#deps;
    return this.#turns.run(async () => {
      if (connection.socket.destroyed)
        throw new RekindleError('container_failed', `the slot ${container.name} did not wait until its turn had come`, { retryable: true });
      onBegin?.();
      connection.claim();
      const over = new AbortController();
      const onResumed = () => this.#askAhead(container, AbortSignal.any([signal, over.signal]));
      const restored = restore(tools, {
        onResumed,
        id: `${container.uid}-${container.pid}-${randomBytes(4).toString('hex')}`,
        snapshot: { facts: snapshot.manifest, imagesDir: snapshot.imagesDir, filesDir: snapshot.filesDir },
        slot: { pid: container.pid, addresses: container.addresses, connection },
        workDir,
        deadlineMs: container.workload.restore.deadlineSeconds * 1000,
        mergeMemory: container.workload.restore.mergeMemory,
      });
      // Once its helper has begun, which does not wait for this.
      using _large = largePages.hold();
      return await restored.catch((error: unknown) => {
        over.abort();
        this.#askedAhead.delete(container);
        throw error;
      });
    }, signal);
  }

  /** An application for which nothing is done before it counts as live is asked while criu and the helper finish. */
  #askAhead(container: Container, signal: AbortSignal): void {
    const { workload } = container;
    if (isFinishedByUs(workload)) return;
    const ready = this.#untilReady(container, workload.restore.deadlineSeconds * 1000, signal);
    // Whoever enlivens it hears of a failure.
    ready.catch(() => undefined);
    this.#askedAhead.set(container, ready);
  }

  async #untilReady(container: Container, deadlineMs: number, signal: AbortSignal): Promise<void> {
    const probe = readinessProbe(container);
    if (probe === undefined) return;
    const target = targetOf(this.#deps, container);
    const isCommand = probe.kind === 'command';
    const timeoutMs = isCommand ? Math.max(probe.timeoutMs, deadlineMs / COMMAND_ATTEMPTS) : probe.timeoutMs;
    const everyMs = isCommand ? ASK_EVERY_MS.command : ASK_EVERY_MS.other;
    await waitReady({ ...probe, timeoutMs }, target, { clock: this.#deps.clock, everyMs, deadlineMs }, signal);
  }

  /**
   * What makes a restored application a live instance: identity file, after-restore hook, readiness. Throws `not_ready`, and `container_failed` as soon as it
   * has ended: nobody waits for its deadline then.
   */
  async enliven(container: Container, connection: Pick<SlotConnection, 'ended'>, signal: AbortSignal): Promise<void> {
    const ended = new AbortController();
    void connection.ended.then((status) => {
      const what = status === undefined ? 'was killed' : `ended with status ${status}`;
      ended.abort(new RekindleError('container_failed', `the application ${what} as soon as it was restored`));
    });
    await this.#enliven(container, AbortSignal.any([signal, ended.signal]));
  }

  async #enliven(container: Container, signal: AbortSignal): Promise<void> {
    const asked = this.#askedAhead.get(container);
    this.#askedAhead.delete(container);
    if (asked !== undefined) {
      signal.throwIfAborted();
      return orAborted(asked, signal);
    }
    const target = targetOf(this.#deps, container);
    const { clock } = this.#deps;
    const { workload } = container;
    const deadlineMs = workload.restore.deadlineSeconds * 1000;
    const endsAt = clock.now() + deadlineMs;
    const until = AbortSignal.any([signal, abortedAfter(deadlineMs)]);
    try {
      if (workload.restore.identity === 'file') await this.#writeIdentity(container, until);
      await runActions(afterRestoreOf(workload), target, { clock, label: 'after-restore hook' }, until);
      // Not `until`: at its own deadline the probe says what the last failure was.
      await this.#untilReady(container, Math.max(1, endsAt - clock.now()), signal);
    } catch (error) {
      if (signal.aborted || !until.aborted || error instanceof RekindleError) throw error;
      throw new RekindleError('not_ready', `the restored application was not ready within ${workload.restore.deadlineSeconds} s`, {
        cause: error,
      });
    }
  }

  /** The values that a clone's environment has wrong, as NAME=VALUE lines, written with the container's own rights. They are in the slot's own environment. */
  async #writeIdentity(container: Container, signal: AbortSignal): Promise<void> {
    const { instanceEnv } = container.workload.container;
    const own = (await readFile(`/proc/${container.pid}/environ`, 'utf8')).split('\0');
    const lines = own.filter((line) => Object.hasOwn(instanceEnv, line.slice(0, Math.max(0, line.indexOf('=')))));
    const file = container.workload.restore.identityFile;
    const written = await this.#deps.host.exec(container, ['/bin/sh', '-c', 'printf "%s\\n" "$@" >"$0"', file, ...lines], {
      timeoutMs: 5_000,
      signal,
    });
    if (written.status !== 0) throw new RekindleError('not_ready', `cannot write ${file} in ${container.name}: ${written.output.trim()}`);
  }
}

/** Whether something is done in a restored application before it counts as live. */
export function isFinishedByUs(workload: Pick<WorkloadSpec, 'restore'>): boolean {
  return workload.restore.identity === 'file' || afterRestoreOf(workload).length > 0;
}

/** The readiness check of a container; where none is said, its first port takes connections. */
export function readinessProbe(container: Container): NormalProbe | undefined {
  const [port] = container.workload.container.ports;
  const said = readinessOf(container.workload);
  if (said !== undefined || port === undefined) return said;
  return { kind: 'tcp', port, initialDelayMs: 0, periodMs: 1_000, timeoutMs: 1_000, successThreshold: 1, failureThreshold: 300 };
}

/** Attempts at a cold start that somebody waits for: a command is a process each. */
const EAGER_MS = { command: 250, other: 50 } as const;

/** The same check, asked so often that no time is lost once the application is ready; it gives up when it would have otherwise. */
export function eagerProbe(container: Container): NormalProbe | undefined {
  const probe = readinessProbe(container);
  if (probe === undefined) return undefined;
  const periodMs = Math.min(probe.periodMs, probe.kind === 'command' ? EAGER_MS.command : EAGER_MS.other);
  return { ...probe, periodMs, failureThreshold: Math.ceil((probe.failureThreshold * probe.periodMs) / periodMs) };
}
