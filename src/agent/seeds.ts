import type { Mount } from '../checkpoint/mountinfo.ts';
import { type ErrorCode, toRekindleError } from '../lib/errors.ts';
import type { Container } from '../workloads/host.ts';
import { retentionOf } from '../workloads/normalise.ts';
import type { WorkloadSpec } from '../workloads/workload.ts';
import type { AgentListener, Cold, SeedStep } from './events.ts';
import { makeSnapshot, type Published, type SeedDeps } from './seed.ts';

export type SeedsDeps = SeedDeps & {
  readonly listener: AgentListener;
  /** Spec hashes that containers of this workload would start with now: their snapshots are kept beyond `checkpoint.keep`. */
  readonly live: (workload: string) => Promise<ReadonlySet<string>>;
};

/** How a seed's checkpoint ended: `published`, or why not. Undefined when the agent ended before. */
export type SeedOutcome = { readonly published: Published } | { readonly code: ErrorCode; readonly reason: string };

type SpecState = { seeds: number; refusal: { reason: string; until: number } | undefined };

/** So many failed restores in a row and a snapshot is left alone. */
const FAILURES_UNTIL_QUARANTINE = 3;
/** After a failed checkpoint the next container may try again; one that was refused for what the application does may not. */
const RETRY_SEED_AFTER_MS = 60_000;
/** A corrupt one has been removed; the others are the machine's. */
const NOT_ITS_FAULT: readonly ErrorCode[] = ['snapshot_corrupt', 'disk_full', 'machine_unsupported'];

/** Makes snapshots, one of each kind (spec hash) at a time, and knows why there is none. */
export class Seeds {
  readonly #deps: SeedsDeps;
  readonly #specs = new Map<string, SpecState>();
  readonly #failures = new Map<string, number>();

  constructor(deps: SeedsDeps) {
    this.#deps = deps;
  }

  /** Whether a container is being made into a snapshot of this kind. */
  runs(hash: string): boolean {
    return this.#spec(hash).seeds > 0;
  }

  /** One of this kind is on its way to be made: until disposed, {@link runs} says so. */
  hold(hash: string): Disposable {
    const spec = this.#spec(hash);
    spec.seeds += 1;
    return {
      [Symbol.dispose]: () => {
        spec.seeds -= 1;
      },
    };
  }

  /** Why no snapshot of this kind is tried at present: the last attempt failed. */
  refusal(hash: string): string | undefined {
    const { refusal } = this.#spec(hash);
    return refusal !== undefined && refusal.until > this.#deps.clock.now() ? refusal.reason : undefined;
  }

  /** A snapshot of this kind whose restores failed: another one would be no better. */
  async quarantined(hash: string): Promise<string | undefined> {
    const marks = this.#deps.store.quarantined();
    for (const { digest, manifest } of await this.#deps.store.list()) {
      const quarantined = manifest.specHash === hash ? marks.get(digest) : undefined;
      if (quarantined !== undefined) return quarantineText(digest, quarantined.reason);
    }
    return undefined;
  }

  /** Makes a snapshot of a container that has just been told to start cold. Never throws; an abort gives undefined. */
  async make(
    seed: { readonly container: Container; readonly hash: string; readonly mounts: readonly Mount[]; readonly eager?: boolean },
    onStep: (step: SeedStep) => void,
    signal: AbortSignal,
  ): Promise<SeedOutcome | undefined> {
    const { container, hash, mounts, eager = false } = seed;
    const { listener, log, clock, host } = this.#deps;
    const spec = this.#spec(hash);
    const workload = container.workload.name;
    using _held = this.hold(hash);
    try {
      const published = await makeSnapshot(this.#deps, { container, specHash: hash, mounts, eager }, onStep, signal);
      spec.refusal = undefined;
      listener({ type: 'snapshot', workload, specHash: hash, ...published });
      log.info({ workload, snapshot: published.digest, freezeMs: published.freezeMs }, 'snapshot published');
      await this.prune(container.workload, hash);
      return { published };
    } catch (error) {
      if (signal.aborted) return undefined;
      const { code, message: reason } = toRekindleError(error);
      const forever = code === 'dump_refused' || code === 'random_shared' || code === 'config_invalid';
      // One that somebody ended says nothing of the next.
      const retryAfterMs = forever ? Number.POSITIVE_INFINITY : (await host.isLeaving(container.uid)) ? 0 : RETRY_SEED_AFTER_MS;
      spec.refusal = { reason, until: clock.now() + retryAfterMs };
      listener({ type: 'checkpoint-failed', workload, specHash: hash, code, reason });
      log.warn({ workload, code, reason }, 'no snapshot could be made');
      return { code, reason };
    }
  }

  /** A restore of it succeeded. Never throws. */
  async restored(digest: string, workload: WorkloadSpec): Promise<void> {
    this.#failures.delete(digest);
    if (workload.checkpoint.verify === 'trial') return;
    const { store, log } = this.#deps;
    await store.prove(digest).catch((err: unknown) => log.warn({ err, snapshot: digest }, 'that it was restored is not written down'));
  }

  /**
   * A restore of it failed; after some in a row it is quarantined, and at once where the first restore is the trial. One that says nothing of the snapshot
   * does not count: into a container that somebody ended meanwhile, or on a machine that had no room or no process for it. Never throws: what it failed for
   * has still to start cold.
   */
  async failed(digest: string, { uid, workload }: Container, { reason, code }: Cold): Promise<void> {
    if (code !== undefined && NOT_ITS_FAULT.includes(code)) return;
    const { store, host, log } = this.#deps;
    try {
      if (await host.isLeaving(uid)) return;
      const failures = (this.#failures.get(digest) ?? 0) + 1;
      this.#failures.set(digest, failures);
      if (workload.checkpoint.verify === 'first-restore' && !store.isProven(digest))
        await store.quarantine(digest, `its first restore, which was its trial (checkpoint.verify), failed: ${reason}`);
      else if (failures >= FAILURES_UNTIL_QUARANTINE)
        await store.quarantine(digest, `${failures} restores in a row failed; the last: ${reason}`);
    } catch (err) {
      // The next failure tries again.
      log.warn({ err, snapshot: digest }, 'that its restores fail is not written down');
    }
  }

  /** Removes what the policy keeps no longer, now that there is a new one of this kind. That is there whether or not older ones can be removed. */
  async prune(workload: WorkloadSpec, hash: string): Promise<void> {
    const { store, log, live } = this.#deps;
    try {
      const policy = { ...retentionOf(workload), live: new Set([...(await live(workload.name)), hash]) };
      await store.prune(new Map([[workload.name, policy]]));
    } catch (err) {
      log.warn({ err, workload: workload.name }, 'older snapshots could not be removed');
    }
  }

  #spec(hash: string): SpecState {
    const known = this.#specs.get(hash) ?? { seeds: 0, refusal: undefined };
    this.#specs.set(hash, known);
    return known;
  }
}

/** Why nothing is restored from a quarantined snapshot, in words. */
export function quarantineText(digest: string, reason: string): string {
  return `its snapshot ${digest.slice(0, 12)} is left alone: ${reason}. Remove it to have another one made`;
}
