import { readFileSync } from 'node:fs';
import type { RequestOptions } from 'node:https';
import { KubeConfig, Watch } from '@kubernetes/client-node';
import { Agent, request } from 'undici';
import type { Clock } from '../lib/clock.ts';
import { RekindleError } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';
import type { Cluster, Followed, KubeObject, ObjectName, PatchHow, Selection } from './cluster.ts';
import type { Kind } from './kinds.ts';

export type KubeDeps = { readonly clock: Clock; readonly log: Log };

/** The server's own limit for requests is a minute; ours must not hold up a restore's report for so long. */
const TIMEOUT_MS = 10_000;
const BACKOFF_MIN_MS = 100;
const BACKOFF_MAX_MS = 5_000;
/** Where a pod finds its own service account (https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/). */
const SERVICE_ACCOUNT = '/var/run/secrets/kubernetes.io/serviceaccount';
const PATCH_TYPES = {
  merge: 'application/merge-patch+json',
  json: 'application/json-patch+json',
  strategic: 'application/strategic-merge-patch+json',
} as const satisfies Record<PatchHow, string>;

/** {@link Cluster} of a real API server: that of the pod's own cluster, or of KUBECONFIG. */
export class Kube implements Cluster {
  readonly #config: KubeConfig;
  readonly #deps: KubeDeps;
  #agent: { readonly agent: Agent; readonly made: string } | undefined;

  private constructor(config: KubeConfig, deps: KubeDeps) {
    this.#config = config;
    this.#deps = deps;
  }

  /** Throws `config_invalid` when neither a service account nor a kubeconfig is there. */
  static open(deps: KubeDeps, kubeconfig?: string, context?: string): Kube {
    const config = new KubeConfig();
    try {
      if (kubeconfig !== undefined) config.loadFromFile(kubeconfig);
      else config.loadFromDefault();
    } catch (cause) {
      throw new RekindleError('config_invalid', `the kubeconfig cannot be read: ${String(cause)}. Set KUBECONFIG to one that can`, {
        cause,
      });
    }
    if (context !== undefined) {
      const contexts = config.getContexts().map(({ name }) => name);
      if (!contexts.includes(context))
        throw new RekindleError('config_invalid', `the kubeconfig has no context ${context}: it has ${contexts.join(', ') || 'none'}`);
      config.setCurrentContext(context);
    }
    const server = config.getCurrentCluster()?.server;
    if (server === undefined)
      throw new RekindleError('config_invalid', 'the kubeconfig names no cluster: choose one by `kubectl config use-context`');
    // What the library takes when it finds nothing; no API server of today answers there.
    if (kubeconfig === undefined && server === 'http://localhost:8080')
      throw new RekindleError('config_invalid', 'there is neither a kubeconfig nor the service account of a pod: set KUBECONFIG');
    return new Kube(config, deps);
  }

  /** The namespace of the pod that this process is in, or of the kubeconfig's context. */
  get namespace(): string {
    try {
      return readFileSync(`${SERVICE_ACCOUNT}/namespace`, 'utf8').trim();
    } catch {
      return this.#config.getContextObject(this.#config.getCurrentContext())?.namespace ?? 'default';
    }
  }

  async minorVersion(signal: AbortSignal): Promise<number> {
    const version = await this.raw('/version', signal);
    const minor = typeof version === 'object' && version !== null ? String(Reflect.get(version, 'minor')) : '';
    const digits = /^\d+/.exec(minor)?.[0];
    if (digits === undefined)
      throw new RekindleError('cluster_unavailable', `the API server does not say its version: ${JSON.stringify(version)}`);
    return Number(digits);
  }

  async get<T extends KubeObject>(kind: Kind<T>, at: ObjectName, signal: AbortSignal): Promise<T | undefined> {
    return this.#ask('GET', pathOf(kind, at), signal);
  }

  async list<T extends KubeObject>(kind: Kind<T>, where: Selection, signal: AbortSignal): Promise<readonly T[]> {
    return (await this.#list(kind, where, signal)).items;
  }

  async create<T extends KubeObject>(kind: Kind<T>, object: T, signal: AbortSignal): Promise<T> {
    const namespace = object.metadata?.namespace;
    return must(await this.#ask<T>('POST', collection(kind, namespace), signal, typed(kind, object)), `no such namespace: ${namespace}`);
  }

  async replace<T extends KubeObject>(kind: Kind<T>, object: T, signal: AbortSignal): Promise<T> {
    const { name = '', namespace } = object.metadata ?? {};
    const path = pathOf(kind, { name, namespace });
    return must(await this.#ask<T>('PUT', path, signal, typed(kind, object)), `there is no ${kind.kind} ${name} to replace`);
  }

  async patch<T extends KubeObject>(
    kind: Kind<T>,
    at: ObjectName & { readonly subresource?: string },
    patch: unknown,
    how: PatchHow,
    signal: AbortSignal,
  ): Promise<T | undefined> {
    const path = `${pathOf(kind, at)}${at.subresource === undefined ? '' : `/${at.subresource}`}`;
    return this.#ask('PATCH', path, signal, patch, PATCH_TYPES[how]);
  }

  async remove<T extends KubeObject>(kind: Kind<T>, at: ObjectName & { readonly uid?: string }, signal: AbortSignal): Promise<void> {
    const options = { propagationPolicy: 'Background', ...(at.uid === undefined ? {} : { preconditions: { uid: at.uid } }) };
    await this.#ask('DELETE', pathOf(kind, at), signal, options);
  }

  raw(path: string, signal: AbortSignal): Promise<unknown> {
    return this.#ask<unknown>('GET', path, signal);
  }

  follow<T extends KubeObject>(
    kind: Kind<T>,
    where: Selection,
    changed: (object: T | undefined) => void,
    signal: AbortSignal,
  ): Followed<T> {
    const synced = Promise.withResolvers<void>();
    // Whoever follows for ever may not wait for it.
    synced.promise.catch(() => undefined);
    const copy: Copy<T> = { objects: new Map(), connected: false, changed, synced: synced.resolve };
    void this.#keep(kind, where, copy, signal).then(() => synced.reject(signal.reason));
    return {
      synced: synced.promise,
      get connected() {
        return copy.connected;
      },
      items: () => [...copy.objects.values()],
      get: (name, namespace) => copy.objects.get(keyOf({ metadata: { name, ...(namespace === undefined ? {} : { namespace }) } })),
    };
  }

  async #keep<T extends KubeObject>(kind: Kind<T>, where: Selection, copy: Copy<T>, signal: AbortSignal): Promise<void> {
    const { clock, log } = this.#deps;
    let pauseMs = 0;
    while (!signal.aborted) {
      try {
        if (pauseMs > 0) await clock.sleep(pauseMs, signal);
        const { items, version } = await this.#list(kind, where, signal);
        copy.objects = new Map(items.map((object) => [keyOf(object), object]));
        if (!copy.connected && pauseMs > 0) log.info({ kind: kind.plural }, 'objects are followed again');
        copy.connected = true;
        pauseMs = 0;
        copy.synced();
        copy.changed(undefined);
        await this.#watch(kind, where, version, copy, signal);
      } catch (err) {
        if (signal.aborted) return;
        if (copy.connected || pauseMs === 0) log.warn({ err, kind: kind.plural }, 'objects cannot be followed');
        copy.connected = false;
        pauseMs = Math.min(BACKOFF_MAX_MS, Math.max(BACKOFF_MIN_MS, 2 * pauseMs));
      }
    }
  }

  /** Takes changes until the watch ends: silently, as it does every now and then, or with an error; either way the objects are listed anew. */
  async #watch<T extends KubeObject>(kind: Kind<T>, where: Selection, version: string, copy: Copy<T>, signal: AbortSignal): Promise<void> {
    let from = version;
    while (!signal.aborted) {
      const { promise, resolve, reject } = Promise.withResolvers<'again' | 'list'>();
      const take = (phase: string, object: T & KubeObject): void => {
        from = object.metadata?.resourceVersion ?? from;
        if (phase === 'ERROR') return resolve('list');
        if (phase === 'BOOKMARK') return;
        if (phase === 'DELETED') copy.objects.delete(keyOf(object));
        else copy.objects.set(keyOf(object), object);
        copy.changed(object);
      };
      const done = (error: unknown): void => {
        // A quiet watch is ended by the library; where it was is where the next begins.
        if (error === null || (error instanceof Error && error.name === 'TimeoutError')) resolve('again');
        else reject(error instanceof Error ? error : new Error(String(error)));
      };
      const query = { ...queryOf(where), resourceVersion: from, allowWatchBookmarks: true };
      const watch = await new Watch(this.#config).watch(`/${collection(kind, where.namespace)}`, query, take, done);
      const stop = () => {
        watch.abort();
        resolve('again');
      };
      signal.addEventListener('abort', stop, { once: true });
      // While it was being opened.
      if (signal.aborted) stop();
      try {
        if ((await promise) === 'list') return;
      } finally {
        signal.removeEventListener('abort', stop);
        watch.abort();
      }
    }
  }

  async #list<T extends KubeObject>(
    kind: Kind<T>,
    where: Selection,
    signal: AbortSignal,
  ): Promise<{ items: readonly T[]; version: string }> {
    const query = new URLSearchParams(queryOf(where)).toString();
    const list = await this.#ask<{ items?: T[]; metadata?: { resourceVersion?: string } }>(
      'GET',
      `${collection(kind, where.namespace)}${query === '' ? '' : `?${query}`}`,
      signal,
    );
    // In lists the server leaves out what the list says of all.
    return { items: (list?.items ?? []).map((object) => typed(kind, object)), version: list?.metadata?.resourceVersion ?? '' };
  }

  /** Undefined for 404. */
  async #ask<T>(
    method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE',
    path: string,
    signal: AbortSignal,
    body?: unknown,
    type = 'application/json',
  ): Promise<T | undefined> {
    const url = `${this.#config.getCurrentCluster()?.server.replace(/\/$/, '')}/${path.replace(/^\//, '')}`;
    try {
      const { dispatcher, headers } = await this.#connection();
      const answer = await request(url, {
        method,
        headers: { ...headers, accept: 'application/json', ...(body === undefined ? {} : { 'content-type': type }) },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
        dispatcher,
        signal: AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT_MS)]),
      });
      const text = await answer.body.text();
      if (answer.statusCode === 404) return undefined;
      if (answer.statusCode >= 300) throw refusal(method, path, answer.statusCode, text);
      return JSON.parse(text) as T;
    } catch (cause) {
      signal.throwIfAborted();
      if (cause instanceof RekindleError) throw cause;
      const why = cause instanceof Error ? cause.message : String(cause);
      throw new RekindleError('cluster_unavailable', `the API server does not answer ${method} /${path.replace(/^\//, '')}: ${why}`, {
        cause,
        retryable: true,
      });
    }
  }

  /** Connections that are kept open, and who we say we are: the service account's token is read again when it has been renewed. */
  async #connection(): Promise<{ readonly dispatcher: Agent; readonly headers: Record<string, string> }> {
    const options: RequestOptions = {};
    await this.#config.applyToHTTPSOptions(options);
    const { ca, cert, key, passphrase, rejectUnauthorized, servername, headers = {} } = options;
    const tls = { ca, cert, key, passphrase, rejectUnauthorized, servername };
    const made = JSON.stringify(tls);
    if (this.#agent?.made !== made) {
      void this.#agent?.agent.close();
      const connect = Object.fromEntries(Object.entries(tls).filter(([, value]) => value !== undefined));
      this.#agent = { agent: new Agent({ connect }), made };
    }
    const own = Object.entries(headers).map(([name, value]) => [name, String(value)] as const);
    return { dispatcher: this.#agent.agent, headers: Object.fromEntries(own) };
  }
}

type Copy<T> = {
  objects: Map<string, T>;
  connected: boolean;
  readonly changed: (object: T | undefined) => void;
  readonly synced: () => void;
};

function keyOf({ metadata }: KubeObject): string {
  return `${metadata?.namespace ?? ''}/${metadata?.name ?? ''}`;
}

function collection<T>({ path, plural, namespaced }: Kind<T>, namespace: string | undefined): string {
  return namespaced && namespace !== undefined ? `${path}/namespaces/${encodeURIComponent(namespace)}/${plural}` : `${path}/${plural}`;
}

function pathOf<T>(kind: Kind<T>, { name, namespace }: ObjectName): string {
  return `${collection(kind, namespace)}/${encodeURIComponent(name)}`;
}

function queryOf({ labels, fields }: Selection): Record<string, string> {
  return { ...(labels === undefined ? {} : { labelSelector: labels }), ...(fields === undefined ? {} : { fieldSelector: fields }) };
}

function typed<T>({ apiVersion, kind }: Kind<T>, object: T): T {
  return { apiVersion, kind, ...object };
}

function must<T>(answer: T | undefined, message: string): T {
  if (answer === undefined) throw new RekindleError('not_found', message);
  return answer;
}

function refusal(method: string, path: string, status: number, text: string): RekindleError {
  let message = text.slice(0, 500);
  try {
    const parsed: unknown = JSON.parse(text);
    if (typeof parsed === 'object' && parsed !== null && 'message' in parsed) message = String(parsed.message);
  } catch {
    // A proxy's page; its beginning says enough.
  }
  // A patch that names a uid is meant for that object only; of another with its name the server says that a uid cannot be changed.
  const isOther = status === 422 && message.includes(' is invalid: metadata.uid: ');
  if (status === 409 || isOther) return new RekindleError('conflict', message, { retryable: !isOther });
  const what = `the API server refused ${method} /${path.split('?')[0]} (${status}): ${message}`;
  return new RekindleError('cluster_unavailable', what, { retryable: status >= 500 || status === 429 });
}
