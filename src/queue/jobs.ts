import { type Static, Type } from 'typebox';

/**
 * What a node is asked to do. One BullMQ queue per node, so that a job reaches the node that must do it. Every job may run twice: it says what
 * should be, its processor looks first, and its id is what it does, so that asking again while it waits or runs asks for nothing new.
 * Nothing that matters is in a job alone: one that is lost is asked for again by the next plan.
 */

const strict = { additionalProperties: false } as const;
/** A namespace and a name of an object of a cluster are 63 and 253. */
const Name = Type.String({ minLength: 1, maxLength: 317, pattern: '^[A-Za-z0-9][A-Za-z0-9._-]*$' });
const Digest = Type.String({ pattern: '^[0-9a-f]{64}$' });

/** Make a seed of the workload, and from it the snapshot of this node's compatibility class. */
export const WarmJob = Type.Object({ workload: Name }, strict);
/** Make a parked slot. `slot` is the uid its container gets. */
export const ParkJob = Type.Object({ slot: Name, workload: Name }, strict);
/**
 * Wake a parked or suspended slot. Without `snapshot` it starts cold. With one that is not here the agent pulls it, or starts cold when that is
 * expected to be faster. `parks` is the slot's {@link SlotTruth.parks}: a job for an earlier life of the slot does nothing. `seed`: it starts cold, and a
 * snapshot is made from it, unless there is one by then.
 */
export const RestoreJob = Type.Object(
  {
    slot: Name,
    parks: Type.Integer({ minimum: 0 }),
    workload: Name,
    snapshot: Type.Optional(Digest),
    why: Type.Union([Type.Literal('waiting'), Type.Literal('demand'), Type.Literal('minimum'), Type.Literal('seed')]),
    seed: Type.Optional(Type.Literal(true)),
  },
  strict,
);
/** Fetch a snapshot from the node that has it. */
export const PullJob = Type.Object({ workload: Name, digest: Digest, from: Name }, strict);
/** Checkpoint an instance with its state and end it; the slot is `suspended`. */
export const SuspendJob = Type.Object({ slot: Name, parks: Type.Integer({ minimum: 0 }) }, strict);
/** End what is in the slot. */
export const RemoveJob = Type.Object(
  {
    slot: Name,
    parks: Type.Integer({ minimum: 0 }),
    /** Park the slot again, which is only for one that was restored; else slot and container go. */
    park: Type.Boolean(),
    why: Type.Union([Type.Literal('idle'), Type.Literal('surplus'), Type.Literal('failed')]),
  },
  strict,
);

/** How often a job is tried, how long one try may take, and its priority (BullMQ's: 1 is most urgent). */
export type JobRules = { readonly attempts: number; readonly deadlineMs: number; readonly priority: number };

/** A request that waits comes before what is done ahead of time, and that before what only brings a snapshot nearer. */
export const JOBS = {
  restore: { schema: RestoreJob, attempts: 1, deadlineMs: 180_000, priority: 2 },
  remove: { schema: RemoveJob, attempts: 3, deadlineMs: 60_000, priority: 3 },
  suspend: { schema: SuspendJob, attempts: 2, deadlineMs: 120_000, priority: 3 },
  park: { schema: ParkJob, attempts: 2, deadlineMs: 60_000, priority: 4 },
  warm: { schema: WarmJob, attempts: 1, deadlineMs: 600_000, priority: 5 },
  pull: { schema: PullJob, attempts: 3, deadlineMs: 300_000, priority: 6 },
} as const;

/** Of a restore that a request waits for. */
export const WAITING_PRIORITY = 1;

export type JobName = keyof typeof JOBS;
export type JobData = { readonly [N in JobName]: Static<(typeof JOBS)[N]['schema']> };
/** One job with its name. */
export type Job = { readonly [N in JobName]: { readonly name: N; readonly data: JobData[N] } }[JobName];

/** The id of a job: what it does. BullMQ takes no `:` in it. */
export function jobId({ name, data }: Job): string {
  switch (name) {
    case 'warm':
      return `warm.${data.workload}`;
    case 'pull':
      return `pull.${data.digest}`;
    case 'park':
      return `park.${data.slot}`;
    default:
      return `${name}.${data.slot}.${data.parks}`;
  }
}

export function priorityOf(job: Job): number {
  return job.name === 'restore' && job.data.why === 'waiting' ? WAITING_PRIORITY : JOBS[job.name].priority;
}
