import { existsSync } from 'node:fs';
import type { Config } from '../config.ts';
import type { ApiNode, ApiPool } from '../gateway/schemas.ts';
import { apiView } from '../gateway/state-view.ts';
import { monotonicClock } from '../lib/clock.ts';
import { silentLog } from '../lib/log.ts';
import { connectRedis } from '../queue/redis.ts';
import { openSharedView } from '../queue/shared-view.ts';
import { megabytes, table } from './context.ts';
import { redisSocket } from './local-service.ts';

/** What the shared view says of the service. While Redis does not answer (`connected` is false) it is what was heard last, or nothing. */
export type ServiceStatus = {
  /** Without a password. */
  readonly redis: string;
  readonly connected: boolean;
  /** The scaler that leads. */
  readonly scaler?: string;
  /** Their URLs. */
  readonly gateways: readonly string[];
  readonly pools: readonly ApiPool[];
  readonly nodes: readonly ApiNode[];
};

/** So long Redis may take to answer at first: whoever asks for the status wants it at once. */
const ANSWER_MS = 1_500;

/** Reads the shared view of this machine's service as often as it is asked, and tells it nothing. */
export class ServiceReader implements AsyncDisposable {
  readonly #config: Pick<Config, 'redisUrl' | 'runDir'>;
  readonly #stack = new AsyncDisposableStack();
  #read: ((signal: AbortSignal) => Promise<ServiceStatus>) | undefined;

  constructor(config: Pick<Config, 'redisUrl' | 'runDir'>) {
    this.#config = config;
  }

  /** Null where there is no service: neither REDIS_URL is set nor has `rekindle up` a redis-server here. Takes `ANSWER_MS` at most. */
  async read(signal: AbortSignal): Promise<ServiceStatus | null> {
    if (this.#read === undefined) {
      const url = this.#url();
      if (url === undefined) return null;
      this.#read = this.#open(url);
    }
    return this.#read(signal);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#stack.disposeAsync();
  }

  #url(): string | undefined {
    if (this.#config.redisUrl !== undefined) return this.#config.redisUrl;
    const socket = redisSocket(this.#config);
    return existsSync(socket) ? `unix:${socket}` : undefined;
  }

  #open(url: string): (signal: AbortSignal) => Promise<ServiceStatus> {
    // That Redis is away is said in the status.
    const redis = this.#stack.use(connectRedis({ url, log: silentLog }));
    const shared = this.#stack.use(openSharedView({ redis, log: silentLog, clock: monotonicClock }));
    const connected = Promise.withResolvers<void>();
    const look = () => shared.connected && connected.resolve();
    this.#stack.defer(shared.onChange(look));
    const late = AbortSignal.timeout(ANSWER_MS);
    late.addEventListener('abort', () => connected.resolve(), { once: true });
    return async (signal) => {
      signal.addEventListener('abort', () => connected.resolve(), { once: true });
      await connected.promise;
      const nothing = { inFlight: 0, waiting: 0 };
      const from = { view: shared.view, connected: shared.connected, nowMs: monotonicClock.now() };
      const { pools, nodes, scaler } = apiView({ ...from, gateway: '', own: () => nothing, ownInFlight: () => 0 });
      const gateways = [...shared.view.gateways.values()].map(({ said }) => said.url).sort();
      return {
        redis: redis.name,
        connected: shared.connected,
        ...(scaler === undefined ? {} : { scaler }),
        ...{ gateways, pools, nodes },
      };
    };
  }
}

const STATES = ['live', 'cold', 'restoring', 'parked', 'suspended', 'failed'] as const;

/** A reason may quote what an application said: one line of it, and nothing that a terminal obeys. */
export function oneLine(text: string): string {
  return text.replace(/[\s\p{Cc}]+/gu, ' ');
}

/** For people, as blocks of lines. */
export function serviceText(service: ServiceStatus): string[] {
  const { redis, connected, scaler, gateways, pools, nodes } = service;
  const nobody = pools.length + nodes.length + gateways.length === 0;
  if (!connected)
    return [
      `service: Redis at ${redis} does not answer${nobody ? '' : '; what follows was heard before'}`,
      ...(nobody ? [] : tables(service)),
    ];
  if (nobody) return [`service: Redis at ${redis} answers, but no part of a service has said anything there`];
  const parts = [
    gateways.length === 0 ? 'no gateway' : `gateway ${gateways.join(', ')}`,
    scaler === undefined ? 'no scaler leads: nothing more is woken' : 'a scaler leads',
    `through ${redis}`,
  ];
  return [`service: ${parts.join('; ')}`, ...tables(service)];
}

function tables({ pools, nodes }: ServiceStatus): string[] {
  const ofPools = pools.map((pool) => [
    pool.workload,
    `${pool.desired}${pool.burst ? ' (burst)' : ''}`,
    ...STATES.map((wanted) => String(pool.slots.filter(({ state }) => state === wanted).length)),
    String(pool.inFlight),
    String(pool.waiting),
    phaseOf(pool),
  ]);
  const ofNodes = nodes.map((node) => [
    node.name,
    String(node.cores),
    String(node.slots),
    String(node.instances),
    megabytes(node.memoryBytes),
    String(node.snapshots),
    node.leaving ? 'leaving' : node.pulling > 0 ? `pulling ${node.pulling}` : 'serves',
  ]);
  const headings = ['POOL', 'DESIRED', ...STATES.map((state) => state.toUpperCase()), 'IN FLIGHT', 'WAITING', 'SNAPSHOT'];
  return [
    ofPools.length === 0 ? 'pools: none; the scaler has told no workloads yet' : table([headings, ...ofPools]),
    ofNodes.length === 0
      ? 'nodes: none; is an agent running?'
      : table([['NODE', 'CORES', 'SLOTS', 'INSTANCES', 'MEMORY', 'SNAPSHOTS', 'STATE'], ...ofNodes]),
  ];
}

/** What there is of a pool's snapshot, in words. */
export function phaseOf({ phase, digest, reason }: ApiPool): string {
  switch (phase) {
    case 'ready':
      return `ready ${digest?.slice(0, 12) ?? ''}`.trimEnd();
    case 'warming':
      return 'being made';
    case 'refused':
      return `refused: ${oneLine(reason ?? 'no reason was told')}`;
    case 'none':
      return 'none yet';
  }
}
