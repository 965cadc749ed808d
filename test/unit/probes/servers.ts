import { once } from 'node:events';
import { createServer as createHttpServer, type RequestListener } from 'node:http';
import { createServer as createHttp2Server } from 'node:http2';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import type { Clock } from '../../../src/lib/clock.ts';
import type { ProbeTarget } from '../../../src/probes/target.ts';

export type Listening = AsyncDisposable & { readonly port: number; readonly open: ReadonlySet<Socket> };

/** Listens on a free port of the loopback until the end of the scope; `open` are the connections that the other side has not closed. */
async function listening(server: Server): Promise<Listening> {
  const open = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    open.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => open.delete(socket));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo; // a TCP server's address is never a string
  return {
    port,
    open,
    async [Symbol.asyncDispose]() {
      for (const socket of open) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}

/** Resolves once the other side has closed all its connections. A reset is a close too, so `once` of node:events will not do. */
export async function allClosed({ open }: Listening): Promise<void> {
  const deadline = AbortSignal.timeout(5_000);
  while (open.size > 0) {
    deadline.throwIfAborted();
    await new Promise(setImmediate);
  }
}

export async function httpServer(answer: RequestListener): Promise<Listening> {
  return await listening(createHttpServer(answer));
}

/** Accepts and says nothing. */
export async function silentServer(): Promise<Listening> {
  return await listening(createServer({ allowHalfOpen: false }, (socket) => socket.resume()));
}

export type HealthAnswer = { readonly grpcStatus?: number; readonly serving?: number; readonly httpStatus?: number };

/** A gRPC health service by hand; `asked` collects the bytes of the requests. */
export async function healthServer(answer: HealthAnswer, asked: Buffer[] = []): Promise<Listening> {
  const server = createHttp2Server();
  server.on('stream', (stream, headers) => {
    const chunks: Buffer[] = [];
    stream.on('error', () => {});
    stream.on('data', (chunk: Buffer) => chunks.push(chunk));
    stream.on('end', () => {
      asked.push(Buffer.concat(chunks));
      const { grpcStatus = 0, serving, httpStatus = 200 } = answer;
      const known = headers[':path'] === '/grpc.health.v1.Health/Check' && headers['content-type'] === 'application/grpc';
      if (httpStatus !== 200 || grpcStatus !== 0 || !known) {
        // As gRPC servers do without an answer: the status comes with the headers.
        stream.respond({ ':status': httpStatus, 'grpc-status': String(known ? grpcStatus : 12) }, { endStream: true });
        return;
      }
      stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
      stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
      stream.end(Buffer.from(serving === undefined ? [0, 0, 0, 0, 0] : [0, 0, 0, 0, 2, 0x08, serving]));
    });
  });
  return await listening(server);
}

/** A container on the loopback; commands are answered by `run`. */
export function loopback(
  run: (command: readonly string[], signal: AbortSignal) => Promise<{ status: number; output: string }> = async () => ({
    status: 0,
    output: '',
  }),
): ProbeTarget {
  return {
    exec: (command, { signal }) => run(command, signal),
    connect: async (port, signal) => {
      const socket = connect({ port, host: '127.0.0.1' });
      const destroy = () => socket.destroy(new Error('aborted'));
      signal.addEventListener('abort', destroy, { once: true });
      try {
        await once(socket, 'connect');
      } finally {
        signal.removeEventListener('abort', destroy);
      }
      return socket;
    },
  };
}

/** Never waits: a sleep moves the time on at once, unless it is a timeout's (any length in `frozen`), which never ends by itself. */
export class FakeClock implements Clock {
  readonly slept: number[] = [];
  readonly #frozen: readonly number[];
  #now = 1_000;

  constructor({ frozen = [] }: { frozen?: readonly number[] }) {
    this.#frozen = frozen;
  }

  now(): number {
    return this.#now;
  }

  async sleep(ms: number, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    if (this.#frozen.includes(ms))
      return await new Promise((_resolve, reject) => signal?.addEventListener('abort', () => reject(signal.reason), { once: true }));
    this.slept.push(ms);
    this.#now += ms;
  }
}
