import { rm, rmdir } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import type { Config } from '../config.ts';
import { systemClock } from '../lib/clock.ts';
import { RekindleError } from '../lib/errors.ts';
import { type Service, startService } from '../lib/exec.ts';
import { parseSubnet } from '../local/addresses.ts';
import { RedisServer } from '../queue/redis-server.ts';
import { parseRedisUrl } from '../queue/redis-url.ts';
import { age, type Context, say } from './context.ts';
import { agentRuns, openMachine, removeRunDir } from './engine.ts';
import { type Listen, listenText } from './listen.ts';
import { type Supervised, supervise } from './supervise.ts';

export type LocalServiceOptions = {
  /** rekindle.yaml. */
  readonly file: string;
  readonly listen: Listen;
  /** Agents, each with containers and snapshots of its own, as if they were so many machines. */
  readonly nodes: number;
  /** Where the scaler tells health and metrics; the agents do at the ports after it. */
  readonly metrics?: Listen;
  /** Instances stay when the service ends. */
  readonly keep?: boolean;
  /** Told of every start of a role. */
  readonly onStart?: (role: string, pid: number | undefined) => void;
};

/** A service that answers. */
export type LocalService = AsyncDisposable & {
  /** Of the gateway. */
  readonly url: string;
  /** Without a password. */
  readonly redis: string;
  readonly nodes: readonly string[];
};

/** Longer than the roles' own time to finish what runs. */
export const GRACE_MS = 40_000;
const READY_MS = 60_000;
const LOOK_EVERY_MS = 50;
const CLI = join(import.meta.dirname, '..', 'cli.ts');

/** Where the redis-server of a service on this machine listens. */
export const redisSocket = ({ runDir }: Pick<Config, 'runDir'>): string => join(redisDir(runDir), 'redis.sock');
const redisDir = (runDir: string): string => join(runDir, 'redis');

/**
 * Starts the whole service on this machine, each role in a process of its own that is started again when it ends; resolves when it answers. With
 * a `redisUrl` other machines may take part; else it has a redis-server of its own. Throws `usage` when a gateway answers there already.
 *
 * Disposing stops, in this order: the gateway, which finishes requests; the scaler; the agents, which finish restores; then the instances of the
 * pools, unless they are to be kept; redis-server last.
 */
export async function openService(context: Context, options: LocalServiceOptions): Promise<LocalService> {
  const { config, log, signal } = context;
  const nodes = nodesOf(config, options.nodes);
  const { host, port } = options.listen;
  if (await isReady(options.listen))
    throw new RekindleError('usage', `a gateway answers at ${host}:${port} already: is rekindle up? Choose another --listen`);
  await using stack = new AsyncDisposableStack();
  const deps = {
    clock: systemClock,
    onStart: (role: string, pid: number | undefined) => options.onStart?.(role, pid),
    onEnd: (role: string, why: string, againInMs: number) => say(`${role}: ended unasked, started again in ${againInMs} ms: ${why}`),
  };
  const keep = (role: string, start: () => Promise<Service> | Service): Supervised => {
    const supervised = supervise(role, start, deps);
    stack.defer(() => supervised.stop(GRACE_MS));
    return supervised;
  };
  stack.defer(() => (options.keep ? undefined : removeRunDirs(context, nodes)));
  // The directory of the socket is on the tmpfs that openMachine mounts.
  for (const { config: own } of nodes) await openMachine(own, log);
  if (config.redisUrl === undefined) keep('redis', () => startRedis(redisDir(config.runDir)));
  const redis = config.redisUrl ?? `unix:${redisSocket(config)}`;
  stack.defer(() => (options.keep ? undefined : removePools(context, nodes)));
  const role = (name: string, args: readonly string[], env: Readonly<Record<string, string>> = {}): void => {
    keep(name, () =>
      startService(process.execPath, [CLI, ...args], { env: { ...inherited(config, redis), ...env }, ownGroup: true, passStderr: true }),
    );
  };
  const metrics = (i: number): string[] =>
    options.metrics === undefined ? [] : ['--listen', listenText({ ...options.metrics, port: options.metrics.port + i })];
  for (const [i, node] of nodes.entries())
    role(`agent ${node.name}`, ['agent', '--node', node.name, ...metrics(i + 1)], environmentOf(node.config));
  role('scaler', ['scaler', '--file', options.file, ...metrics(0)]);
  role('gateway', ['gateway', '--listen', listenText(options.listen)]);
  await untilReady(options.listen, signal);
  const whole = stack.move();
  return {
    url: `http://${host.includes(':') ? `[${host}]` : host}:${port}`,
    redis: parseRedisUrl(redis).name,
    nodes: nodes.map(({ name }) => name),
    [Symbol.asyncDispose]: () => whole.disposeAsync(),
  };
}

type Node = { readonly name: string; readonly config: Config };

/** Several have directories, a bridge and a part of the subnet of their own. */
function nodesOf(config: Config, count: number): Node[] {
  const own =
    hostname()
      .replace(/[^A-Za-z0-9._-]/g, '-')
      .replace(/^[^A-Za-z0-9]+/, '') || 'node';
  if (count === 1) return [{ name: own, config }];
  const { base, prefix } = parseSubnet(config.subnet);
  const bits = prefix + Math.ceil(Math.log2(count));
  if (bits > 28) throw new RekindleError('usage', `${config.subnet} is too small for ${count} nodes: give a larger REKINDLE_SUBNET`);
  return Array.from({ length: count }, (_, i) => {
    const address = base + i * 2 ** (32 - bits);
    const subnet = `${[24, 16, 8, 0].map((shift) => (address >>> shift) & 255).join('.')}/${bits}`;
    const name = `${own}-${i + 1}`;
    const bridge = `${config.bridge.slice(0, 12)}-${i + 1}`;
    return {
      name,
      config: { ...config, stateDir: join(config.stateDir, 'nodes', String(i + 1)), runDir: `${config.runDir}-${i + 1}`, bridge, subnet },
    };
  });
}

function inherited(config: Config, redis: string): Record<string, string> {
  const env: Record<string, string> = { REDIS_URL: redis, REKINDLE_LOG: config.logLevel, ...environmentOf(config) };
  if (config.token !== undefined) env.REKINDLE_TOKEN = config.token;
  return env;
}

function environmentOf({ stateDir, runDir, buildDir, bridge, subnet, runtime }: Config): Record<string, string> {
  return {
    REKINDLE_STATE_DIR: stateDir,
    REKINDLE_RUN_DIR: runDir,
    REKINDLE_BUILD_DIR: buildDir,
    REKINDLE_BRIDGE: bridge,
    REKINDLE_SUBNET: subnet,
    ...(runtime === undefined ? {} : { REKINDLE_RUNTIME: runtime }),
    // Halves the time until a role begins.
    NODE_COMPILE_CACHE: join(buildDir, 'compiled'),
  };
}

async function startRedis(dir: string): Promise<Service> {
  // Ctrl-C at the terminal is for us only: it ends last.
  const apart: typeof startService = (program, args, options) => startService(program, args, { ...options, ownGroup: true });
  const server = await RedisServer.start(dir, { startService: apart, clock: systemClock });
  return { pid: server.pid, ended: server.ended, kill: (signal) => server.pid !== undefined && process.kill(server.pid, signal) };
}

/** What the pools had: their containers, and where nothing else runs what was made for them. Snapshots and images stay. */
async function removePools({ log }: Context, nodes: readonly Node[]): Promise<void> {
  for (const { config } of nodes) {
    const { host } = await openMachine(config, log);
    const containers = await host.list();
    await Promise.all(containers.filter(({ pool }) => pool !== undefined).map(({ uid }) => host.remove(uid, { graceMs: 2_000 })));
    if (containers.every(({ pool }) => pool !== undefined)) await host.removeAll();
  }
}

/** Once redis-server, whose socket is in one of them, has ended. */
async function removeRunDirs({ config: own, log }: Context, nodes: readonly Node[]): Promise<void> {
  for (const { config } of nodes) {
    const { host } = await openMachine(config, log);
    if ((await host.list()).length === 0 && !(await agentRuns(host.agentSocket))) await removeRunDir(config);
  }
  if (own.redisUrl !== undefined) return;
  // Of several nodes none has its own there; somebody else may.
  await rm(redisDir(own.runDir), { recursive: true, force: true });
  await rmdir(own.runDir).catch(() => undefined);
}

async function untilReady(listen: Listen, signal: AbortSignal): Promise<void> {
  const until = systemClock.now() + READY_MS;
  while (!(await isReady(listen))) {
    if (systemClock.now() > until)
      throw new RekindleError('timeout', `the service was not ready within ${age(READY_MS)}: what its parts said stands above`);
    await systemClock.sleep(LOOK_EVERY_MS, signal);
  }
}

async function isReady({ host, port }: Listen): Promise<boolean> {
  const at = host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '[::1]' : host.includes(':') ? `[${host}]` : host;
  const answer = await fetch(`http://${at}:${port}/readyz`, { signal: AbortSignal.timeout(1_000) }).catch(() => undefined);
  await answer?.body?.cancel();
  return answer?.ok ?? false;
}
