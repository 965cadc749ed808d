import { coldReason } from '../workloads/normalise.ts';
import type { WorkloadSpec } from '../workloads/workload.ts';
import type { Cold } from './events.ts';

/** What a slot that has just said hello becomes. */
export type Decision<S> =
  | { readonly do: 'restore'; readonly snapshot: S }
  /** Another node has one that fits. */
  | { readonly do: 'pull'; readonly digest: string }
  | { readonly do: 'seed' }
  | ({ readonly do: 'cold' } & Pick<Cold, 'reason' | 'why'>);

export type DecisionFacts<S> = {
  readonly workload: Pick<WorkloadSpec, 'container' | 'restore'>;
  /** How often the container was started before. */
  readonly restarts: number;
  /** A snapshot that fits it, here and not quarantined. */
  readonly snapshot: S | undefined;
  /** A snapshot that fits it, on another node. */
  readonly elsewhere: string | undefined;
  /** Why no snapshot of this spec is tried at present: the last attempt failed, or restores of it did. */
  readonly refusal: string | undefined;
  /** Another container is being made into the snapshot. */
  readonly seedRuns: boolean;
};

/** Why a container starts cold beside a seed of its kind. */
export const SEED_RUNS = 'no snapshot yet: another container is being made into one';

/** Restores where that is possible, makes a seed where one is wanted, and else starts cold, saying why. Never throws. */
export function decide<S>(facts: DecisionFacts<S>): Decision<S> {
  const cold = coldReason(facts.workload);
  if (cold !== undefined) return { do: 'cold', why: 'policy', reason: cold };
  if (facts.restarts > 0) {
    return { do: 'cold', why: 'restarted', reason: 'the container was restarted: what it wrote stays, so it cannot be a clone' };
  }
  if (facts.snapshot !== undefined) return { do: 'restore', snapshot: facts.snapshot };
  if (facts.refusal !== undefined) return { do: 'cold', why: 'refused', reason: facts.refusal };
  if (facts.elsewhere !== undefined) return { do: 'pull', digest: facts.elsewhere };
  if (facts.seedRuns) return { do: 'cold', why: 'no_snapshot', reason: SEED_RUNS };
  return { do: 'seed' };
}
