import { randomBytes } from 'node:crypto';
import type { Log } from '../lib/log.ts';
import { isAwayError, type RedisConnections } from './redis.ts';
import type { Teller } from './truth.ts';
import { channelOf, KEEP, KEYS, TAKE_BACK, TELL } from './view-wire.ts';

type TellerDeps = {
  readonly redis: RedisConnections;
  readonly log: Log;
  /** Of the part, see `view-wire.ts`. */
  readonly name: string;
  readonly ttlMs: number;
  readonly truth: () => unknown;
  /** Disposing does not take it back. */
  readonly stays: boolean;
  readonly onClose: () => void;
};

/** Writes one part of the shared view. One text is under way at a time: what changes meanwhile goes into the next. */
export class RedisTeller implements Teller {
  readonly #deps: TellerDeps;
  readonly #writer = randomBytes(6).toString('hex');
  #number = 0;
  #last: unknown;
  #isDue = false;
  #writing: Promise<void> | undefined;
  #again = false;
  #closed = false;
  #hasFailed = false;

  constructor(deps: TellerDeps) {
    this.#deps = deps;
  }

  now(): void {
    if (this.#isDue || this.#closed) return;
    this.#isDue = true;
    setImmediate(() => {
      this.#isDue = false;
      this.tell();
    });
  }

  /** Writes at once. A truth that is the same object as last time is only kept alive, unless Redis has lost it. */
  tell(): void {
    if (this.#closed || !this.#deps.redis.up) return;
    if (this.#writing !== undefined) {
      this.#again = true;
      return;
    }
    this.#writing = this.#write().finally(() => {
      this.#writing = undefined;
      if (!this.#again) return;
      this.#again = false;
      this.tell();
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#deps.onClose();
    await this.#writing;
    const { redis, name, stays } = this.#deps;
    if (stays || this.#number === 0) return;
    const header = `${this.#writer}.${this.#number + 1}`;
    // While Redis is away there is nothing to take back: it ends by itself.
    await redis.prompt.eval(TAKE_BACK, 2, this.#key, KEYS.names, name, this.#writer, channelOf(redis.db), header).catch(() => undefined);
  }

  get #key(): string {
    return `${KEYS.prefix}${this.#deps.name}`;
  }

  async #write(): Promise<void> {
    const { redis, name, ttlMs, truth, log } = this.#deps;
    try {
      const said = truth();
      if (said === this.#last && this.#number > 0) {
        const header = `${this.#writer}.${this.#number}`;
        if ((await redis.prompt.eval(KEEP, 2, this.#key, KEYS.names, name, header, ttlMs)) === 1) return;
      }
      this.#number += 1;
      const text = `${this.#writer}.${this.#number}\n${JSON.stringify(said)}`;
      await redis.prompt.eval(TELL, 2, this.#key, KEYS.names, name, text, ttlMs, channelOf(redis.db));
      this.#last = said;
      this.#hasFailed = false;
    } catch (err) {
      // Told again within a second. That Redis is away is logged elsewhere.
      const isAway = isAwayError(err);
      if (!isAway && !this.#hasFailed) log.error({ part: name, problem: String(err) }, 'cannot tell the shared view');
      this.#hasFailed = !isAway;
    }
  }
}
