import { isIP } from 'node:net';
import { isAbsolute, join, relative, resolve } from 'node:path';
import { RekindleError, toRekindleError } from './lib/errors.ts';
import { parseSubnet } from './local/addresses.ts';
import { parseRedisUrl } from './queue/redis-url.ts';

/** What the environment decides. Everything else is in rekindle.yaml or on the command line. */
export type Config = {
  /** Snapshots, images, containers: survives a reboot. */
  readonly stateDir: string;
  /** Sockets, the slot's files, work of running restores; a tmpfs is mounted there. */
  readonly runDir: string;
  readonly logLevel: string;
  /** The built C programs (`slot/`, `agent/`). */
  readonly buildDir: string;
  readonly runtime: 'crun' | 'runc' | undefined;
  readonly subnet: string;
  readonly bridge: string;
  /** Redis of the service; undefined: `rekindle up` starts one of its own. */
  readonly redisUrl: string | undefined;
  /** What the gateway asks for, and `rekindle invoke` gives; undefined: nothing. */
  readonly token: string | undefined;
  /** In a cluster: this node's name and address, and the namespace that rekindle is in. */
  readonly node: string | undefined;
  readonly hostIp: string | undefined;
  readonly namespace: string | undefined;
  /** In a cluster, what the webhook gives pods: the slot's image, and whether as an image volume or copied; `auto`: as the cluster can. */
  readonly slotImage: string | undefined;
  readonly slotFiles: 'auto' | 'image' | 'copy';
  /** Registries that are asked over HTTP what images run: `HOST`, `HOST:PORT` or `ADDRESS/BITS`. */
  readonly plainRegistries: readonly string[];
};

/** Their values are not repeated in messages. */
const SECRET = ['REDIS_URL', 'REKINDLE_TOKEN'];
const LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'];
/** A unix socket's path has at most 107 bytes (unix(7)); the agent's is `slot/agent.sock.PID` below the run directory. */
const MAX_RUN_DIR_BYTES = 80;

/** Reads the REKINDLE_* variables. Throws `config_invalid` naming the one that is wrong, and what it may be. */
export function readConfig(env: Readonly<Record<string, string | undefined>>): Config {
  const read = <T>(name: string, fallback: T, parse: (value: string) => T): T => {
    const value = env[name];
    if (value === undefined || value === '') return fallback;
    try {
      return parse(value);
    } catch (error) {
      const shown = SECRET.includes(name) ? name : `${name}=${value}`;
      throw new RekindleError('config_invalid', `${shown}: ${toRekindleError(error).message}`, { cause: error });
    }
  };
  const stateDir = read('REKINDLE_STATE_DIR', '/var/lib/rekindle', containerDirectory);
  const runDir = read('REKINDLE_RUN_DIR', '/run/rekindle', runDirectory);
  if (isWithin(stateDir, runDir) || isWithin(runDir, stateDir)) {
    throw new RekindleError(
      'config_invalid',
      `REKINDLE_STATE_DIR=${stateDir} and REKINDLE_RUN_DIR=${runDir}: neither may lie in the other, since the run directory is gone after a reboot`,
    );
  }
  return {
    stateDir,
    runDir,
    logLevel: read('REKINDLE_LOG', 'warn', oneOf(LEVELS)),
    buildDir: read('REKINDLE_BUILD_DIR', join(import.meta.dirname, '..', '.build'), (path) => resolve(path)),
    runtime: read('REKINDLE_RUNTIME', undefined, oneOf<'crun' | 'runc' | undefined>(['crun', 'runc'])),
    subnet: read('REKINDLE_SUBNET', '10.87.0.0/16', subnet),
    bridge: read('REKINDLE_BRIDGE', 'rekindle0', bridgeName),
    redisUrl: read<string | undefined>('REDIS_URL', undefined, redisUrl),
    token: read<string | undefined>('REKINDLE_TOKEN', undefined, token),
    node: read<string | undefined>('REKINDLE_NODE', undefined, objectName),
    hostIp: read<string | undefined>('REKINDLE_HOST_IP', undefined, address),
    namespace: read<string | undefined>('REKINDLE_NAMESPACE', undefined, objectName),
    slotImage: read<string | undefined>('REKINDLE_SLOT_IMAGE', undefined, (value) => value),
    slotFiles: read('REKINDLE_SLOT_FILES', 'auto', oneOf(['auto', 'image', 'copy'])),
    plainRegistries: read('REKINDLE_PLAIN_REGISTRIES', [], registries),
  };
}

function oneOf<T extends string | undefined>(allowed: readonly T[]): (value: string) => T {
  return (value) => {
    const found = allowed.find((one) => one === value);
    if (found === undefined) throw new RekindleError('config_invalid', `it must be one of ${allowed.join(', ')}`);
    return found;
  };
}

/** The characters are those that mount options and the container runtime's arguments take as they are. */
function containerDirectory(value: string): string {
  if (!isAbsolute(value) || resolve(value) === '/' || /[:,\\\s]/.test(value))
    throw new RekindleError('config_invalid', 'it must be an absolute path without spaces, colons, commas and backslashes');
  return resolve(value);
}

function runDirectory(value: string): string {
  const dir = containerDirectory(value);
  if (Buffer.byteLength(dir) > MAX_RUN_DIR_BYTES)
    throw new RekindleError('config_invalid', `it may have at most ${MAX_RUN_DIR_BYTES} bytes, for the socket in it`);
  return dir;
}

function registries(value: string): readonly string[] {
  const entries = value.split(/[,\s]+/).filter((entry) => entry !== '');
  for (const entry of entries) {
    const [address = '', bits] = entry.split('/');
    const most = isIP(address) === 6 ? 128 : 32;
    const fine =
      bits === undefined ? /^[A-Za-z0-9.:[\]-]+$/.test(entry) : isIP(address) !== 0 && /^\d{1,3}$/.test(bits) && Number(bits) <= most;
    if (!fine) throw new RekindleError('config_invalid', `${entry} is neither HOST, HOST:PORT nor ADDRESS/BITS`);
  }
  return entries;
}

function subnet(value: string): string {
  parseSubnet(value);
  return value;
}

/** As the kernel wants names of interfaces: up to 15 bytes. */
function bridgeName(value: string): string {
  if (!/^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,14}$/.test(value))
    throw new RekindleError('config_invalid', 'it must be the name of a network interface: 1 to 15 letters, digits, _, - and dots');
  return value;
}

function redisUrl(value: string): string {
  parseRedisUrl(value);
  return value;
}

/** As an HTTP header holds it (RFC 6750, b64token and a little more). */
function token(value: string): string {
  if (!/^[!-~]{8,1024}$/.test(value)) throw new RekindleError('config_invalid', 'it must be 8 to 1024 printable characters without spaces');
  return value;
}

/** As Kubernetes names nodes and namespaces (RFC 1123 subdomain). */
function objectName(value: string): string {
  if (!/^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$/.test(value))
    throw new RekindleError('config_invalid', 'it must be a name of Kubernetes: lower case letters, digits, - and dots');
  return value;
}

function address(value: string): string {
  if (isIP(value) === 0) throw new RekindleError('config_invalid', 'it must be an IP address');
  return value;
}

function isWithin(inner: string, outer: string): boolean {
  const path = relative(outer, inner);
  return path === '' || (path !== '..' && !path.startsWith('../'));
}
