import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { errno, RekindleError } from '../../lib/errors.ts';
import type { Log } from '../../lib/log.ts';
import type { Certificates } from '../certificates.ts';
import type { Admission } from './admission.ts';
import { formatReview, parseReview } from './review.ts';

export type WebhookDeps = {
  readonly admission: Pick<Admission, 'pod' | 'owner'>;
  readonly certificates: Pick<Certificates, 'current' | 'onChange'>;
  readonly log: Log;
};

export type Webhook = AsyncDisposable & { readonly url: string };

/** Paths, as the MutatingWebhookConfiguration names them. */
const PATHS = { '/webhook/pods': 'pod', '/webhook/owners': 'owner' } as const;
/** Objects have at most 1.5 MiB in etcd; an update comes with the old one. */
const MAX_BODY_BYTES = 4 * 1024 * 1024;
/** What nearly all objects have. Of longer ones so much is held at a time, in all: parsed, it is several times that. */
const USUAL_BYTES = 64 * 1024;
const MAX_LONG_BYTES = 24 * 1024 * 1024;
/** The API server does not wait longer (timeoutSeconds of the webhook). */
const REQUEST_MS = 5_000;
const LOOK_EVERY_MS = 1_000;
/**
 * Longer than API servers keep a connection that has nothing to do (90 s, Go's http.DefaultTransport). A question that meets the end of its connection is
 * not asked again: its pod is left as it was.
 */
const KEEP_ALIVE_MS = 120_000;
/** Each has one question at a time, so these are questions too. API servers open one for each that they have at the same moment. */
const MAX_CONNECTIONS = 512;
const MAX_CONNECTIONS_OF_ONE = 128;
/** From so many on, those that have nothing to do make room: API servers open new ones. */
const MANY_CONNECTIONS = 384;
const MANY_CONNECTIONS_OF_ONE = 96;

/**
 * Hears the API server's questions over HTTPS; a renewed certificate is used for the next connection. Anybody who reaches the port may ask, and as much as
 * there is room for: of connections from one address and in all, of long bodies, of time. An answer tells what becomes of the object that was sent, the
 * policy that it names included. Once `leaving` aborts, every answer is the last of its connection, so that the next question goes to somebody who stays.
 * Throws `usage` when it cannot listen there. Disposing waits for questions that are being answered.
 */
export async function openWebhook(
  { admission, certificates, log }: WebhookDeps,
  listen: { readonly host: string; readonly port: number },
  leaving?: AbortSignal,
): Promise<Webhook> {
  const stop = new AbortController();
  const held = { longBytes: 0 };
  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const what = new Map(Object.entries(PATHS)).get(new URL(request.url ?? '/', 'https://webhook').pathname);
    if (what === undefined || request.method !== 'POST') return refuse(response, 404, `POST to ${Object.keys(PATHS).join(' or ')}`);
    using body = new Body(held);
    const review = parseReview(await body.read(request));
    const verdict = await admission[what](review, stop.signal);
    response.setHeader('content-type', 'application/json');
    if (leaving?.aborted) response.setHeader('connection', 'close');
    end(response, 200, formatReview(review, verdict));
  };
  const answering = new WeakSet<Socket>();
  const server = createServer(
    {
      ...certificates.current(),
      ...{
        keepAliveTimeout: KEEP_ALIVE_MS,
        requestTimeout: REQUEST_MS,
        headersTimeout: REQUEST_MS,
        handshakeTimeout: REQUEST_MS,
        connectionsCheckingInterval: LOOK_EVERY_MS,
      },
    },
    (request, response) => {
      const { socket } = request;
      // The API server waits for an answer before it asks again.
      if (answering.has(socket)) return void socket.destroy();
      answering.add(socket);
      answer(request, response)
        .catch((error: unknown) => {
          if (error instanceof RekindleError && error.code === 'usage') return refuse(response, 400, error.message);
          if (error instanceof Full) return refuse(response, 503, error.message);
          if (!request.destroyed) log.error({ err: error }, 'webhook failed');
          end(response, 500, 'this failed; the log says why');
        })
        .finally(() => answering.delete(socket));
    },
  );
  server.maxConnections = MAX_CONNECTIONS;
  // Also of one who does not take its answer.
  server.setTimeout(2 * REQUEST_MS);
  const perAddress = new Map<string, number>();
  server.on('connection', (socket: Socket) => {
    const address = socket.remoteAddress ?? '';
    const open = (perAddress.get(address) ?? 0) + 1;
    perAddress.set(address, open);
    socket.once('close', () => {
      const left = (perAddress.get(address) ?? 1) - 1;
      if (left === 0) perAddress.delete(address);
      else perAddress.set(address, left);
    });
    const all = [...perAddress.values()].reduce((sum, of) => sum + of, 0);
    if (all > MANY_CONNECTIONS || open > MANY_CONNECTIONS_OF_ONE) server.closeIdleConnections();
    if (open > MAX_CONNECTIONS_OF_ONE) socket.destroy();
  });
  // Of connections that are not TLS, or whose client does not trust us (yet): it says so where it is.
  server.on('tlsClientError', (err) => log.debug({ err }, 'connection refused'));
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause) => {
      const why = errno(cause) === 'EADDRINUSE' ? 'another program listens there' : String(cause);
      reject(new RekindleError('usage', `cannot listen on ${listen.host}:${listen.port}: ${why}. Choose another address`, { cause }));
    });
    server.listen(listen, resolve);
  });
  const forget = certificates.onChange(() => server.setSecureContext(certificates.current()));
  const { port } = server.address() as AddressInfo;
  return {
    url: `https://${listen.host.includes(':') ? `[${listen.host}]` : listen.host}:${port}`,
    [Symbol.asyncDispose]: async () => {
      forget();
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeIdleConnections();
      await closed;
      stop.abort(new Error('the webhook has ended'));
    },
  };
}

/** There is no room for this now. */
class Full extends Error {}

/** A request's body, as far as it is held. Until it is disposed, what it has beyond the usual is part of what all of them may have. */
class Body implements Disposable {
  readonly #held: { longBytes: number };
  #size = 0;

  constructor(held: { longBytes: number }) {
    this.#held = held;
  }

  async read(request: IncomingMessage): Promise<string> {
    const chunks: Buffer[] = [];
    for await (const chunk of request) {
      const bytes: Buffer = chunk;
      const before = this.#longBytes;
      this.#size += bytes.length;
      this.#held.longBytes += this.#longBytes - before;
      if (this.#size > MAX_BODY_BYTES) throw new RekindleError('usage', `the body has more than ${MAX_BODY_BYTES} bytes`);
      if (this.#longBytes > 0 && this.#held.longBytes > MAX_LONG_BYTES) throw new Full('too many long questions at once: ask again');
      chunks.push(bytes);
    }
    return Buffer.concat(chunks).toString();
  }

  [Symbol.dispose](): void {
    this.#held.longBytes -= this.#longBytes;
    this.#size = 0;
  }

  get #longBytes(): number {
    return Math.max(0, this.#size - USUAL_BYTES);
  }
}

/** And hears no more of it. */
function refuse(response: ServerResponse, status: number, text: string): void {
  if (!response.headersSent) response.setHeader('connection', 'close');
  end(response, status, text);
}

function end(response: ServerResponse, status: number, text: string): void {
  if (response.headersSent || response.destroyed) return;
  response.statusCode = status;
  response.end(text);
}
