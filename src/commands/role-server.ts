import type { AddressInfo } from 'node:net';
import fastify from 'fastify';
import { errno, RekindleError } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';

export type RoleServerDeps = {
  /** Of prom-client. */
  readonly registry: { metrics(): Promise<string>; readonly contentType: string };
  /** Why the role cannot do its work now, in words; undefined when it can. */
  readonly whyNotReady: () => string | undefined;
  readonly log: Log;
};

export type RoleServer = AsyncDisposable & { readonly url: string };

/**
 * `/healthz`, `/readyz` and `/metrics` of a role that has no HTTP of its own. It tells names of workloads and numbers, to whoever reaches it. Close it last: until
 * then `/readyz` says 503 with the reason. Port 0 is any that is free. Throws `usage` when it cannot listen there.
 */
export async function openRoleServer(
  { registry, whyNotReady, log }: RoleServerDeps,
  listen: { readonly host: string; readonly port: number },
): Promise<RoleServer> {
  const { host, port } = listen;
  const server = fastify({ logger: false, forceCloseConnections: true });
  server.get('/healthz', async () => ({ status: 'ok' }));
  server.get('/readyz', async (_, reply) => {
    const message = whyNotReady();
    return message === undefined ? { status: 'ok' } : reply.status(503).send({ code: 'not_ready', message });
  });
  server.get('/metrics', async (_, reply) => {
    const text = await registry.metrics();
    return reply.type(registry.contentType).send(text);
  });
  server.setNotFoundHandler((_, reply) =>
    reply.status(404).send({ code: 'not_found', message: 'there are /healthz, /readyz and /metrics' }),
  );
  server.setErrorHandler((err, _, reply) => {
    log.error({ err }, 'role server failed');
    return reply.status(500).send({ code: 'internal', message: 'this failed; the log says why' });
  });
  try {
    await server.listen({ host, port });
  } catch (cause) {
    await server.close();
    const why = errno(cause) === 'EADDRINUSE' ? 'another program listens there' : String(cause);
    throw new RekindleError('usage', `cannot listen on ${host}:${port}: ${why}. Choose another address`, { cause });
  }
  const bound = (server.server.address() as AddressInfo).port;
  return {
    url: `http://${host.includes(':') ? `[${host}]` : host}:${bound}`,
    [Symbol.asyncDispose]: async () => void (await server.close()),
  };
}
