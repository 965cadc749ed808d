/** A snapshot's name: the digest of its manifest. */
export type Digest = string;

/** How many instances of a workload there should be, and when. Times in milliseconds. */
export type PoolPolicy = {
  /** Instances that are always there, where capacity allows. */
  readonly min: number;
  /** Never more instances than this, those being restored or ended included. 0: the workload is going away. */
  readonly max: number;
  /** Requests in flight per instance that we aim at; above 0 and not above what the gateway sends to one. */
  readonly targetConcurrency: number;
  /** Slots without application that wait beyond the instances there should be; instances and these are never more than `max`. */
  readonly parked: number;
  /** How long an instance, or a surplus parked slot, is unused before it goes. */
  readonly idleMs: number;
  readonly stableWindowMs: number;
  readonly burstWindowMs: number;
  /** A burst: the burst window's demand asks for this many times the instances that are ready. */
  readonly burstFactor: number;
  /** An idle instance is suspended with its state instead of ended, and resumed from that. */
  readonly stateful: boolean;
  /** Its slots are given (Kubernetes makes and removes them): they are woken and parked again, and a seed is one of them. */
  readonly fixed: boolean;
};

/**
 * Windows and factor are those of Knative's pod autoscaler: stable-window 60s, panic-window-percentage 10, panic-threshold-percentage 200
 * (https://knative.dev/docs/serving/autoscaling/kpa-specific). The rest is ours: nothing runs without demand.
 */
export const DEFAULT_POLICY: PoolPolicy = {
  min: 0,
  max: 10,
  targetConcurrency: 1,
  parked: 1,
  idleMs: 30_000,
  stableWindowMs: 60_000,
  burstWindowMs: 6_000,
  burstFactor: 2,
  stateful: false,
  fixed: false,
};

export type PoolNode = {
  readonly name: string;
  /** Its agent answers. The slots of a node that is not alive do not count, and nothing is asked of it. */
  readonly alive: boolean;
  /** Compatibility class: a snapshot of another one cannot be restored here. */
  readonly machineClass: string;
  /** How many restores may run at once, and as many cold starts beside them. */
  readonly cores: number;
  readonly maxInstances: number;
  /** Memory for instances; parked slots need next to none. */
  readonly memoryBytes: number;
  readonly snapshots: ReadonlySet<Digest>;
  /** Snapshots on their way here. */
  readonly pulling: ReadonlySet<Digest>;
  /** Restores that belong to no slot of the state: trials of new snapshots. */
  readonly trials: number;
};

/**
 * `making`: its container is being created. `parked`: no application. `restoring`: claimed, not live yet. `live`: restored. `cold`: started
 * without a snapshot, seeds included. `ending`: is being ended or suspended. `suspended`: no application, its state is in a snapshot. `failed`.
 */
export type SlotState = 'making' | 'parked' | 'restoring' | 'live' | 'cold' | 'ending' | 'suspended' | 'failed';

export type PoolSlot = {
  /** Of the container; of a slot in the making what its `park` said. */
  readonly uid: string;
  readonly node: string;
  readonly workload: string;
  readonly state: SlotState;
  /** When this state began. */
  readonly sinceMs: number;
  /** Of `live` and `cold`: it passed its readiness. */
  readonly ready: boolean;
  readonly inFlight: number;
  /** When its last request ended, or when it became ready if it had none; kept while it is parked again. 0 if it never had an application. */
  readonly lastUsedMs: number;
  /** Gateways send it nothing new: it ends when it is idle. */
  readonly draining: boolean;
  /** Of `suspended`: what it is resumed from. */
  readonly suspended?: Digest;
};

/** What is known of a workload's snapshot in one compatibility class; a class that is missing has none yet. */
export type SnapshotPhase =
  | { readonly at: 'ready'; readonly digest: Digest }
  /** `slot` is the seed once its container is there, among the slots. */
  | { readonly at: 'warming'; readonly node: string; readonly slot?: string }
  /** No snapshot is tried (quarantine, a policy that forbids clones): slots start cold. */
  | { readonly at: 'refused' };

/** See `demand.ts` for how the caller comes to the averages. Concurrency is requests in flight and waiting together. */
export type Demand = {
  readonly inFlight: number;
  readonly waiting: number;
  /** How long the oldest waiting request has waited; 0 if none waits. */
  readonly oldestWaitingMs: number;
  /** Over the stable window. */
  readonly ratePerSecond: number;
  readonly stableAverage: number;
  readonly burstAverage: number;
};

/** A burst goes on until `lastMs`, when demand was last above the threshold, is one stable window ago. */
export type Burst = { readonly lastMs: number; readonly instances: number };

export type PoolWorkload = {
  readonly name: string;
  readonly policy: PoolPolicy;
  /** Of one instance. */
  readonly memoryBytes: number;
  readonly snapshots: ReadonlyMap<string, SnapshotPhase>;
  readonly demand: Demand;
  /** What the last plan said in `bursts`. */
  readonly burst?: Burst;
  /** Of ordinary pods of a cluster, whose number is not planned: the nodes where some are. Its snapshot is brought there, and to a few more. */
  readonly spread?: ReadonlySet<string>;
};

/** The whole of what is planned for. Slots of a workload that is not listed are left alone: the view may not be complete yet. */
export type PoolState = {
  readonly nodes: readonly PoolNode[];
  readonly slots: readonly PoolSlot[];
  readonly workloads: readonly PoolWorkload[];
};
