import { type Static, Type } from 'typebox';
import { Workload } from '../workloads/workload.ts';

/**
 * The shared view: what every node, gateway and the scaler say of themselves, in Redis under `{rekindle}:…` (one hash slot, so that a Redis cluster
 * works). Each is one JSON text that its owner writes anew on every change and every second, with a time to live: Redis may lose all of it, and has
 * it again within seconds. Ages are told instead of times, measured by a monotonic clock when the text is written: clocks may differ and move.
 */

const strict = { additionalProperties: false } as const;
const Ms = Type.Number({ minimum: 0 });

/** How an instance came to be. `ms`: from the decision to start it until it was ready. */
export const Start = Type.Object(
  {
    how: Type.Union([Type.Literal('restore'), Type.Literal('cold')]),
    ms: Type.Optional(Ms),
    /** Of cold ones: why. */
    reason: Type.Optional(Type.String()),
  },
  strict,
);

/** One slot of a node. States are those of `pool/state.ts`. */
export const SlotTruth = Type.Object(
  {
    uid: Type.String(),
    name: Type.String(),
    workload: Type.String(),
    state: Type.Union([
      Type.Literal('making'),
      Type.Literal('parked'),
      Type.Literal('restoring'),
      Type.Literal('live'),
      Type.Literal('cold'),
      Type.Literal('ending'),
      Type.Literal('suspended'),
      Type.Literal('failed'),
    ]),
    /** How long it has been in this state. */
    ageMs: Ms,
    ready: Type.Boolean(),
    /** It is the seed that its workload's snapshot is being made from. */
    seed: Type.Boolean(),
    /** How often it has been parked before: tells lives of one slot apart. */
    parks: Type.Integer({ minimum: 0 }),
    /** Where it is reached once ready. */
    address: Type.Optional(Type.String()),
    /** What it was restored from, or, of a parked one, the snapshot here that fits it. */
    snapshot: Type.Optional(Type.String()),
    /** Of `suspended`: what it is resumed from. */
    suspended: Type.Optional(Type.String()),
    start: Type.Optional(Start),
    /** Of `failed`: what is wrong. */
    error: Type.Optional(Type.String()),
    /** Its workload's description is another now, or gone: it serves until it is idle, and its agent removes it then instead of parking it. */
    outdated: Type.Optional(Type.Boolean()),
    /** In a cluster: as {@link PodTruth}'s. */
    connections: Type.Optional(Type.Integer({ minimum: 0 })),
  },
  strict,
);

/**
 * One opted-in pod of a node of a cluster whose number Kubernetes decides: nothing of it is planned, it is shown and counted. Pods that park
 * (`rekindle.dev/mode: on-demand`) are not among these but among the slots, with the pod's uid and name.
 */
export const PodTruth = Type.Object(
  {
    /** `metadata.uid` and `metadata.name`; the namespace is in the workload's name. */
    uid: Type.String(),
    name: Type.String(),
    workload: Type.String(),
    /** As its label `rekindle.dev/state` says (`PodState` of workloads/kubernetes.ts); `waiting`: nothing is decided yet, or it is being restored into. */
    state: Type.Union([Type.Literal('waiting'), Type.Literal('seed'), Type.Literal('live'), Type.Literal('cold'), Type.Literal('parked')]),
    ageMs: Ms,
    ready: Type.Boolean(),
    address: Type.Optional(Type.String()),
    /** What it was restored from. */
    snapshot: Type.Optional(Type.String()),
    start: Type.Optional(Start),
    /** Established connections of others to its container ports; undefined while they could not be counted. */
    connections: Type.Optional(Type.Integer({ minimum: 0 })),
  },
  strict,
);

/** What a node knows of a workload's snapshot in its own compatibility class. */
export const PhaseTruth = Type.Object(
  {
    workload: Type.String(),
    /** Of the workload's description this is about, see {@link WorkloadTruth}. */
    revision: Type.String(),
    at: Type.Union([Type.Literal('none'), Type.Literal('warming'), Type.Literal('ready'), Type.Literal('refused')]),
    digest: Type.Optional(Type.String()),
    /** Of `warming`: the seed's slot, once its container is there. */
    slot: Type.Optional(Type.String()),
    /** Of `refused`: why. */
    reason: Type.Optional(Type.String()),
  },
  strict,
);

export const SnapshotTruth = Type.Object(
  {
    digest: Type.String(),
    workload: Type.String(),
    /** What it fits; keyed, so that it tells nothing. Missing from agents of an older version. */
    specHash: Type.Optional(Type.String()),
    totalBytes: Ms,
    /** How long the application stood still for it. */
    freezeMs: Ms,
    createdAtMs: Ms,
    /** When every byte was last compared with the manifest; undefined while that has not been done here. */
    verifiedAtMs: Type.Optional(Ms),
    quarantined: Type.Optional(Type.String()),
    /** Memory of one instance restored from it. */
    memoryBytes: Ms,
  },
  strict,
);

export const NodeTruth = Type.Object(
  {
    name: Type.String(),
    /** Of the agent's process: changes when it was started anew. */
    agent: Type.String(),
    /** Compatibility class. */
    machineClass: Type.String(),
    cores: Type.Integer({ minimum: 1 }),
    maxInstances: Type.Integer({ minimum: 0 }),
    /** Memory for instances. */
    memoryBytes: Ms,
    /** Where other agents fetch snapshots: an http URL. */
    peer: Type.Optional(Type.String()),
    /** The agent is ending: it takes no more jobs; its live instances go on serving. */
    leaving: Type.Boolean(),
    trials: Type.Integer({ minimum: 0 }),
    pulling: Type.Array(Type.String()),
    snapshots: Type.Array(SnapshotTruth),
    phases: Type.Array(PhaseTruth),
    slots: Type.Array(SlotTruth),
    /** In a cluster only; an agent that does not tell them has none to show. */
    pods: Type.Optional(Type.Array(PodTruth)),
  },
  strict,
);

/** What a gateway has to do with one workload. */
export const DemandTruth = Type.Object(
  {
    workload: Type.String(),
    inFlight: Type.Integer({ minimum: 0 }),
    waiting: Type.Integer({ minimum: 0 }),
    oldestWaitingMs: Ms,
    /** Requests since the gateway started. */
    arrivals: Type.Integer({ minimum: 0 }),
  },
  strict,
);

export const GatewayTruth = Type.Object(
  {
    id: Type.String(),
    url: Type.String(),
    demand: Type.Array(DemandTruth),
    /** Instances it has sent requests to: how many are in flight, and how long ago the last one ended (0 while one is). */
    instances: Type.Array(
      Type.Object({ uid: Type.String(), parks: Type.Integer({ minimum: 0 }), inFlight: Type.Integer({ minimum: 0 }), idleMs: Ms }, strict),
    ),
  },
  strict,
);

/** What the leading scaler has decided. */
export const ScalerTruth = Type.Object(
  {
    id: Type.String(),
    /** Slots that gateways send nothing new to. */
    draining: Type.Array(Type.String()),
    desired: Type.Record(Type.String(), Type.Integer({ minimum: 0 })),
    /** Workloads in a burst. */
    bursts: Type.Array(Type.String()),
  },
  strict,
);

/** One workload as everybody should have it; the scaler, who reads the file or the cluster's pods, tells it. */
export const WorkloadTruth = Type.Object(
  {
    name: Type.String(),
    /** Digest of the description but for how many instances there should be: a new number is no new workload. In a cluster the pod template's. */
    revision: Type.String(),
    spec: Workload,
    /** Of a cluster, where Kubernetes decides how many slots there are. `restore`: and how many instances, nothing is planned. `on-demand`: slots are woken and parked. */
    mode: Type.Optional(Type.Union([Type.Literal('restore'), Type.Literal('on-demand')])),
  },
  strict,
);

export type SlotTruth = Static<typeof SlotTruth>;
export type PodTruth = Static<typeof PodTruth>;
export type PhaseTruth = Static<typeof PhaseTruth>;
export type SnapshotTruth = Static<typeof SnapshotTruth>;
export type NodeTruth = Static<typeof NodeTruth>;
export type DemandTruth = Static<typeof DemandTruth>;
export type GatewayTruth = Static<typeof GatewayTruth>;
export type ScalerTruth = Static<typeof ScalerTruth>;
export type WorkloadTruth = Static<typeof WorkloadTruth>;

/** All of it as one process sees it. A part that has not been told for its time to live is missing. */
export type View = {
  readonly nodes: ReadonlyMap<string, Seen<NodeTruth>>;
  readonly gateways: ReadonlyMap<string, Seen<GatewayTruth>>;
  readonly scaler: Seen<ScalerTruth> | undefined;
  /** Kept when Redis loses it: a workload goes only when the scaler says so. Undefined before it was ever heard. */
  readonly workloads: ReadonlyMap<string, WorkloadTruth> | undefined;
};

/** What was told, and when it was heard, by this process's monotonic clock: an age at a later time is the told age and what has passed since. */
export type Seen<T> = { readonly said: T; readonly heardAtMs: number };

/**
 * The one door to the shared view. Reading is of the copy kept here, which follows what is told by subscription and a look every second; it never
 * waits and never throws. While Redis is away the copy stays as it was, and `connected` says so.
 */
export interface SharedView {
  readonly view: View;
  readonly connected: boolean;
  /** Calls back after every change of the copy, at most once per turn of the event loop. Returns what ends that. */
  onChange(callback: () => void): () => void;
  /** Tells what this process is. Keeps telling it, every second and again after Redis was away; a new text replaces the one before. */
  tellNode(truth: () => NodeTruth): Teller;
  tellGateway(truth: () => GatewayTruth): Teller;
  tellScaler(truth: () => ScalerTruth): Teller;
  tellWorkloads(truth: () => readonly WorkloadTruth[]): Teller;
}

/** `now()` asks for the text to be written again in this turn of the event loop. Disposing takes it back: the others see that this one has gone. */
export type Teller = AsyncDisposable & { now(): void };
