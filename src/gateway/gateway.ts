import type { AddressInfo } from 'node:net';
import { networkInterfaces } from 'node:os';
import { performance } from 'node:perf_hooks';
import { errno, RekindleError } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';
import type { SharedView } from '../queue/truth.ts';
import { createApi } from './api.ts';
import { Feed } from './feed.ts';
import { Guard, isLoopback } from './guard.ts';
import type { GatewayMetrics } from './metrics.ts';
import { Problems } from './problems.ts';
import { apiView } from './state-view.ts';
import { Traffic } from './traffic.ts';

export type GatewayDeps = {
  /** Of this gateway among others. */
  readonly id: string;
  readonly view: SharedView;
  readonly metrics: GatewayMetrics;
  /** Of prom-client. */
  readonly registry: { metrics(): Promise<string>; readonly contentType: string };
  readonly log: Log;
};

export type GatewayOptions = {
  /** `port` 0: any that is free. */
  readonly listen: { readonly host: string; readonly port: number };
  readonly token?: string | undefined;
  /** In a cluster: workloads are asked for by namespace and name. */
  readonly namespaced?: boolean;
};

/** A gateway that listens. */
export type Gateway = AsyncDisposable & {
  readonly url: string;
  /**
   * Ends it gracefully: `/readyz` says 503, and after `forgetMs`, in which whoever asks it can look elsewhere, nothing new is taken; requests that run or wait have
   * `drainMs` to end. Readers of events and other protocols than HTTP, which would not end by themselves, are closed.
   */
  stop(times: { readonly forgetMs: number; readonly drainMs: number }): Promise<void>;
};

/** Throws `usage` when it cannot listen there. Disposing ends it at once. */
export async function openGateway(deps: GatewayDeps, options: GatewayOptions): Promise<Gateway> {
  const { id, view, metrics, registry, log } = deps;
  const { host, port } = options.listen;
  const loopback = isLoopback(host);
  if (!loopback && options.token === undefined) {
    log.warn({ problem: `the gateway listens on ${host} without a token: everybody who reaches it may use it. Set one` }, 'no token');
  }
  await using stack = new AsyncDisposableStack();
  const wallMs = () => Date.now();
  const ending = new AbortController();
  const guard = new Guard({ token: options.token, loopback });
  const problems = new Problems({ wallMs });
  let url = '';
  let reached = '';
  const traffic = stack.use(
    new Traffic({
      id,
      url: () => reached,
      view,
      guard,
      problems,
      metrics,
      namespaced: options.namespaced ?? false,
      onReady: (instance, slot) => feed.started(instance, slot),
      onDemand: () => feed.changed(),
    }),
  );
  const { admission, instances, invoker } = traffic;
  const now = () =>
    apiView({
      view: view.view,
      connected: view.connected,
      nowMs: performance.now(),
      gateway: id,
      own: (workload) => ({ inFlight: admission.inFlight(workload), waiting: admission.waiting(workload) }),
      ownInFlight: (key) => instances.get(key)?.own ?? 0,
    });
  const feed = stack.use(new Feed({ view, problems, now, wallMs }));
  traffic.follow();
  const metricsText = async () => ({ text: await registry.metrics(), type: registry.contentType });
  const api = await createApi({ invoker, feed, guard, view, metricsText, log, ending: ending.signal });
  stack.defer(async () => {
    ending.abort();
    // Nobody is waited for here: that is what `stop` does.
    api.server.closeAllConnections();
    await api.close();
  });
  try {
    await api.listen({ host, port });
  } catch (error) {
    const why = errno(error) === 'EADDRINUSE' ? 'another program listens there' : String(error);
    throw new RekindleError('usage', `the gateway cannot listen on ${host}:${port}: ${why}. Choose another address`, { cause: error });
  }
  const own = (api.server.address() as AddressInfo).port;
  url = `http://${inUrl(host)}:${own}`;
  reached = `http://${inUrl(isWildcard(host) ? (ownAddress() ?? host) : host)}:${own}`;

  const owned = stack.move();
  return {
    url,
    async stop({ forgetMs, drainMs }) {
      ending.abort();
      if (forgetMs > 0) await new Promise((resolve) => setTimeout(resolve, forgetMs));
      feed.close(ENDING);
      invoker.closeUpgraded(ENDING);
      // Stops listening, and closes connections as they become idle.
      const closed = api.close();
      await invoker.drain(drainMs);
      api.server.closeIdleConnections();
      await Promise.race([closed, new Promise((resolve) => setTimeout(resolve, LAST_WORDS_MS))]);
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

const ENDING = 'this gateway is ending';

/** The last answers have been written; this long their clients have to read them. */
const LAST_WORDS_MS = 1_000;

function inUrl(host: string): string {
  return host.includes(':') ? `[${host}]` : host;
}

const isWildcard = (host: string): boolean => host === '0.0.0.0' || host === '::';

/** Where others find this machine or pod: its first address that is not of the loopback. */
function ownAddress(): string | undefined {
  const all = Object.values(networkInterfaces()).flatMap((some) => some ?? []);
  return all.find(({ internal, address }) => !internal && !address.startsWith('fe80:'))?.address;
}
