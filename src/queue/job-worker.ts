import { type Job as QueuedJob, UnrecoverableError, Worker } from 'bullmq';
import { Value } from 'typebox/value';
import type { Clock } from '../lib/clock.ts';
import { RekindleError, toRekindleError } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';
import { Tasks } from '../lib/tasks.ts';
import { jobKey, QUEUE_PREFIX, queueName } from './job-queue.ts';
import { JOBS, type Job, type JobName } from './jobs.ts';
import { isAwayError, type RedisClient, type RedisConnections } from './redis.ts';

/** BullMQ's: a job at work is in the list `active`, its data in a hash by its id, its lock beside that. ARGV: prefix of the queue's keys. */
const FORGET_ACTIVE = `
for _, id in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do redis.call('DEL', ARGV[1] .. id, ARGV[1] .. id .. ':lock') end
redis.call('DEL', KEYS[1], ARGV[1] .. 'stalled')`;

/** Does a job. It may come twice, and obeys the signal. `progress` (0 to 1) is for who looks on. */
export type ProcessJob = (job: Job, signal: AbortSignal, progress: (done: number) => void) => Promise<void>;

export type JobWorkerDeps = {
  readonly node: string;
  readonly redis: RedisConnections;
  readonly log: Log;
  readonly clock: Clock;
  readonly process: ProcessJob;
  /**
   * Jobs at once. High: a restore that a request waits for begins at once although others pull and warm for minutes. What may not run
   * beside each other is the processor's to say.
   */
  readonly concurrency?: number;
  /** How long a job waited in the queue, by the clocks of both ends, when it begins. */
  readonly onStart?: (job: Job, waitedMs: number) => void;
  /** A try of a job has ended; `again`: another will follow. */
  readonly onEnd?: (job: Job, outcome: 'done' | 'failed' | 'again') => void;
};

const CONCURRENCY = 1_000;
/** A job whose worker says nothing for so long is given to another. */
const LOCK_MS = 6_000;
const STALLED_EVERY_MS = 2_000;
/** How often a job may be given to another worker; they may all run twice. */
const MAX_STALLED = 3;
/** A job that does not obey its signal is given up after this. */
const OBEY_MS = 5_000;
/** BullMQ waits 15 s after an error of the connection, unless told otherwise. */
const AFTER_ERROR_MS = 200;
/** For BullMQ to tell Redis of the last job: without Redis it would wait for that. */
const LAST_WORD_MS = 1_000;
/** The longest that a lost wake-up of Redis can hold up a job. */
const LOOK_EVERY_S = 2;

/**
 * Takes the jobs of one node, one worker per node. Data that does not fit its schema, and errors that are not retryable, fail the job for good. Each
 * failure is logged here, once.
 */
export class JobWorker implements AsyncDisposable {
  readonly #deps: JobWorkerDeps;
  readonly #log: Log;
  readonly #client: RedisClient;
  readonly #worker: Worker;
  readonly #end = new AbortController();
  readonly #running = new Tasks();
  #hasFailed = false;

  private constructor(deps: JobWorkerDeps) {
    this.#deps = deps;
    this.#log = deps.log.child({ component: 'worker', node: deps.node });
    this.#client = deps.redis.connect('patient');
    // BullMQ gives a signal only to processors that declare three parameters.
    this.#worker = new Worker(queueName(deps.node), (job, _token, signal) => this.#running.add(this.#run(job, signal)), {
      connection: this.#client,
      prefix: QUEUE_PREFIX,
      autorun: false,
      concurrency: deps.concurrency ?? CONCURRENCY,
      lockDuration: LOCK_MS,
      stalledInterval: STALLED_EVERY_MS,
      maxStalledCount: MAX_STALLED,
      runRetryDelay: AFTER_ERROR_MS,
      drainDelay: LOOK_EVERY_S,
      skipVersionCheck: true,
      removeOnComplete: { count: 0 },
      removeOnFail: { count: 0 },
    });
    this.#worker.on('error', (error) => this.#onError(error));
    this.#worker.on('active', () => {
      this.#hasFailed = false;
    });
  }

  /**
   * Begins to take jobs, once Redis answers; does not wait for that. Jobs that a worker of this node was at when it was killed are
   * forgotten: they would stand in the way of the same being asked for again, which happens as soon as the node tells its truth.
   */
  static start(deps: JobWorkerDeps): JobWorker {
    const worker = new JobWorker(deps);
    void worker.#begin();
    return worker;
  }

  /** Takes no more; waits for running jobs, and after `withinMs` aborts them. */
  async close(withinMs: number): Promise<void> {
    const closed = this.#worker.close().catch((error: unknown) => this.#onError(error));
    const enough = new AbortController();
    const waited = this.#deps.clock.sleep(withinMs, enough.signal).then(
      () => this.#end.abort(new RekindleError('agent_unavailable', `the agent of ${this.#deps.node} is ending`, { retryable: true })),
      () => undefined,
    );
    await Promise.race([closed, this.#untilIdle(enough.signal).catch(() => undefined)]);
    enough.abort();
    await waited;
    this.#deps.redis.disconnect(this.#client);
    void this.#worker.disconnect().catch(() => undefined);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close(0);
  }

  /** Ends, as each job does: those that do not obey are given up. */
  async #untilIdle(signal: AbortSignal): Promise<void> {
    do {
      await this.#running.settled();
      await this.#deps.clock.sleep(LAST_WORD_MS, signal);
    } while (this.#running.size > 0);
  }

  async #begin(): Promise<void> {
    try {
      await this.#client.eval(FORGET_ACTIVE, 1, jobKey(this.#deps.node, 'active'), jobKey(this.#deps.node, ''));
    } catch (error) {
      this.#onError(error);
    }
    if (!this.#end.signal.aborted) await this.#worker.run().catch((error: unknown) => this.#onError(error));
  }

  async #run(queued: QueuedJob, abandoned: AbortSignal | undefined): Promise<void> {
    const id = queued.id ?? '?';
    let job: Job | undefined;
    try {
      job = checkJob(queued.name, queued.data);
      this.#deps.onStart?.(job, Math.max(0, Date.now() - queued.timestamp));
      await this.#runWithin(job, queued, abandoned);
      this.#deps.onEnd?.(job, 'done');
    } catch (error) {
      const ours = toRekindleError(error);
      const isLast = !ours.retryable || queued.attemptsMade + 1 >= (queued.opts.attempts ?? 1);
      if (job !== undefined) this.#deps.onEnd?.(job, isLast ? 'failed' : 'again');
      // A job that is tried again has not failed yet.
      this.#log[isLast ? 'warn' : 'info']({ job: id, err: ours }, isLast ? 'job failed' : 'job will be tried again');
      throw ours.retryable ? ours : new UnrecoverableError(ours.message);
    }
  }

  async #runWithin(job: Job, queued: QueuedJob, abandoned: AbortSignal | undefined): Promise<void> {
    const { deadlineMs } = JOBS[job.name];
    const late = new AbortController();
    const signal = AbortSignal.any([late.signal, this.#end.signal, ...(abandoned === undefined ? [] : [abandoned])]);
    const done = new AbortController();
    const { clock } = this.#deps;
    const deadline = clock.sleep(deadlineMs, done.signal).then(
      () => late.abort(new RekindleError('timeout', `${queued.id} took longer than ${deadlineMs} ms`, { retryable: true })),
      () => undefined,
    );
    const disobeyed = new Promise<never>((_, reject) => {
      signal.addEventListener('abort', () => {
        clock.sleep(OBEY_MS, done.signal).then(
          () => reject(signal.reason),
          () => undefined,
        );
      });
    });
    // Progress is for who looks on: what cannot be written is not missed.
    const progress = (part: number) => void queued.updateProgress(part).catch(() => undefined);
    try {
      await Promise.race([this.#deps.process(job, signal, progress), disobeyed]);
    } catch (error) {
      throw signal.aborted ? signal.reason : error;
    } finally {
      done.abort();
      await deadline;
    }
  }

  #onError(error: unknown): void {
    if (this.#hasFailed || this.#end.signal.aborted || isAwayError(error)) return;
    this.#hasFailed = true;
    this.#log.warn({ problem: error instanceof Error ? error.message : String(error) }, 'worker stumbled');
  }
}

/** Throws `usage` saying what is wrong with a job that does not fit its schema. */
export function checkJob(name: string, data: unknown): Job {
  if (!isJobName(name)) throw new RekindleError('usage', `there is no job ${name.slice(0, 100)}`);
  const { schema } = JOBS[name];
  if (Value.Check(schema, data)) return { name, data } as Job;
  const [first] = Value.Errors(schema, data);
  throw new RekindleError('usage', `the job ${name} has wrong data: ${first?.instancePath ?? ''} ${first?.message ?? ''}`);
}

function isJobName(name: string): name is JobName {
  return Object.hasOwn(JOBS, name);
}
