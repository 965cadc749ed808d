import type { Burst, PoolWorkload } from './state.ts';

export type Desired = {
  /** Instances there should be: from `min` to `max`. */
  readonly instances: number;
  /** Instances that the requests of this moment ask for, where one of them waits; at most `max`. */
  readonly forWaiting: number;
  /** The burst that goes on. */
  readonly burst: Burst | undefined;
};

/**
 * How many instances a workload should have, of which `ready` are there.
 *
 * After Knative's pod autoscaler (serving/pkg/autoscaler/scaling/autoscaler.go, `Scale`): the mean concurrency of the stable window over the
 * target of one instance; when the short window asks for twice what is ready (at least one), a burst begins: the greater of the two windows
 * counts, and the count does not fall until the threshold was last crossed one stable window ago.
 *
 * Otherwise than there: a waiting request counts at once, since a restore is faster than any window; how fast the count may rise is not
 * limited, a node's concurrency of restores does that; and where requests arrive that are too short to be seen in samples, one stays.
 */
export function desiredOf({ policy, demand, burst }: PoolWorkload, ready: number, nowMs: number): Desired {
  const target = Math.max(policy.targetConcurrency, Number.MIN_VALUE);
  const within = (count: number): number => Math.min(policy.max, Math.max(policy.min, count));
  const stable = Math.max(Math.ceil(demand.stableAverage / target), demand.ratePerSecond > 0 ? 1 : 0);
  const short = Math.ceil(demand.burstAverage / target);
  const forWaiting = demand.waiting > 0 ? Math.min(policy.max, Math.ceil((demand.inFlight + demand.waiting) / target)) : 0;

  const begins = short >= policy.burstFactor * Math.max(1, ready);
  // A clock that went back must not prolong a burst.
  const goesOn = burst !== undefined && nowMs - Math.min(burst.lastMs, nowMs) < policy.stableWindowMs;
  if (!begins && !goesOn) return { instances: within(Math.max(stable, forWaiting)), forWaiting, burst: undefined };
  const instances = within(Math.max(stable, short, forWaiting, goesOn ? burst.instances : 0));
  return { instances, forWaiting, burst: { lastMs: begins ? nowMs : Math.min(burst?.lastMs ?? nowMs, nowMs), instances } };
}
