import { Cluster, Redis } from 'ioredis';
import { errno } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';
import { parseRedisUrl, type RedisTarget } from './redis-url.ts';

export type RedisClient = Redis | Cluster;

/** Longest pause between two attempts to connect. */
const MAX_BACKOFF_MS = 1_000;
/** After this long without an answer a command has failed, where that is right. */
const COMMAND_MS = 2_000;

/**
 * The connections of one process to Redis. They never give up connecting. An outage is logged once, and so is its end; what ioredis says of
 * errors is logged as text only, since its objects hold the arguments of commands, passwords among them.
 */
export class RedisConnections implements AsyncDisposable {
  /** Without the password. */
  readonly name: string;
  readonly db: number;
  readonly #target: RedisTarget;
  readonly #log: Log;
  readonly #clients = new Set<RedisClient>();
  readonly #away = new Set<RedisClient>();
  #prompt: RedisClient | undefined;
  #isOut = false;
  #closed = false;

  constructor({ target, log }: { target: RedisTarget; log: Log }) {
    this.#target = target;
    this.#log = log.child({ component: 'redis', redis: target.name });
    this.name = target.name;
    this.db = target.options.db ?? 0;
  }

  /**
   * The connection that everything shares which neither blocks nor subscribes. Commands fail at once while Redis is away, and after
   * 2 s without an answer: what is late would be wrong by then.
   */
  get prompt(): RedisClient {
    this.#prompt ??= this.connect('prompt');
    return this.#prompt;
  }

  /** Whether the shared connection is ready. */
  get up(): boolean {
    return isReady(this.prompt);
  }

  /** One more connection, for what blocks or subscribes. `patient`: commands wait until Redis is back, as BullMQ's workers need it. */
  connect(kind: 'prompt' | 'patient' | 'subscriber'): RedisClient {
    const client = this.#create(kind);
    this.#clients.add(client);
    this.#away.add(client);
    client.on('error', (error: Error) => this.#outage(error.message));
    client.on('close', () => this.#isAway(client));
    client.on('end', () => this.#isAway(client));
    client.on('ready', () => this.#isBack(client));
    return client;
  }

  /** Ends one connection; unlike a `quit`, without waiting for a server that may be away. */
  disconnect(client: RedisClient): void {
    this.#clients.delete(client);
    this.#away.delete(client);
    client.disconnect();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    for (const client of this.#clients) client.disconnect();
  }

  #create(kind: 'prompt' | 'patient' | 'subscriber'): RedisClient {
    const patience =
      kind === 'patient'
        ? { maxRetriesPerRequest: null }
        : { maxRetriesPerRequest: 0, enableOfflineQueue: false, autoResubscribe: false, commandTimeout: COMMAND_MS };
    const retryStrategy = (times: number) => Math.min(25 * 2 ** Math.min(times, 10), MAX_BACKOFF_MS);
    const common = { ...patience, connectTimeout: COMMAND_MS, disableClientInfo: true };
    if (this.#target.kind === 'single') {
      const options: RedisTarget['options'] = { ...this.#target.options, ...common, retryStrategy };
      return new Redis(options);
    }
    const { username, password, tls } = this.#target.options;
    const redisOptions = { ...common, username, password, tls };
    return new Cluster([...this.#target.nodes], {
      redisOptions,
      enableOfflineQueue: kind === 'patient',
      clusterRetryStrategy: retryStrategy,
    });
  }

  #isAway(client: RedisClient): void {
    if (!this.#clients.has(client)) return;
    this.#away.add(client);
    this.#outage('the connection was closed');
  }

  #isBack(client: RedisClient): void {
    this.#away.delete(client);
    if (!this.#isOut || this.#away.size > 0) return;
    this.#isOut = false;
    this.#log.info('redis is back');
  }

  #outage(problem: string): void {
    if (this.#isOut || this.#closed) return;
    this.#isOut = true;
    this.#log.warn({ problem }, 'redis is away');
  }
}

/** The connections for a REDIS_URL; see {@link parseRedisUrl}. Nothing is waited for: what needs Redis says so when it is away. */
export function connectRedis({ url, log }: { url: string; log: Log }): RedisConnections {
  return new RedisConnections({ target: parseRedisUrl(url), log });
}

export function isReady(client: RedisClient): boolean {
  return client.status === 'ready';
}

/** Whether an error says no more than that Redis is away, which the connections log themselves. */
export function isAwayError(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  const said = `${errno(error) ?? ''} ${error.name} ${error.message}`;
  return /ECONN|EPIPE|ENOENT|ETIMEDOUT|Connection is closed|Stream isn't writeable|MaxRetriesPerRequest|Command timed out|LOADING/.test(
    said,
  );
}
