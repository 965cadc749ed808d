import type { AddressInfo } from 'node:net';
import { TLSSocket } from 'node:tls';
import fastify, { type FastifyReply, type FastifyRequest } from 'fastify';
import type { Access, Attempt } from '../cluster/access.ts';
import { type FrontProxy, type Requester, requesterOf } from '../cluster/front-proxy.ts';
import { errno, RekindleError } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';
import { parseWorkloadName } from '../workloads/kubernetes.ts';
import { parseLabelSelector } from './label-selector.ts';
import type { Loads } from './loads.ts';
import { DISCOVERY, failure, GROUP, isMetric, metricValues, OPENAPI, VERSION } from './metrics-api.ts';

/** What a server shows: PEM. */
export type ServerCertificate = { readonly key: string; readonly cert: string };

export type ExternalMetricsDeps = {
  readonly loads: Pick<Loads, 'all' | 'whyUnknown'>;
  readonly access: Pick<Access, 'may'>;
  readonly log: Log;
  /** Wall clock: values say when they are from. */
  readonly now: () => number;
};

export type ExternalMetrics = AsyncDisposable & {
  readonly url: string;
  /** For new connections. Until the first front proxy is known nobody is believed. */
  use(certificate: ServerCertificate, proxy: FrontProxy | undefined): void;
};

/** The API server's own health checks ask without a name. */
const OPEN_PATHS = new Set(['/healthz', '/livez', '/readyz']);
const BASE = `/apis/${GROUP}/${VERSION}`;
const VALUES = `${BASE}/namespaces/:namespace/:metric`;
type ValuesParams = { readonly namespace: string; readonly metric: string };

/**
 * `external.metrics.k8s.io/v1beta1` as the API server's aggregation layer asks for it, over HTTPS: only what its front proxy's certificate vouches for is
 * believed, and what that user may is asked of the API server. Throws `usage` when it cannot listen there.
 */
export async function openExternalMetrics(
  deps: ExternalMetricsDeps,
  certificate: ServerCertificate,
  listen: { readonly host: string; readonly port: number },
): Promise<ExternalMetrics> {
  const { loads, access, log, now } = deps;
  const stop = new AbortController();
  let proxy: FrontProxy | undefined;
  const server = fastify({
    logger: false,
    forceCloseConnections: true,
    bodyLimit: 1024,
    requestTimeout: 10_000,
    https: { ...certificate, requestCert: true, rejectUnauthorized: false },
  });

  server.addHook('onRequest', async (request, reply) => {
    if (OPEN_PATHS.has(request.routeOptions.url ?? '')) return undefined;
    if (request.method !== 'GET') return refuse(reply, 405, 'MethodNotAllowed', 'metrics can only be read');
    const requester = proxy && requesterOf(proxy, { commonName: commonName(request), headers: request.raw.headersDistinct });
    if (requester === undefined) return refuse(reply, 401, 'Unauthorized', 'only the API server may ask, for a user that it names');
    return authorise(requester, attemptOf(request), reply);
  });

  async function authorise(requester: Requester, attempt: Attempt, reply: FastifyReply) {
    try {
      if (await access.may(requester, attempt, stop.signal)) return undefined;
    } catch (err) {
      log.warn({ err }, 'who may read metrics cannot be asked of the API server');
      return refuse(reply, 503, 'ServiceUnavailable', 'the API server does not say who may read this');
    }
    const what = 'path' in attempt ? attempt.path : `${attempt.resource}.${GROUP} in namespace ${attempt.namespace}`;
    return refuse(reply, 403, 'Forbidden', `${requester.user} may not ${attempt.verb} ${what}`);
  }

  server.get('/healthz', async () => 'ok');
  server.get('/livez', async () => 'ok');
  server.get('/readyz', async () => 'ok');
  server.get('/apis', async () => DISCOVERY.groups);
  server.get(`/apis/${GROUP}`, async () => DISCOVERY.group);
  server.get(BASE, async () => DISCOVERY.resources);
  server.get('/openapi/v2', async () => OPENAPI.v2);
  server.get('/openapi/v3', async () => OPENAPI.v3);
  server.get<{ Params: ValuesParams; Querystring: Record<string, unknown> }>(
    VALUES,
    async ({ params: { namespace, metric }, query }, reply) => {
      if (!isMetric(metric)) return refuse(reply, 404, 'NotFound', `there is no metric ${metric}`);
      const selector = parseLabelSelector(textOf(query.labelSelector));
      if (selector === undefined || query.watch !== undefined)
        return refuse(reply, 400, 'BadRequest', `not a label selector, or not to be watched: ${textOf(query.labelSelector)}`);
      const why = loads.whyUnknown;
      if (why !== undefined) return refuse(reply, 503, 'ServiceUnavailable', why);
      const here = [...loads.all()].flatMap(([full, load]) => {
        const workload = parseWorkloadName(full);
        return workload?.namespace === namespace ? [[workload.name, load] as const] : [];
      });
      return metricValues(metric, here, selector, now());
    },
  );
  server.setNotFoundHandler((_, reply) => refuse(reply, 404, 'NotFound', 'the server could not find the requested resource'));
  server.setErrorHandler((err, _, reply) => {
    log.error({ err }, 'external metrics failed');
    return refuse(reply, 500, 'InternalError', 'this failed; the log says why');
  });

  try {
    await server.listen(listen);
  } catch (cause) {
    await server.close();
    const why = errno(cause) === 'EADDRINUSE' ? 'another program listens there' : String(cause);
    throw new RekindleError('usage', `cannot listen on ${listen.host}:${listen.port}: ${why}. Choose another address`, { cause });
  }
  const { port } = server.server.address() as AddressInfo;
  return {
    url: `https://${listen.host.includes(':') ? `[${listen.host}]` : listen.host}:${port}`,
    use: (next, nextProxy) => {
      // Sessions of before are not resumed: their client was checked against another authority.
      server.server.setSecureContext({ ...next, ...(nextProxy === undefined ? {} : { ca: nextProxy.ca }) });
      proxy = nextProxy;
    },
    [Symbol.asyncDispose]: async () => {
      stop.abort(new RekindleError('cluster_unavailable', 'this scaler is ending', { retryable: true }));
      await server.close();
    },
  };
}

function refuse(reply: FastifyReply, code: number, reason: string, message: string): FastifyReply {
  return reply.status(code).send(failure(code, reason, message));
}

/** Of the client's certificate, if the front proxy's authority signed it. */
function commonName({ raw: { socket } }: FastifyRequest): string | undefined {
  if (!(socket instanceof TLSSocket) || !socket.authorized) return undefined;
  const name: unknown = socket.getPeerCertificate().subject?.CN;
  return typeof name === 'string' ? name : undefined;
}

/** As the API server itself names it: a GET without a name is a list. From what the router made of the path, so that what is allowed is what is answered. */
function attemptOf({ routeOptions, params, url }: FastifyRequest): Attempt {
  if (routeOptions.url !== VALUES) return { verb: 'get', path: url.split('?', 1)[0] ?? '' };
  const { namespace, metric } = params as ValuesParams;
  return { verb: 'list', group: GROUP, version: VERSION, namespace, resource: metric };
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : '';
}
