import { RekindleError } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';
import type { Controller } from '../lib/loop.ts';
import type { Cluster } from './cluster.ts';
import { FRONT_PROXY_CONFIG, type FrontProxy, frontProxyOf } from './front-proxy.ts';
import { API_SERVICES, CONFIG_MAPS } from './kinds.ts';

export type ApiServiceOptions = {
  /** Of the APIService: `VERSION.GROUP`. */
  readonly name: string;
  /** The Service that it must point to. */
  readonly service: { readonly namespace: string; readonly name: string };
};

export type ApiServiceDeps = {
  readonly cluster: Pick<Cluster, 'get' | 'patch'>;
  /** What the API server has to trust, as PEM. */
  readonly caBundle: () => string;
  /** Called at every look: how the API server proves itself; undefined while the APIService is not installed, or is somebody else's. */
  readonly onProxy: (proxy: FrontProxy | undefined) => void;
  readonly log: Log;
};

const LOOK_EVERY_MS = 10_000;

/**
 * Keeps an installed APIService's `caBundle`, and learns how the API server proves itself. A cluster has one server per aggregated API: where it is
 * another's, it is left alone, and nobody is believed. All replicas may do so.
 */
export class ApiServiceKeeper implements Controller {
  readonly name = 'api-service';
  readonly #deps: ApiServiceDeps;
  readonly #options: ApiServiceOptions;
  #told: string | undefined;

  constructor(deps: ApiServiceDeps, options: ApiServiceOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  async reconcile(signal: AbortSignal): Promise<{ readonly requeueAfterMs: number }> {
    const { cluster, caBundle, onProxy, log } = this.#deps;
    const { name, service } = this.#options;
    const installed = await unlessForbidden(cluster.get(API_SERVICES, { name }, signal));
    const points = installed?.spec?.service;
    const isOurs = points?.name === service.name && points.namespace === service.namespace;
    this.#tell(installed === undefined ? 'not installed' : isOurs ? 'ours' : "another's");
    if (!isOurs) {
      onProxy(undefined);
      return { requeueAfterMs: LOOK_EVERY_MS };
    }
    const config = await cluster.get(CONFIG_MAPS, FRONT_PROXY_CONFIG, signal);
    onProxy(frontProxyOf(config?.data));
    const wanted = Buffer.from(caBundle()).toString('base64');
    if (installed?.spec?.caBundle !== wanted) {
      // Only as it was seen: it may have become another's meanwhile.
      const patch = { metadata: { resourceVersion: installed?.metadata?.resourceVersion }, spec: { caBundle: wanted } };
      await cluster.patch(API_SERVICES, { name }, patch, 'merge', signal);
      log.info({ apiService: name }, 'certificate authority told to the API server');
    }
    return { requeueAfterMs: LOOK_EVERY_MS };
  }

  #tell(state: string): void {
    if (state !== this.#told) this.#deps.log.info({ apiService: this.#options.name, state }, 'aggregated API looked at');
    this.#told = state;
  }
}

/** Who may not even look has not been given the overlay that installs it. */
async function unlessForbidden<T>(asked: Promise<T | undefined>): Promise<T | undefined> {
  try {
    return await asked;
  } catch (error) {
    if (error instanceof RekindleError && error.code === 'cluster_unavailable' && !error.retryable) return undefined;
    throw error;
  }
}
