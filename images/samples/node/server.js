import { randomBytes, randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import cors from '@fastify/cors';
import helmet from '@fastify/helmet';
import swagger from '@fastify/swagger';
import addFormats from 'ajv-formats';
import Fastify, { LogController } from 'fastify';
import { problem, resources } from './resources.js';
import { backends, Catalogue, settingsOf } from './shop.js';

const startedAt = Math.round(performance.timeOrigin);
const settings = settingsOf(process.env);
const clients = backends(settings);
const catalogue = new Catalogue();
const state = { ready: false, requests: 0, warmed: 0 };

const app = Fastify({
  logger: { level: settings.LOG_LEVEL },
  logController: new LogController({ disableRequestLogging: true }),
  ajv: { plugins: [addFormats.default] },
});
await app.register(helmet);
await app.register(cors);
await app.register(swagger, { openapi: { info: { title: 'shop', version: '1.0.0' } } });

// Counted here, below fastify, so that the requests which /warm makes inside the process do not count.
app.server.on('request', () => {
  state.requests += 1;
});

await app.register(async (api) => {
  // There is no database behind the sample: the routes are real, what they answer is not there.
  const nothing = async (_request, reply) =>
    reply.code(404).send({ statusCode: 404, error: 'Not Found', message: 'there is nothing here yet' });
  for (const { name, create, change, item, list, query, params } of resources) {
    const failures = { 400: problem, 404: problem };
    api.get(`/api/${name}`, { schema: { querystring: query, response: { 200: list, ...failures } } }, async () => ({
      items: [],
      total: 0,
      next: null,
    }));
    api.post(`/api/${name}`, { schema: { body: create, response: { 201: item, ...failures } } }, nothing);
    api.get(`/api/${name}/:id`, { schema: { params, response: { 200: item, ...failures } } }, nothing);
    api.patch(`/api/${name}/:id`, { schema: { params, body: change, response: { 200: item, ...failures } } }, nothing);
    api.delete(`/api/${name}/:id`, { schema: { params, response: { 204: { type: 'null' }, ...failures } } }, nothing);
  }
});

app.get('/healthz', async (_request, reply) => reply.code(state.ready ? 200 : 503).send({ ready: state.ready }));

// The host name is asked for at every request: a clone must not answer with the seed's.
app.get('/', async () => ({
  host: hostname(),
  pid: process.pid,
  startedAt,
  warmed: state.warmed,
  requests: state.requests,
  node: process.version,
}));

app.get(
  '/warm',
  { schema: { querystring: { type: 'object', properties: { n: { type: 'integer', minimum: 1, maximum: 10_000, default: 20 } } } } },
  async (request) => {
    const orders = Array.from({ length: request.query.n }, (_, i) => catalogue.order(i));
    // Through the router, the validators and the serialisers too, as real requests go.
    for (const { name } of resources) await app.inject({ url: `/api/${name}?limit=10` });
    state.warmed += 1;
    return { warmed: state.warmed, orders: orders.length, receiptBytes: orders.reduce((sum, o) => sum + o.receiptBytes, 0) };
  },
);

app.get(
  '/work',
  { schema: { querystring: { type: 'object', properties: { ms: { type: 'integer', minimum: 0, maximum: 60_000, default: 30 } } } } },
  async (request) => {
    await sleep(request.query.ms);
    return { host: hostname(), ms: request.query.ms };
  },
);

app.get('/random', async () => ({ bytes: randomBytes(16).toString('hex'), uuid: randomUUID() }));

app.get('/openapi.json', { schema: { hide: true } }, async () => app.swagger());

app.addHook('onClose', async () => {
  clients.cache.disconnect();
  clients.files.destroy();
  await clients.database.end();
});
for (const signal of ['SIGTERM', 'SIGINT']) process.once(signal, () => app.close().then(() => process.exit(0)));

await app.listen({ host: '0.0.0.0', port: settings.PORT });
await catalogue.load(20_000);
state.ready = true;
