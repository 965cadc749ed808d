import { mkdtemp, rm } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { dump } from '../checkpoint/dump.ts';
import type { MachineFacts } from '../checkpoint/machine.ts';
import type { Mount } from '../checkpoint/mountinfo.ts';
import { abortedAfter } from '../lib/abort.ts';
import { RekindleError } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';
import { runActions } from '../probes/action.ts';
import { waitReady } from '../probes/probe.ts';
import type { SnapshotStore } from '../snapshots/store.ts';
import type { Container } from '../workloads/host.ts';
import { warmupOf } from '../workloads/normalise.ts';
import type { SeedStep } from './events.ts';
import { eagerProbe, type RestorerDeps, readinessProbe } from './restorer.ts';
import { targetOf } from './targets.ts';
import { isTried, type TrialDeps, tryRestore } from './trial.ts';

/** Whatever its probe's timing adds up to: what is not ready after a day is not waited for. */
const MAX_READINESS_MS = 24 * 3_600_000;

export type SeedDeps = TrialDeps & RestorerDeps & { readonly store: SnapshotStore; readonly machine: MachineFacts; readonly log: Log };

const LEAVING_LOOK_MS = 200;
/** A dump that failed for what the application did at that very moment is tried again after so long each time. */
const AGAIN_AFTER_MS = [50, 100, 200, 400, 800];

export type Seed = {
  readonly container: Container;
  readonly specHash: string;
  /** The seed's mounts when it said hello. */
  readonly mounts: readonly Mount[];
  /** Somebody waits for it to serve: it is asked whether it is ready more often than its probe says. */
  readonly eager: boolean;
};

export type Published = {
  readonly digest: string;
  readonly freezeMs: number;
  readonly totalBytes: number;
  readonly warnings: readonly string[];
};

/**
 * Makes a snapshot of a container that has just started cold: readiness, warm-up, dump while it goes on, trial restore where there is one, publish. Throws what
 * stopped it; then nothing of the snapshot remains, and the seed serves as if nothing had been.
 */
export async function makeSnapshot(deps: SeedDeps, seed: Seed, onStep: (step: SeedStep) => void, signal: AbortSignal): Promise<Published> {
  const watch = new AbortController();
  let step: SeedStep = 'waiting for readiness';
  // No deadline for readiness but the probe's own: an application may take long to start.
  let deadline: AbortSignal | undefined;
  const enter = (next: SeedStep) => {
    step = next;
    onStep(next);
  };
  void deps.host.wait(seed.container, AbortSignal.any([signal, watch.signal])).then(
    (status) => watch.abort(new RekindleError('container_failed', `the container ended with ${status} before a snapshot of it was made`)),
    () => undefined,
  );
  void untilLeaving(deps, seed.container, AbortSignal.any([signal, watch.signal])).then(
    () => watch.abort(new RekindleError('container_failed', 'the container is being removed before a snapshot of it was made')),
    () => undefined,
  );
  const startDeadline = (): AbortSignal => {
    deadline = abortedAfter(seed.container.workload.checkpoint.deadlineSeconds * 1000);
    return AbortSignal.any([signal, deadline]);
  };
  try {
    return await take(deps, seed, enter, AbortSignal.any([signal, watch.signal]), startDeadline);
  } catch (cause) {
    if (signal.aborted || !deadline?.aborted) throw cause;
    const seconds = seed.container.workload.checkpoint.deadlineSeconds;
    throw new RekindleError('timeout', `no snapshot within ${seconds} s (checkpoint.deadlineSeconds), when it was ${step}`, { cause });
  } finally {
    watch.abort();
  }
}

/** Whoever comes in its place is to be the seed, and may be there before it has ended. */
async function untilLeaving({ host, clock }: SeedDeps, { uid }: Container, signal: AbortSignal): Promise<void> {
  do await clock.sleep(LEAVING_LOOK_MS, signal);
  while (!(await host.isLeaving(uid)));
}

/** `signal` ends with the seed too; once the dump is there the seed is no longer needed, and `startDeadline` gives what counts from then on. */
async function take(
  deps: SeedDeps,
  seed: Seed,
  onStep: (step: SeedStep) => void,
  signal: AbortSignal,
  startDeadline: () => AbortSignal,
): Promise<Published> {
  const { container } = seed;
  const { workload } = container;
  const target = targetOf(deps, container);
  const probe = seed.eager ? eagerProbe(container) : readinessProbe(container);
  if (probe === undefined) {
    throw new RekindleError(
      'config_invalid',
      `workload ${workload.name} says neither container.readiness nor container.ports: when is it ready?`,
    );
  }
  onStep('waiting for readiness');
  await waitReady(probe, target, { clock: deps.clock, deadlineMs: MAX_READINESS_MS }, signal);
  onStep('warming up');
  await runActions(warmupOf(workload), target, { clock: deps.clock, label: 'warm-up' }, signal);
  onStep('checkpointing');
  const until = startDeadline();
  for (const pauseMs of AGAIN_AFTER_MS) {
    try {
      return await checkpoint(deps, seed, onStep, until);
    } catch (error) {
      if (!(error instanceof RekindleError && error.code === 'dump_failed' && error.retryable) || until.aborted) throw error;
      deps.log.info({ workload: workload.name, reason: error.message }, 'checkpoint is tried again');
      await deps.clock.sleep(pauseMs, until);
    }
  }
  return checkpoint(deps, seed, onStep, until);
}

/** From the dump on. */
async function checkpoint(deps: SeedDeps, seed: Seed, onStep: (step: SeedStep) => void, until: AbortSignal): Promise<Published> {
  const { container } = seed;
  const { workload } = container;
  const timeoutMs = workload.checkpoint.deadlineSeconds * 1000;
  await using draft = await deps.store.begin();
  const createdAt = new Date().toISOString();
  const work = await mkdtemp(join(deps.workDir, 'dump-'));
  try {
    const { netInode, ...facts } = await dump(
      { ...deps.tools, exec: deps.exec },
      {
        pid: container.pid,
        mountsAtStart: seed.mounts,
        volumes: container.volumes,
        imagesDir: draft.imagesDir,
        filesDir: draft.filesDir,
        workDir: work,
        timeoutMs,
      },
      until,
    );
    onStep('writing it down');
    const sealed = await draft.seal(
      {
        ...facts,
        mounts: facts.mounts.map((mount) => ({ ...mount, options: [...mount.options] })),
        volumes: [...facts.volumes],
        workload: workload.name,
        specHash: seed.specHash,
        createdAt,
        class: deps.machine,
        imageDigest: container.imageDigest,
        netns: netInode,
        addresses: [...container.addresses],
        origin: { node: hostname() },
        ...(workload.checkpoint.allowSharedRandom ? { allowSharedRandom: true } : {}),
      },
      until,
    );
    const tried = isTried(workload);
    if (tried) onStep('verifying by a trial restore');
    const { imagesDir, filesDir } = draft;
    const warnings = tried ? await tryRestore(deps, container, { imagesDir, filesDir, manifest: sealed.manifest }, until) : [];
    onStep('publishing');
    const { digest, manifest } = await draft.publish(until);
    return { digest, freezeMs: facts.freezeMs, totalBytes: manifest.totalBytes, warnings };
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}
