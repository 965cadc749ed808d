import { join } from 'node:path';
import fastifyStatic from '@fastify/static';
import fastifySwagger from '@fastify/swagger';
import fastifySwaggerUi from '@fastify/swagger-ui';
import fastify, { type FastifyInstance } from 'fastify';
import { Type } from 'typebox';
import { Value } from 'typebox/value';
import { ERRORS, RekindleError, toRekindleError } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';
import type { SharedView } from '../queue/truth.ts';
import { sendBurst } from './burst.ts';
import { unknownWorkload } from './explain.ts';
import type { Feed } from './feed.ts';
import { type Guard, isForeign } from './guard.ts';
import { sendFailure } from './http-answer.ts';
import { createHttpServer } from './http-server.ts';
import type { Invoker } from './invoker.ts';
import { ApiError, ApiNode, ApiPool, ApiSnapshot, BurstAnswer, BurstRequest } from './schemas.ts';

export type ApiDeps = {
  readonly invoker: Invoker;
  readonly feed: Feed;
  readonly guard: Guard;
  readonly view: SharedView;
  /** The text of `/metrics`, and its content type. */
  readonly metricsText: () => Promise<{ readonly text: string; readonly type: string }>;
  readonly log: Log;
  /** Aborts when the gateway begins to end. */
  readonly ending: AbortSignal;
};

const PAGE = join(import.meta.dirname, 'page');
/** The page loads nothing from elsewhere, and is shown in no frame. */
const POLICY = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'";
const MAX_BODY = 64 * 1024;

const ApiWorkload = Type.Omit(ApiPool, ['slots', 'pods']);
const errors = { '4xx': ApiError, '5xx': ApiError };

/** The API, its description at `/docs`, the events and the page, on the one HTTP server. It does not listen yet. */
export async function createApi(deps: ApiDeps): Promise<FastifyInstance> {
  const { invoker, guard, log } = deps;
  const api = fastify({
    serverFactory: (handler) => createHttpServer(invoker, handler),
    bodyLimit: MAX_BODY,
    forceCloseConnections: 'idle',
    // Bodies are checked by TypeBox, as everywhere; answers are ours.
    logger: false,
    // What is wrong with a URL is told like everything else that is wrong.
    routerOptions: { ignoreTrailingSlash: true },
  });
  api.setValidatorCompiler(
    ({ schema }) =>
      (value: unknown) =>
        checked(schema, value),
  );
  api.setSerializerCompiler(() => (value) => JSON.stringify(value));
  api.addHook('onRequest', async (request, reply) => {
    const refusal = guard.refusal(request.raw);
    if (refusal === undefined) return;
    reply.hijack();
    sendFailure(request.raw, reply.raw, refusal, refusal.code === 'unauthorized' ? ['www-authenticate', 'Bearer'] : []);
  });
  api.setErrorHandler((error, _, reply) => {
    const ours = fromFastify(error);
    const status = ERRORS[ours.code].status;
    if (status >= 500) log.error({ err: error }, 'api failed');
    // What went wrong inside is for the log.
    const message = ours.code === 'internal' ? 'the gateway failed; its log says why' : ours.message;
    return reply.status(status).send({ code: ours.code, message });
  });
  api.setNotFoundHandler((request, reply) =>
    reply.status(404).send({ code: 'not_found', message: `nothing is at ${request.method} ${request.url.slice(0, 200)}: see /docs` }),
  );
  await api.register(fastifySwagger, { openapi: { info: { title: 'rekindle', version: '1', description: DESCRIPTION } } });
  await api.register(fastifySwaggerUi, { routePrefix: '/docs' });
  await api.register(fastifyStatic, {
    root: PAGE,
    // Types for the editor, and whatever else is no part of the page.
    allowedPath: (path) => /^\/$|^\/[\w-]+\.(html|js|css|svg)$/.test(path),
    cacheControl: false,
    setHeaders: (reply) => {
      reply.header('cache-control', 'no-cache');
      reply.header('content-security-policy', POLICY);
      reply.header('x-content-type-options', 'nosniff');
    },
  });
  addHealth(api, deps);
  addLists(api, deps);
  addEvents(api, deps);
  addBurst(api, deps);
  return api;
}

const DESCRIPTION =
  'What rekindle keeps warm, and how it is doing. Requests to workloads themselves go to /invoke/WORKLOAD/PATH, with any method.';

function addHealth(api: FastifyInstance, { view, metricsText, ending }: ApiDeps): void {
  const hide = { schema: { hide: true } };
  // Redis need not answer now: what is live is served without it, by what was told last.
  let heard = view.connected;
  const end = view.onChange(() => {
    heard ||= view.connected;
  });
  ending.addEventListener('abort', end, { once: true });
  api.get('/healthz', hide, async () => ({ status: 'ok' }));
  api.get('/readyz', hide, async (_, reply) => {
    heard ||= view.connected;
    if (ending.aborted) return reply.status(503).send({ code: 'not_ready', message: 'this gateway is ending' });
    if (!heard) return reply.status(503).send({ code: 'not_ready', message: 'Redis has not answered yet' });
    return { status: 'ok' };
  });
  api.get('/metrics', hide, async (_, reply) => {
    const { text, type } = await metricsText();
    return reply.type(type).send(text);
  });
}

function addLists(api: FastifyInstance, { feed }: ApiDeps): void {
  const list = (item: Parameters<typeof Type.Array>[0], summary: string) => ({
    schema: { summary, response: { 200: Type.Array(item), ...errors } },
  });
  api.get('/api/workloads', list(ApiWorkload, 'What is kept warm, and how much of it there should be'), async () =>
    feed.state().pools.map(({ slots: _, pods: __, ...rest }) => rest),
  );
  api.get('/api/pools', list(ApiPool, 'The same with every slot, and in a cluster every pod'), async () => feed.state().pools);
  api.get('/api/snapshots', list(ApiSnapshot, 'What instances are restored from, newest first'), async () => feed.state().snapshots);
  api.get('/api/nodes', list(ApiNode, 'Where slots are'), async () => feed.state().nodes);
}

function addEvents(api: FastifyInstance, { feed, ending }: ApiDeps): void {
  const schema = { summary: 'The state and then its changes, as server-sent events', produces: ['text/event-stream'] };
  api.get('/events', { schema }, (request, reply) => {
    if (ending.aborted) throw new RekindleError('not_ready', 'this gateway is ending');
    reply.hijack();
    reply.raw.writeHead(200, {
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-store',
      // Proxies that collect answers before they pass them on are asked not to.
      'x-accel-buffering': 'no',
    });
    request.raw.socket.setNoDelay(true);
    feed.add(reply.raw);
  });
}

function addBurst(api: FastifyInstance, { invoker, view, ending }: ApiDeps): void {
  const schema = { summary: 'Sends requests to a workload, all at once', body: BurstRequest, response: { 200: BurstAnswer, ...errors } };
  api.post('/api/burst', { schema }, async (request, reply) => {
    if (isForeign(request.headers))
      throw new RekindleError('usage', 'a burst is asked for by this page or by a program, not by a page of another origin');
    const body = Value.Parse(BurstRequest, request.body);
    if (view.view.workloads?.has(body.workload) !== true) {
      const { code, message } = unknownWorkload(body.workload, view.view);
      throw new RekindleError(code, message);
    }
    const gone = new AbortController();
    reply.raw.on('close', () => gone.abort());
    return sendBurst(invoker, body, AbortSignal.any([ending, gone.signal]));
  });
}

/** Fills in defaults; what does not fit is said in a sentence. */
function checked(schema: unknown, value: unknown): { value: unknown } | { error: Error } {
  const filled = Value.Default(schema as typeof BurstRequest, value);
  const [wrong] = Value.Errors(schema as typeof BurstRequest, filled);
  if (wrong === undefined) return { value: filled };
  return { error: new RekindleError('usage', `the request is wrong at ${wrong.instancePath || 'its top'}: ${wrong.message}`) };
}

function fromFastify(error: unknown): RekindleError {
  const status = error instanceof Error && 'statusCode' in error ? error.statusCode : undefined;
  if (error instanceof RekindleError || typeof status !== 'number' || status >= 500) return toRekindleError(error);
  return new RekindleError('usage', error instanceof Error ? error.message : String(error), { cause: error });
}
