/**
 * How the shared view lies in Redis. Each part has a name (`node:NAME`, `gateway:ID`, `scaler`, `workloads`) and is a string at
 * `{rekindle}:NAME`: a header `WRITER.NUMBER`, a line feed, JSON. WRITER is random per teller and NUMBER counts its texts, so that of
 * two texts that come by different ways (a message, a look) the newer is known. `{rekindle}:names` has all names with the time of the last telling.
 */
export const KEYS = { prefix: '{rekindle}:', names: '{rekindle}:names', channel: '{rekindle}:told' } as const;

export const TTL_MS = 5_000;
/** Workloads outlive their scaler in Redis: an agent that starts while none leads learns them all the same. */
export const WORKLOADS_TTL_MS = 60_000;

const HEADER_BYTES = 32;

/** Channels are the same in all databases of a server. */
export function channelOf(db: number): string {
  return db === 0 ? KEYS.channel : `${KEYS.channel}:${db}`;
}

/** Whatever else stood where the names should be goes: it would keep everybody from telling anything. */
const NAME = `
local function name(key, what)
  local now = redis.call('TIME')[1]
  local added = redis.pcall('ZADD', key, now, what)
  if type(added) == 'table' and added.err then
    redis.call('DEL', key)
    redis.call('ZADD', key, now, what)
  end
end`;

/** KEYS: part, names. ARGV: name, text, TTL in ms, channel. */
export const TELL = `${NAME}
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
name(KEYS[2], ARGV[1])
redis.call('PUBLISH', ARGV[4], ARGV[1] .. '\\n' .. ARGV[2])`;

/** As TELL for a text that is there already, and 0 if it is not. ARGV: name, header, TTL in ms. */
export const KEEP = `${NAME}
local begin = redis.pcall('GETRANGE', KEYS[1], 0, #ARGV[2])
if begin ~= ARGV[2] .. '\\n' then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
name(KEYS[2], ARGV[1])
return 1`;

/** Takes back what this writer told, and nothing of another. ARGV: name, writer, channel, header of the message. */
export const TAKE_BACK = `
local begin = redis.pcall('GETRANGE', KEYS[1], 0, #ARGV[2])
if begin ~= ARGV[2] .. '.' then return 0 end
redis.call('DEL', KEYS[1])
redis.pcall('ZREM', KEYS[2], ARGV[1])
redis.call('PUBLISH', ARGV[3], ARGV[1] .. '\\n' .. ARGV[4] .. '\\n')
return 1`;

/** All parts: name, beginning of the text, time to live. KEYS: names. ARGV: prefix. Names of parts long gone are forgotten. */
export const LOOK = `
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ${(2 * WORKLOADS_TTL_MS) / 1_000})
local found = {}
for _, name in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local begin = redis.pcall('GETRANGE', ARGV[1] .. name, 0, ${HEADER_BYTES - 1})
  local ttl = redis.call('PTTL', ARGV[1] .. name)
  if type(begin) == 'string' and ttl > 0 then found[#found + 1] = {name, begin, ttl} end
end
return found`;

export type Header = { readonly writer: string; readonly number: number };

/** Undefined if the text has none. */
export function headerOf(text: string): Header | undefined {
  const [, writer, number] = /^([0-9a-f]{12})\.(\d{1,15})\n/.exec(text.slice(0, HEADER_BYTES)) ?? [];
  return writer === undefined || number === undefined ? undefined : { writer, number: Number(number) };
}

export type Found = { readonly name: string; readonly begin: string; readonly ttlMs: number };

/** What LOOK answered. */
export function foundOf(answer: unknown): Found[] {
  if (!Array.isArray(answer)) return [];
  return answer.flatMap((row: unknown) => {
    if (!Array.isArray(row)) return [];
    const [name, begin, ttlMs]: unknown[] = row;
    return typeof name === 'string' && typeof begin === 'string' && typeof ttlMs === 'number' ? [{ name, begin, ttlMs }] : [];
  });
}
