import { randomUUID } from 'node:crypto';
import type { Clock } from '../lib/clock.ts';
import type { RedisConnections } from './redis.ts';

/** A node that ends in the middle of a seed leaves the kind to others after so long. */
const LEASE_MS = 15_000;
const RENEW_EVERY_MS = 4_000;
/** ARGV: token, ms. */
const RENEW = `if redis.pcall('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end`;
const RELEASE = `if redis.pcall('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end`;

/**
 * The right to make the seed of a kind in a compatibility class, among all nodes of a service. Undefined while another node has it. Where Redis does not
 * answer everybody has it: a second seed only costs a checkpoint. Disposing gives it back.
 */
export async function claimSeed(
  deps: { readonly redis: Pick<RedisConnections, 'prompt' | 'up'>; readonly clock: Clock },
  kind: { readonly machineClass: string; readonly specHash: string },
): Promise<AsyncDisposable | undefined> {
  const { redis, clock } = deps;
  const key = `{rekindle}:seed:${kind.machineClass}:${kind.specHash}`;
  const token = randomUUID();
  const free: AsyncDisposable = { [Symbol.asyncDispose]: async () => undefined };
  if (!redis.up) return free;
  let taken: string | null;
  try {
    taken = await redis.prompt.set(key, token, 'PX', LEASE_MS, 'NX');
  } catch {
    return free;
  }
  if (taken === null) return undefined;
  const ended = new AbortController();
  const renewing = (async () => {
    for (;;) {
      await clock.sleep(RENEW_EVERY_MS, ended.signal);
      await redis.prompt.eval(RENEW, 1, key, token, LEASE_MS).catch(() => undefined);
    }
  })().catch(() => undefined);
  return {
    [Symbol.asyncDispose]: async () => {
      ended.abort();
      await renewing;
      await redis.prompt.eval(RELEASE, 1, key, token).catch(() => undefined);
    },
  };
}
