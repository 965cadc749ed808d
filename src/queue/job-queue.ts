import { Queue } from 'bullmq';
import type { Log } from '../lib/log.ts';
import { JOBS, type Job, jobId, priorityOf } from './jobs.ts';
import { isAwayError, type RedisConnections } from './redis.ts';

/** Of BullMQ's keys: with it a Redis cluster keeps all of them in one place. */
export const QUEUE_PREFIX = '{rekindle}';
/** Between two tries of a job. */
const RETRY_AFTER_MS = 500;

export function queueName(node: string): string {
  return `node-${node}`;
}

/** Of the queue's jobs, where BullMQ keeps them. */
export function jobKey(node: string, id: string): string {
  return `${QUEUE_PREFIX}:${queueName(node)}:${id}`;
}

/**
 * The queues of all nodes, for who fills them. Nothing waits for Redis: while it is away jobs are not queued, and whoever wants them asks
 * again by its next plan.
 */
export class JobQueues implements AsyncDisposable {
  readonly #redis: RedisConnections;
  readonly #log: Log;
  readonly #queues = new Map<string, Queue>();

  constructor({ redis, log }: { redis: RedisConnections; log: Log }) {
    this.#redis = redis;
    this.#log = log.child({ component: 'queue' });
  }

  /**
   * Queues a job for the node; one with the same id that waits or runs is left as it is. False if that could not be done, or is not certain.
   * A job that has ended is forgotten, so that the same may be asked for again.
   */
  async add(node: string, job: Job): Promise<boolean> {
    if (!this.#redis.up) return false;
    const rules = JOBS[job.name];
    const options = { jobId: jobId(job), priority: priorityOf(job), attempts: rules.attempts, backoff: RETRY_AFTER_MS };
    try {
      await this.#queue(node).add(job.name, job.data, { ...options, removeOnComplete: true, removeOnFail: true });
      return true;
    } catch (error) {
      if (!isAwayError(error)) this.#log.warn({ node, job: options.jobId, problem: String(error) }, 'cannot queue a job');
      return false;
    }
  }

  /** Whether the job waits or runs. Undefined if Redis does not say. */
  async exists(node: string, id: string): Promise<boolean | undefined> {
    if (!this.#redis.up) return undefined;
    return await this.#redis.prompt.exists(jobKey(node, id)).then(
      (count) => count > 0,
      () => undefined,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // The connection is shared and stays.
    await Promise.all([...this.#queues.values()].map((queue) => queue.close().catch(() => undefined)));
  }

  #queue(node: string): Queue {
    const known = this.#queues.get(node);
    if (known !== undefined) return known;
    const queue = new Queue(queueName(node), {
      connection: this.#redis.prompt,
      prefix: QUEUE_PREFIX,
      skipVersionCheck: true,
      skipMetasUpdate: true,
      streams: { events: { maxLen: 100 } },
    });
    queue.on('error', () => undefined); // The connection's errors, which are logged already.
    this.#queues.set(node, queue);
    return queue;
  }
}
