import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { open, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Type } from 'typebox';
import { Value } from 'typebox/value';
import type { Clock } from '../lib/clock.ts';
import { errno, RekindleError } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';
import type { Controller } from '../lib/loop.ts';
import type { RedisConnections } from '../queue/redis.ts';

const KEY = '{rekindle}:secret';
const Secret = Type.Object({ specKey: Type.String({ pattern: '^[0-9a-f]{64}$' }), peerToken: Type.String({ pattern: '^[0-9a-f]{64}$' }) });
type Known = { readonly specKey: string; readonly peerToken: string };

const LOOK_EVERY_MS = 2_000;
const FIRST_LOOK_EVERY_MS = 200;

export type ServiceSecretDeps = {
  readonly redis: Pick<RedisConnections, 'prompt' | 'up'>;
  readonly stateDir: string;
  readonly log: Log;
  readonly clock: Clock;
};

/**
 * What the agents that share one Redis share: the key of spec hashes, so that one workload has one hash everywhere, and the token by which they fetch
 * each other's snapshots. The first agent puts it there; whoever knows it puts it there again after Redis has lost it; whoever finds another takes that.
 */
export class ServiceSecret implements Controller {
  readonly name = 'service-secret';
  readonly #deps: ServiceSecretDeps;
  #known: Known;
  #changed: () => void = () => undefined;

  private constructor(deps: ServiceSecretDeps, known: Known) {
    this.#deps = deps;
    this.#known = known;
  }

  /** An agent that was of a service before goes on with what that had; a new one waits for Redis. */
  static async open(deps: ServiceSecretDeps, signal: AbortSignal): Promise<ServiceSecret> {
    const isNew = !existsSync(join(deps.stateDir, 'spec.key'));
    const specKey = Buffer.from(await machineKey(deps.stateDir)).toString('hex');
    const before = await readKnown(deps.stateDir);
    const secret = new ServiceSecret(deps, { specKey, peerToken: before ?? randomBytes(32).toString('hex') });
    if (before !== undefined) return secret;
    while (!(await secret.#agree(isNew))) await deps.clock.sleep(FIRST_LOOK_EVERY_MS, signal);
    await secret.#write();
    return secret;
  }

  readonly specKey = (): Uint8Array => Buffer.from(this.#known.specKey, 'hex');
  readonly peerToken = (): string => this.#known.peerToken;

  /** `changed` is called when the key of spec hashes has become another. */
  onChange(changed: () => void): void {
    this.#changed = changed;
  }

  async reconcile(): Promise<{ readonly requeueAfterMs: number }> {
    const before = this.#known;
    await this.#agree();
    if (this.#known !== before) {
      await this.#write();
      if (this.#known.specKey !== before.specKey) this.#changed();
    }
    return { requeueAfterMs: LOOK_EVERY_MS };
  }

  /** False while Redis does not answer. */
  async #agree(isNew = false): Promise<boolean> {
    const { redis, log } = this.#deps;
    if (!redis.up) return false;
    let found: unknown;
    try {
      await redis.prompt.set(KEY, JSON.stringify(this.#known), 'NX');
      found = JSON.parse((await redis.prompt.get(KEY)) ?? 'null');
    } catch {
      return false; // away; that is logged where the connections are
    }
    if (!Value.Check(Secret, found))
      throw new RekindleError('config_invalid', `Redis has something else at ${KEY}: give this service a Redis of its own`);
    const { specKey, peerToken } = found;
    if (specKey === this.#known.specKey && peerToken === this.#known.peerToken) return true;
    if (specKey !== this.#known.specKey && !isNew)
      log.warn('this node takes the key of the service that it joins: snapshots that it made before fit nothing any more');
    this.#known = { specKey, peerToken };
    return true;
  }

  /** Where the machine's key is, so that commands without a service find the same snapshots. */
  async #write(): Promise<void> {
    const { stateDir } = this.#deps;
    await replace(join(stateDir, 'spec.key'), Buffer.from(this.#known.specKey, 'hex'));
    await replace(join(stateDir, 'peer.token'), this.#known.peerToken);
  }
}

/** The token of the agents that share this Redis, for what asks them; undefined before there was one, or while Redis does not answer. */
export async function readPeerToken(redis: Pick<RedisConnections, 'prompt' | 'up'>): Promise<string | undefined> {
  if (!redis.up) return undefined;
  const found: unknown = JSON.parse((await redis.prompt.get(KEY).catch(() => null)) ?? 'null');
  return Value.Check(Secret, found) ? found.peerToken : undefined;
}

/** The machine's secret behind spec hashes, 32 bytes, made once. */
export async function machineKey(stateDir: string): Promise<Uint8Array> {
  const path = join(stateDir, 'spec.key');
  try {
    const file = await open(path, 'wx', 0o600);
    await file.writeFile(randomBytes(32));
    await file.sync();
    await file.close();
  } catch (error) {
    if (errno(error) !== 'EEXIST') throw error;
  }
  return readFile(path);
}

async function readKnown(stateDir: string): Promise<string | undefined> {
  const text = await readFile(join(stateDir, 'peer.token'), 'utf8').catch(() => undefined);
  return text !== undefined && /^[0-9a-f]{64}$/.test(text) ? text : undefined;
}

async function replace(path: string, content: string | Uint8Array): Promise<void> {
  await writeFile(`${path}.new`, content, { mode: 0o600 });
  await rename(`${path}.new`, path);
}
