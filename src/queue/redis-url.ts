import type { RedisOptions } from 'ioredis';
import { RekindleError } from '../lib/errors.ts';

type Address = { readonly host: string; readonly port: number };

/** Where Redis is, as ioredis wants it. `name` is for logs: it never holds the password. */
export type RedisTarget = { readonly name: string } & (
  | { readonly kind: 'single'; readonly options: Options }
  | { readonly kind: 'cluster'; readonly nodes: readonly Address[]; readonly options: Options }
);

type Options = Omit<RedisOptions, 'replyMapping'>;

const FORMS =
  'redis://[[USER]:PASSWORD@]HOST[:PORT][/DB], rediss://… for TLS, unix:/PATH[?db=DB], redis+sentinel://[[USER]:PASSWORD@]HOST[:PORT],…/MASTER[/DB], redis+cluster://[[USER]:PASSWORD@]HOST[:PORT],…';

/** Reads a REDIS_URL. Throws `config_invalid`, which says what forms there are and does not repeat a password. */
export function parseRedisUrl(url: string): RedisTarget {
  const socket = /^(?:unix:)?(\/[^?]*)(?:\?db=(\d+))?$/.exec(url);
  if (socket !== null) {
    const [, path = '', db] = socket;
    if (Buffer.byteLength(path) > MAX_SOCKET_BYTES) throw invalid(`the path of the socket is longer than ${MAX_SOCKET_BYTES} bytes`);
    return { name: `unix:${path}`, kind: 'single', options: { path, ...database(db) } };
  }
  const parts = /^(rediss?)(\+sentinel|\+cluster)?:\/\/(?:([^@/]*)@)?([^/?@]+)((?:\/[^/?]*)*)$/.exec(url);
  if (parts === null) throw invalid('it is none of the forms there are');
  const [, scheme = '', mode, login, hosts = '', path = ''] = parts;
  const tls = scheme === 'rediss';
  const addresses = hosts.split(',').map((text) => address(text, mode === '+sentinel' ? 26_379 : 6_379));
  const rest = path.split('/').filter((step) => step !== '');
  const name = `${scheme}${mode ?? ''}://${hosts}${path}`;
  const common = { ...credentials(login), ...(tls ? { tls: {} } : {}) };
  if (mode === '+cluster') {
    if (rest.length > 0) throw invalid('a cluster has no databases: leave out what follows the hosts');
    return { name, kind: 'cluster', nodes: addresses, options: common };
  }
  if (mode === '+sentinel') {
    const [master, db, ...more] = rest;
    if (master === undefined || more.length > 0) throw invalid('after the sentinels comes the name of the master, and perhaps a database');
    const options = { ...common, sentinels: addresses, name: decoded(master), enableTLSForSentinelMode: tls, ...database(db) };
    return { name, kind: 'single', options };
  }
  const [first, ...others] = addresses;
  if (first === undefined || others.length > 0) throw invalid('several hosts are for redis+sentinel and redis+cluster');
  if (rest.length > 1) throw invalid('after the host comes the number of a database at most');
  return { name, kind: 'single', options: { ...common, ...first, ...database(rest[0]) } };
}

/** unix(7). */
const MAX_SOCKET_BYTES = 107;

function address(text: string, defaultPort: number): Address {
  const [, host, port] = /^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?$/.exec(text) ?? [];
  if (host === undefined) throw invalid(`\`${text}\` is not HOST or HOST:PORT`);
  const number = port === undefined ? defaultPort : Number(port);
  if (number < 1 || number > 65_535) throw invalid(`${number} is not a port`);
  return { host: host.replace(/^\[|\]$/g, ''), port: number };
}

function credentials(login: string | undefined): { username?: string; password?: string } {
  if (login === undefined || login === '') return {};
  const colon = login.indexOf(':');
  if (colon < 0) throw invalid('a password is written :PASSWORD@ or USER:PASSWORD@');
  const username = decoded(login.slice(0, colon));
  return { password: decoded(login.slice(colon + 1)), ...(username === '' ? {} : { username }) };
}

function database(text: string | undefined): { db?: number } {
  if (text === undefined) return {};
  if (!/^\d{1,5}$/.test(text)) throw invalid(`\`${text}\` is not the number of a database`);
  return { db: Number(text) };
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw invalid('a % in names and passwords is written %25');
  }
}

function invalid(problem: string): RekindleError {
  return new RekindleError('config_invalid', `the URL of Redis: ${problem}. Forms: ${FORMS}`);
}
