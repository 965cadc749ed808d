import { randomUUID } from 'node:crypto';
import type { Clock } from '../lib/clock.ts';
import type { Log } from '../lib/log.ts';
import { type Loop, runLoop } from '../lib/loop.ts';
import type { RedisConnections } from './redis.ts';

/** `clock` is monotonic. `key` is what is led. */
type LeaderDeps = {
  readonly redis: RedisConnections;
  readonly log: Log;
  readonly clock: Clock;
  readonly key?: string;
  readonly onChange?: () => void;
};

/** What Redis keeps a leader for after it was last heard. */
const LEASE_MS = 2_500;
const RENEW_EVERY_MS = 700;
const ASK_EVERY_MS = 250;
/** So much earlier than Redis a leader believes that its time is over. */
const MARGIN_MS = 300;
const FREE = 'free';

/**
 * Takes or renews the lease; answers whether it is ours, and for how many ms more it was promised to another. KEYS: lease. ARGV: token, ms.
 */
const CLAIM = `
local holder = redis.pcall('GET', KEYS[1])
if holder and type(holder) == 'string' and holder ~= ARGV[1] and holder ~= '${FREE}' then return {0, redis.call('PTTL', KEYS[1])} end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {1, holder == '${FREE}' and 0 or -1}`;

/** Gives it back in a way that tells it from one that was lost. ARGV: token, ms. */
const RELEASE = `if redis.pcall('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], '${FREE}', 'PX', ARGV[2]) end`;

/**
 * At most one of all that lead the same key: by a lease in Redis, renewed in time. Who cannot renew stops by its own clock before another
 * can begin. Where Redis has lost the lease (a flush), whoever takes it begins only when the time that it was seen promised to another is over.
 */
export class Leader implements AsyncDisposable {
  readonly #deps: LeaderDeps;
  readonly #log: Log;
  readonly #key: string;
  readonly #token = randomUUID();
  readonly #end = new AbortController();
  readonly #loop: Loop;
  #untilMs = Number.NEGATIVE_INFINITY;
  #othersUntilMs = Number.NEGATIVE_INFINITY;
  #said = false;

  constructor(deps: LeaderDeps) {
    this.#deps = deps;
    this.#log = deps.log.child({ component: 'leader' });
    this.#key = deps.key ?? '{rekindle}:leader';
    this.#loop = runLoop({ name: 'leader', reconcile: () => this.#pass() }, deps, this.#end.signal);
  }

  /** Whether this one may act now. */
  get leads(): boolean {
    const now = this.#deps.clock.now();
    return now < this.#untilMs && now >= this.#othersUntilMs;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#end.abort();
    await this.#loop.done;
    const led = this.leads;
    this.#untilMs = Number.NEGATIVE_INFINITY;
    if (led) await this.#deps.redis.prompt.eval(RELEASE, 1, this.#key, this.#token, LEASE_MS).catch(() => undefined);
  }

  async #pass(): Promise<{ requeueAfterMs: number }> {
    const { redis, clock } = this.#deps;
    // Counted from before it is asked for: Redis counts from later.
    const askedAtMs = clock.now();
    const answer: unknown = redis.up
      ? await redis.prompt.eval(CLAIM, 1, this.#key, this.#token, LEASE_MS).catch(() => undefined)
      : undefined;
    if (!Array.isArray(answer)) return this.#look(ASK_EVERY_MS);
    const [ours, othersMs] = answer.map(Number);
    if (ours === 1) {
      this.#untilMs = askedAtMs + LEASE_MS - MARGIN_MS;
      if (othersMs === 0) this.#othersUntilMs = Number.NEGATIVE_INFINITY;
      const waitMs = this.#othersUntilMs - clock.now();
      return this.#look(waitMs > 0 ? Math.min(waitMs, RENEW_EVERY_MS) : RENEW_EVERY_MS);
    }
    this.#untilMs = Number.NEGATIVE_INFINITY;
    this.#othersUntilMs = clock.now() + Math.max(0, othersMs ?? 0);
    return this.#look(ASK_EVERY_MS);
  }

  #look(requeueAfterMs: number): { requeueAfterMs: number } {
    const { leads } = this;
    if (leads !== this.#said) {
      this.#said = leads;
      this.#log.info(leads ? 'leads' : 'leads no more');
      this.#deps.onChange?.();
    }
    return { requeueAfterMs };
  }
}
