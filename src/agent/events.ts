import type { ErrorCode } from '../lib/errors.ts';

/** What an instance is: DESIGN.md's words. `seed` serves too, and is being made into a snapshot. */
export type InstanceState =
  /** Of a pod: its containers are still to be made, and it will be restored. */
  | { readonly at: 'expected'; readonly snapshot: string }
  | { readonly at: 'restoring'; readonly snapshot: string }
  | { readonly at: 'live'; readonly snapshot: string; readonly timing: RestoreTiming }
  /** Restored under an earlier agent, and heard again by this one. */
  | { readonly at: 'back' }
  /** `why` is missing where no agent saw it. */
  | { readonly at: 'cold'; readonly reason: string; readonly why?: Cold['why']; readonly code?: ErrorCode }
  | { readonly at: 'seed'; readonly step: SeedStep }
  /** Of a pod: no application is in it, and it counts as ready. */
  | { readonly at: 'parked' }
  | { readonly at: 'ended'; readonly status: number | undefined };

/**
 * Why an instance started cold: in words, and of what kind that is: `failed` instead of a restore that was tried, `seed` as the first of its kind,
 * `no_snapshot` yet, `refused` since none can be made or it is quarantined, `policy` of the workload, `restarted` after something else ran in it.
 */
export type Cold = {
  readonly reason: string;
  readonly why: 'failed' | 'seed' | 'no_snapshot' | 'refused' | 'policy' | 'restarted';
  readonly code?: ErrorCode;
};

/** Why a seed counts as cold once its checkpoint has ended, well or not. */
export const WAS_SEED = 'the first of its kind';

export type SeedStep =
  | 'waiting for readiness'
  | 'warming up'
  | 'checkpointing'
  /** From here on the seed runs on, and whatever it does is in no snapshot. */
  | 'writing it down'
  | 'verifying by a trial restore'
  | 'publishing';

/** Milliseconds since the slot's hello, but for `filesMs` and `criuMs`, which are spans. */
export type RestoreTiming = {
  /** Until the restore could begin: container identified, snapshot found and checked, its turn come. */
  readonly decidedMs: number;
  readonly filesMs: number;
  readonly criuMs: number;
  /** Until the application ran. */
  readonly restoredMs: number;
  /** Until it answered its readiness check; undefined for a workload without one. */
  readonly readyMs: number | undefined;
};

/** What happens in an agent, for whoever shows it. */
export type AgentEvent =
  | { readonly type: 'instance'; readonly uid: string; readonly name: string; readonly workload: string; readonly state: InstanceState }
  | {
      readonly type: 'snapshot';
      readonly workload: string;
      readonly digest: string;
      readonly specHash: string;
      readonly freezeMs: number;
      readonly totalBytes: number;
      readonly warnings: readonly string[];
    }
  | {
      readonly type: 'checkpoint-failed';
      readonly workload: string;
      readonly specHash: string;
      readonly code: ErrorCode;
      readonly reason: string;
    };

export type AgentListener = (event: AgentEvent) => void;
