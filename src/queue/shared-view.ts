import type { Clock } from '../lib/clock.ts';
import type { Log } from '../lib/log.ts';
import { type Loop, runLoop } from '../lib/loop.ts';
import { isReady, type RedisClient, type RedisConnections } from './redis.ts';
import { RedisTeller } from './teller.ts';
import type { GatewayTruth, NodeTruth, ScalerTruth, SharedView, Teller, View, WorkloadTruth } from './truth.ts';
import { type Heard, ViewCopy } from './view-copy.ts';
import { channelOf, foundOf, KEYS, LOOK, TTL_MS, WORKLOADS_TTL_MS } from './view-wire.ts';

/** `clock` is monotonic. */
type ViewDeps = { readonly redis: RedisConnections; readonly log: Log; readonly clock: Clock };

const EVERY_MS = 1_000;
const RETRY_MS = 100;
/** So long after Redis came back nothing is forgotten: its owners tell it again as soon as they are connected too. */
const GRACE_MS = 3_000;

export type OpenSharedView = SharedView & AsyncDisposable;

/** Opens the shared view. Nothing is waited for: it is empty until Redis answers. */
export function openSharedView(deps: ViewDeps): OpenSharedView {
  return new RedisSharedView(deps);
}

class RedisSharedView implements OpenSharedView {
  readonly #deps: ViewDeps;
  readonly #log: Log;
  readonly #subscriber: RedisClient;
  readonly #copy = new ViewCopy();
  readonly #tellers = new Set<RedisTeller>();
  readonly #callbacks = new Set<() => void>();
  readonly #complained = new Set<string>();
  readonly #end = new AbortController();
  readonly #loop: Loop;
  #connected = false;
  #backAtMs = 0;
  #isChanged = false;

  constructor(deps: ViewDeps) {
    this.#deps = deps;
    this.#log = deps.log.child({ component: 'view' });
    const { redis, clock } = deps;
    this.#subscriber = redis.connect('subscriber');
    this.#subscriber.on('message', (_channel: string, message: string) => this.#onMessage(message));
    // Subscribed anew after every reconnection, and looked at after that: what was told in between is not missed.
    this.#subscriber.on('ready', () => {
      this.#subscriber.subscribe(channelOf(redis.db)).then(
        () => this.#loop.wake(),
        () => this.#subscriber.disconnect(true),
      );
    });
    redis.prompt.on('ready', this.#onReady);
    redis.prompt.on('close', this.#onClose);
    this.#loop = runLoop({ name: 'view', reconcile: () => this.#pass() }, { log: this.#log, clock }, this.#end.signal);
  }

  get view(): View {
    return this.#copy.view;
  }

  get connected(): boolean {
    return this.#connected;
  }

  onChange(callback: () => void): () => void {
    // Its own entry, so that the same function may be given twice.
    const entry = () => callback();
    this.#callbacks.add(entry);
    return () => this.#callbacks.delete(entry);
  }

  tellNode(truth: () => NodeTruth): Teller {
    return this.#tell(`node:${truth().name}`, truth);
  }

  tellGateway(truth: () => GatewayTruth): Teller {
    return this.#tell(`gateway:${truth().id}`, truth);
  }

  tellScaler(truth: () => ScalerTruth): Teller {
    return this.#tell('scaler', truth);
  }

  tellWorkloads(truth: () => readonly WorkloadTruth[]): Teller {
    return this.#tell('workloads', truth, { ttlMs: WORKLOADS_TTL_MS, stays: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#end.abort();
    const { redis } = this.#deps;
    redis.prompt.off('ready', this.#onReady);
    redis.prompt.off('close', this.#onClose);
    redis.disconnect(this.#subscriber);
    this.#callbacks.clear();
    await this.#loop.done;
  }

  readonly #onReady = (): void => this.#loop.wake();

  readonly #onClose = (): void => this.#isConnected(false);

  #tell(name: string, truth: () => unknown, { ttlMs, stays } = { ttlMs: TTL_MS, stays: false }): Teller {
    const { redis } = this.#deps;
    const teller = new RedisTeller({ redis, log: this.#log, name, ttlMs, truth, stays, onClose: () => this.#tellers.delete(teller) });
    this.#tellers.add(teller);
    teller.now();
    return teller;
  }

  async #pass(): Promise<{ requeueAfterMs: number }> {
    if (!isReady(this.#deps.redis.prompt)) {
      this.#isConnected(false);
      return { requeueAfterMs: EVERY_MS };
    }
    for (const teller of this.#tellers) teller.tell();
    try {
      await this.#look();
    } catch (error) {
      // Away, or it does not answer in time. Said once; the copy stays.
      if (this.#connected && this.#deps.redis.up) this.#log.warn({ problem: String(error) }, 'cannot look at the shared view');
      this.#isConnected(false);
      return { requeueAfterMs: RETRY_MS };
    }
    this.#isConnected(isReady(this.#subscriber));
    if (this.#connected && this.#copy.expire(this.#deps.clock.now(), this.#backAtMs + GRACE_MS)) this.#onChanged();
    return { requeueAfterMs: EVERY_MS };
  }

  async #look(): Promise<void> {
    const { redis, clock } = this.#deps;
    const found = foundOf(await redis.prompt.eval(LOOK, 1, KEYS.names, KEYS.prefix));
    const lacking = found.filter(({ name, begin }) => this.#copy.lacks(name, begin) && !this.#complained.has(`${name} ${begin}`));
    if (lacking.length === 0) return;
    const askedAtMs = clock.now();
    const texts = await redis.prompt.mget(lacking.map(({ name }) => `${KEYS.prefix}${name}`));
    for (const [index, { name, begin, ttlMs }] of lacking.entries()) {
      const text = texts[index];
      const ageMs = Math.max(0, (name === 'workloads' ? WORKLOADS_TTL_MS : TTL_MS) - ttlMs);
      if (typeof text === 'string' && this.#hear(name, text, askedAtMs - ageMs) === 'malformed') this.#complained.add(`${name} ${begin}`);
    }
  }

  #onMessage(message: string): void {
    const end = message.indexOf('\n');
    this.#hear(message.slice(0, Math.max(end, 0)), message.slice(end + 1), this.#deps.clock.now());
  }

  #hear(name: string, text: string, writtenAtMs: number): Heard {
    const heard = this.#copy.hear(name, text, writtenAtMs);
    if (heard === 'new') {
      this.#complained.delete(name);
      this.#onChanged();
    } else if (heard === 'malformed' && !this.#complained.has(name)) {
      // Of another version of rekindle, or not ours at all.
      if (this.#complained.size > MOST_COMPLAINTS) this.#complained.clear();
      this.#complained.add(name);
      this.#log.warn({ part: name.slice(0, 100), text: text.slice(0, 100) }, 'the shared view has a part that is malformed');
    }
    return heard;
  }

  #isConnected(yes: boolean): void {
    if (yes === this.#connected) return;
    this.#connected = yes;
    if (yes) this.#backAtMs = this.#deps.clock.now();
    this.#onChanged();
  }

  #onChanged(): void {
    if (this.#isChanged) return;
    this.#isChanged = true;
    setImmediate(() => {
      this.#isChanged = false;
      for (const callback of [...this.#callbacks]) callback();
    });
  }
}

const MOST_COMPLAINTS = 1_000;
