import { type Static, Type } from 'typebox';
import { PodTruth, SlotTruth, SnapshotTruth, Start, WorkloadTruth } from '../queue/truth.ts';

/** What the API answers and `/events` tells; OpenAPI at `/docs` is made from these. The page is their first user. */

const strict = { additionalProperties: false } as const;

export const ApiSlot = Type.Object(
  {
    uid: Type.String(),
    name: Type.String(),
    node: Type.String(),
    state: SlotTruth.properties.state,
    /** Milliseconds in this state. */
    ageMs: Type.Number(),
    ready: Type.Boolean(),
    seed: Type.Boolean(),
    draining: Type.Boolean(),
    inFlight: Type.Integer(),
    start: Type.Optional(Start),
    error: Type.Optional(Type.String()),
  },
  strict,
);

/** An opted-in pod of a cluster whose number Kubernetes decides. */
export const ApiPod = Type.Object(
  {
    ...Type.Pick(PodTruth, ['uid', 'name', 'state', 'ready', 'start', 'connections']).properties,
    node: Type.String(),
    /** Milliseconds in this state. */
    ageMs: Type.Number(),
  },
  strict,
);

/** `GET /api/pools`: one per workload. `GET /api/workloads` has the same without slots and pods. */
export const ApiPool = Type.Object(
  {
    workload: Type.String(),
    /** Instances there should be. */
    desired: Type.Integer(),
    burst: Type.Boolean(),
    min: Type.Integer(),
    max: Type.Integer(),
    parked: Type.Integer(),
    inFlight: Type.Integer(),
    waiting: Type.Integer(),
    /** Of its snapshot: the best that any node says. */
    phase: Type.Union([Type.Literal('none'), Type.Literal('warming'), Type.Literal('ready'), Type.Literal('refused')]),
    digest: Type.Optional(Type.String()),
    /** Of `refused`: why, in words. */
    reason: Type.Optional(Type.String()),
    slots: Type.Array(ApiSlot),
    /** In a cluster: whether pods are only restored, or park too. */
    mode: WorkloadTruth.properties.mode,
    /** Of a workload whose pods do not park; these have no slots above. */
    pods: Type.Optional(Type.Array(ApiPod)),
  },
  strict,
);

export const ApiSnapshot = Type.Object({ ...SnapshotTruth.properties, nodes: Type.Array(Type.String()) }, strict);

export const ApiNode = Type.Object(
  {
    name: Type.String(),
    machineClass: Type.String(),
    cores: Type.Integer(),
    slots: Type.Integer(),
    instances: Type.Integer(),
    memoryBytes: Type.Number(),
    snapshots: Type.Integer(),
    pulling: Type.Integer(),
    leaving: Type.Boolean(),
    /** In a cluster: its opted-in pods that do not park. */
    pods: Type.Optional(Type.Integer()),
  },
  strict,
);

/** An instance has become ready: a point of the latency plot. `atMs`: since 1970, by the gateway's clock. */
export const ApiStart = Type.Object(
  { atMs: Type.Number(), workload: Type.String(), uid: Type.String(), node: Type.String(), start: Start },
  strict,
);

/** Something went wrong, in words; of the last minutes, newest last. */
export const ApiProblem = Type.Object(
  { atMs: Type.Number(), workload: Type.Optional(Type.String()), node: Type.Optional(Type.String()), text: Type.String() },
  strict,
);

/** Whether what is told is fresh. */
export const ApiConnection = Type.Object(
  {
    /** Redis answers; else what is shown may be old. */
    connected: Type.Boolean(),
    /** The scaler that leads; without one nothing is woken but by what was decided before. */
    scaler: Type.Optional(Type.String()),
  },
  strict,
);

/** Everything the page shows at once: the first event of `/events`, by name `state`. */
export const ApiState = Type.Object(
  {
    pools: Type.Array(ApiPool),
    nodes: Type.Array(ApiNode),
    snapshots: Type.Array(ApiSnapshot),
    starts: Type.Array(ApiStart),
    problems: Type.Array(ApiProblem),
    ...ApiConnection.properties,
  },
  strict,
);

/**
 * `/events`, as server-sent events. Each `data` is JSON: `state` is an {@link ApiState}, first and again after every reconnection; `pool` an
 * {@link ApiPool} that changed; `gone` the name of a workload that went; `nodes`, `snapshots` the whole list when it changed; `start` an
 * {@link ApiStart}; `problem` an {@link ApiProblem}; `connected` an {@link ApiConnection}. Changes come at most every 50 ms per
 * pool, and at least a comment every 10 s: a reader that hears nothing for 30 s connects anew.
 */
export const EVENT_NAMES = ['state', 'pool', 'gone', 'nodes', 'snapshots', 'start', 'problem', 'connected'] as const;

/** The body of every answer that is not a success, with the status of the code in lib/errors.ts. */
export const ApiError = Type.Object({ code: Type.String(), message: Type.String() }, strict);

/** `POST /api/burst`: asks the gateway to send requests to a workload itself, for the page's button. */
export const BurstRequest = Type.Object(
  {
    workload: Type.String(),
    requests: Type.Integer({ minimum: 1, maximum: 2000, default: 50 }),
    path: Type.String({ default: '/', pattern: '^/[\\x21-\\x7e]*$' }),
  },
  strict,
);
export const BurstAnswer = Type.Object(
  { answered: Type.Integer(), failed: Type.Integer(), p50Ms: Type.Number(), p99Ms: Type.Number(), maxMs: Type.Number() },
  strict,
);

export type ApiSlot = Static<typeof ApiSlot>;
export type ApiPod = Static<typeof ApiPod>;
export type ApiPool = Static<typeof ApiPool>;
export type ApiSnapshot = Static<typeof ApiSnapshot>;
export type ApiNode = Static<typeof ApiNode>;
export type ApiStart = Static<typeof ApiStart>;
export type ApiProblem = Static<typeof ApiProblem>;
export type ApiConnection = Static<typeof ApiConnection>;
export type ApiState = Static<typeof ApiState>;
export type BurstAnswer = Static<typeof BurstAnswer>;
