import { randomUUID } from 'node:crypto';
import { openGateway } from '../gateway/gateway.ts';
import { untilAborted } from '../lib/abort.ts';
import { monotonicClock, systemClock } from '../lib/clock.ts';
import { RekindleError } from '../lib/errors.ts';
import type { Metrics } from '../lib/metrics.ts';
import { connectRedis, type RedisConnections } from '../queue/redis.ts';
import { openSharedView } from '../queue/shared-view.ts';
import type { SharedView } from '../queue/truth.ts';
import { type Context, type JsonOption, print, say } from './context.ts';
import { imagesOfNodes } from './images-of-nodes.ts';
import type { Listen } from './listen.ts';
import { openMetrics, viewFacts } from './role-metrics.ts';

export type GatewayCommand = JsonOption & {
  readonly listen: Listen;
  /** Of Redis, see `parseRedisUrl`. */
  readonly redis: string;
  readonly token?: string | undefined;
  /** In a cluster: workloads have namespaces, and the webhook is served too. */
  readonly cluster?: boolean | undefined;
  /** Of the webhook. */
  readonly webhookListen?: Listen | undefined;
  /** How long requests that run may go on once the gateway is told to end. */
  readonly drainMs: number;
  /** How long whoever sends requests here may take to notice that `/readyz` says 503. */
  readonly forgetMs: number;
};

/**
 * `rekindle gateway`: the role, in the foreground until it is told to end. Then, in this order:
 *  1. `/readyz` says 503;
 *  2. `forgetMs` pass, in which whoever balances over gateways forgets this one;
 *  3. the listener closes; readers of `/events` and connections that changed their protocol are closed with a reason;
 *  4. requests that run or wait have `drainMs` to end, then they are answered 503 or cut;
 *  5. connections to instances close, in a cluster the webhook answers what it was asked, this gateway's demand is taken back from the shared view, and Redis is let go last.
 */
export async function runGateway(context: Context, command: GatewayCommand): Promise<void> {
  const { log, signal } = context;
  const { listen, token, drainMs, forgetMs } = command;
  const metrics = openMetrics('gateway');
  // Disposed in the reverse order, which is step 5.
  await using redis = connectRedis({ url: command.redis, log });
  await using view = openSharedView({ redis, log, clock: monotonicClock });
  metrics.followRedis(() => redis.up);
  metrics.followView(() => viewFacts(view.view));
  const id = `gateway-${randomUUID().slice(0, 8)}`;
  const deps = { id, view, metrics, registry: metrics.registry, log: log.child({ component: 'gateway' }) };
  await using _webhook = command.cluster ? await beginWebhook(context, command, { redis, view, metrics }) : undefined;
  await using gateway = await openGateway(deps, { listen, token, namespaced: command.cluster ?? false });
  if (command.json) print(JSON.stringify({ url: gateway.url }));
  say(`gateway: ${gateway.url} (page at /, API at /docs, requests at /invoke/WORKLOAD/PATH)`);
  await untilAborted(signal);
  say('gateway: ending; requests that run or wait are answered first');
  await gateway.stop({ forgetMs, drainMs });
}

/** Loaded only here, since the client of Kubernetes is large. */
async function beginWebhook(
  { config, log, signal }: Context,
  { webhookListen }: GatewayCommand,
  { redis, view, metrics }: { readonly redis: RedisConnections; readonly view: SharedView; readonly metrics: Metrics },
): Promise<AsyncDisposable> {
  const { namespace, slotImage, slotFiles, plainRegistries } = config;
  if (webhookListen === undefined || namespace === undefined || slotImage === undefined)
    throw new RekindleError(
      'config_invalid',
      "a gateway of a cluster needs REKINDLE_NAMESPACE, and in REKINDLE_SLOT_IMAGE the slot's image",
    );
  const [{ Kube }, { beginClusterWebhook }] = await Promise.all([import('../cluster/kube.ts'), import('./cluster-webhook.ts')]);
  const cluster = Kube.open({ clock: systemClock, log });
  const deps = { cluster, ofNodes: imagesOfNodes({ redis, view }), log: log.child({ component: 'webhook' }), onPass: metrics.passed };
  const options = { listen: webhookListen, namespace, slotImage, slotFiles, plainRegistries, configuration: 'rekindle' };
  return beginClusterWebhook(deps, options, signal);
}
