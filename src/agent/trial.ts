import type { Clock } from '../lib/clock.ts';
import { RekindleError, toRekindleError } from '../lib/errors.ts';
import type { Exec } from '../lib/exec.ts';
import { runActions } from '../probes/action.ts';
import type { SlotConnection } from '../slots/slot-connection.ts';
import type { Container, ContainerMaker } from '../workloads/host.ts';
import { randomChecksOf } from '../workloads/normalise.ts';
import type { WorkloadSpec } from '../workloads/workload.ts';
import { drawRandom, type RandomDraw, sharedRandom } from './random-check.ts';
import type { Restorable, Restorer } from './restorer.ts';
import { type TargetDeps, targetOf } from './targets.ts';

export type TrialDeps = TargetDeps & {
  readonly host: ContainerMaker;
  readonly restorer: Restorer;
  readonly exec: Exec;
  readonly clock: Clock;
  readonly randomProbe: string;
  /** Resolves with the proven connection of a container that was just made. */
  readonly slotOf: (container: Container, signal: AbortSignal) => Promise<SlotConnection>;
};

const CLONES = 2;

/** Whether a snapshot is restored before it is published. Where its first real restore is the trial, only to compare what two clones draw. */
export function isTried({ checkpoint }: Pick<WorkloadSpec, 'checkpoint'>): boolean {
  return checkpoint.verify === 'trial' || !checkpoint.allowSharedRandom;
}

/**
 * Restores a sealed snapshot into two throw-away slots, whose network leads nowhere and whose volumes are copies: each must become ready, and
 * what they draw from the random sources that can be reached must differ. Returns warnings for a person to read. Throws `verify_failed` or
 * `random_shared`. Nothing of the slots remains.
 */
export async function tryRestore(deps: TrialDeps, seed: Container, snapshot: Restorable, signal: AbortSignal): Promise<string[]> {
  try {
    return await tryClones(deps, seed, snapshot, signal);
  } catch (error) {
    // A restore that did not come about may have been the machine's fault; without a snapshot all that follow start cold. The second time counts.
    const chance = error instanceof RekindleError && error.cause instanceof RekindleError && error.cause.code === 'restore_failed';
    if (signal.aborted || !chance) throw error;
    return tryClones(deps, seed, snapshot, signal);
  }
}

async function tryClones(deps: TrialDeps, seed: Container, snapshot: Restorable, signal: AbortSignal): Promise<string[]> {
  const { workload } = seed;
  // An application that is ready only with its network is tried by its first real restore; its clones are still compared.
  const readiness = workload.checkpoint.verify === 'trial';
  const failure = new AbortController();
  const until = AbortSignal.any([signal, failure.signal]);
  const trials = Array.from({ length: CLONES }, () => tryOne(deps, seed, snapshot, readiness, until));
  for (const trial of trials) trial.catch((error: unknown) => failure.abort(error));
  // All of them, so that nothing of a trial is left when the snapshot is removed or published.
  await Promise.allSettled(trials);
  failure.signal.throwIfAborted();
  const draws = await Promise.all(trials);
  const [one = [], other = []] = draws;
  const shared = sharedRandom(one, other);
  if (shared.length === 0) return [];
  const what = `two clones draw the same random bytes from ${shared.join(', ')}`;
  if (workload.checkpoint.allowSharedRandom) return [`${what}; published because checkpoint.allowSharedRandom is set`];
  throw new RekindleError(
    'random_shared',
    `${what}: keys, tokens and session ids would repeat. Let container.preload be true, reseed in restore.after, or set checkpoint.allowSharedRandom if that is harmless here`,
  );
}

async function tryOne(
  deps: TrialDeps,
  seed: Container,
  snapshot: Restorable,
  readiness: boolean,
  signal: AbortSignal,
): Promise<RandomDraw[]> {
  const container = await deps.host.create(seed.workload, { trial: true, like: seed, signal });
  try {
    const connection = await deps.slotOf(container, signal);
    const { pid } = await deps.restorer.restore(container, connection, snapshot, signal);
    if (readiness) await deps.restorer.enliven(container, connection, signal);
    return [...(await drawRandom(deps, pid, signal)), ...(await drawByPolicy(deps, container, signal))];
  } catch (cause) {
    if (signal.aborted) throw cause;
    const why = cause instanceof Error ? cause.message : String(cause);
    const what = readiness
      ? 'the trial restore failed'
      : 'two clones could not be compared in what they draw at random (checkpoint.allowSharedRandom leaves that out)';
    const code = toRekindleError(cause).code === 'disk_full' ? 'disk_full' : 'verify_failed';
    throw new RekindleError(code, `${what}, so the snapshot is not published: ${why}`, { cause });
  } finally {
    await deps.host.remove(container.uid, { graceMs: 0 });
  }
}

/** What the workload itself names as sources (`checkpoint.random`). An empty answer says nothing about randomness. */
async function drawByPolicy(deps: TrialDeps, container: Container, signal: AbortSignal): Promise<RandomDraw[]> {
  const actions = randomChecksOf(container.workload);
  const { outputs } = await runActions(actions, targetOf(deps, container), { clock: deps.clock, label: 'random check' }, signal);
  return outputs.flatMap(({ sha256, sizeBytes }, i) => (sizeBytes === 0 ? [] : [{ source: `checkpoint.random[${i}]`, bytes: sha256 }]));
}
