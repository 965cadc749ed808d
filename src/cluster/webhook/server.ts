import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
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
const MAX_BODY_BYTES = 8 * 1024 * 1024;
const REQUEST_MS = 10_000;

/**
 * Hears the API server's questions over HTTPS; a renewed certificate is used for the next connection. Anybody who reaches the port may ask: an answer tells
 * only what becomes of the object that was sent. Throws `usage` when it cannot listen there. Disposing waits for questions that are being answered.
 */
export async function openWebhook(
  { admission, certificates, log }: WebhookDeps,
  listen: { readonly host: string; readonly port: number },
): Promise<Webhook> {
  const stop = new AbortController();
  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const what = new Map(Object.entries(PATHS)).get(new URL(request.url ?? '/', 'https://webhook').pathname);
    if (what === undefined || request.method !== 'POST') return end(response, 404, `POST to ${Object.keys(PATHS).join(' or ')}`);
    const review = parseReview(await bodyOf(request));
    const verdict = await admission[what](review, stop.signal);
    response.setHeader('content-type', 'application/json');
    end(response, 200, formatReview(review, verdict));
  };
  const server = createServer(
    { ...certificates.current(), requestTimeout: REQUEST_MS, headersTimeout: REQUEST_MS },
    (request, response) => {
      answer(request, response).catch((error: unknown) => {
        if (error instanceof RekindleError && error.code === 'usage') return end(response, 400, error.message);
        if (!request.destroyed) log.error({ err: error }, 'webhook failed');
        end(response, 500, 'this failed; the log says why');
      });
    },
  );
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

async function bodyOf(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request) {
    const bytes: Buffer = chunk;
    size += bytes.length;
    if (size > MAX_BODY_BYTES) throw new RekindleError('usage', `the body has more than ${MAX_BODY_BYTES} bytes`);
    chunks.push(bytes);
  }
  return Buffer.concat(chunks).toString();
}

function end(response: ServerResponse, status: number, text: string): void {
  if (response.headersSent || response.destroyed) return;
  response.statusCode = status;
  response.end(text);
}
