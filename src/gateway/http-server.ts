import { createServer, type IncomingMessage, type RequestListener, type Server } from 'node:http';
import type { Invoker } from './invoker.ts';
import { isInvoke } from './target.ts';

/** A client has this long to say what it wants. Bodies have limits of their own: a large upload may take hours. */
const HEAD_MS = 15_000;
/** How often that is looked at, so that a slow head lives at most this much longer. */
const CHECK_MS = 2_000;
/** Unused connections of clients: longer than the minute for which many proxies in front keep theirs. */
const KEEP_ALIVE_MS = 65_000;

/**
 * The one server: `/invoke/…` goes to the invoker, below fastify, whose routing, request and reply would cost as much again as passing a request on;
 * everything else to `rest`. Errors of connections end these only.
 */
export function createHttpServer(invoker: Invoker, rest: RequestListener): Server {
  const server = createServer(
    {
      headersTimeout: HEAD_MS,
      requestTimeout: 0,
      connectionsCheckingInterval: CHECK_MS,
      keepAliveTimeout: KEEP_ALIVE_MS,
      noDelay: true,
      // Anything else is answered as if no change of protocol had been asked for, which is what RFC 9110 7.8 wants.
      shouldUpgradeCallback: wantsUpgrade,
    },
    (request, response) => {
      if (isInvoke(request.url ?? '')) invoker.handle(request, response);
      else rest(request, response);
    },
  );
  server.on('checkContinue', (request: IncomingMessage, response) => {
    // The application says whether it wants the body.
    if (isInvoke(request.url ?? '')) return invoker.handle(request, response);
    response.writeContinue();
    rest(request, response);
  });
  server.on('checkExpectation', (_, response) => {
    response.writeHead(417, { connection: 'close' }).end();
  });
  server.on('upgrade', (request, socket, head) => invoker.upgrade(request, socket, head));
  server.on('clientError', (error, socket) => {
    if (!socket.writable || ('bytesWritten' in socket && Number(socket.bytesWritten) > 0)) return void socket.destroy();
    const code = 'code' in error ? error.code : undefined;
    const status =
      code === 'HPE_HEADER_OVERFLOW'
        ? '431 Request Header Fields Too Large'
        : code === 'ERR_HTTP_REQUEST_TIMEOUT'
          ? '408 Request Timeout'
          : '400 Bad Request';
    socket.end(`HTTP/1.1 ${status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`);
  });
  return server;
}

/** HTTP/2 over plain text (`h2c`) is between the client and us, and we do not speak it. */
function wantsUpgrade(request: IncomingMessage): boolean {
  const protocol = request.headers.upgrade ?? '';
  return isInvoke(request.url ?? '') && /^[^,\s]+$/.test(protocol) && protocol.toLowerCase() !== 'h2c';
}
