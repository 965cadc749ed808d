import { timingSafeEqual } from 'node:crypto';
import { constants, createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import { RekindleError, toRekindleError } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';
import type { Snapshot } from '../snapshots/shelf.ts';
import type { SnapshotStore } from '../snapshots/store.ts';
import { SUSPENDED_PREFIX } from './inventory.ts';

export type PeerServerDeps = {
  readonly store: Pick<SnapshotStore, 'list' | 'pin'>;
  readonly log: Log;
  /** Bearer token that the agents of a service share. */
  readonly token: () => string;
  /** `host:port`; port 0 takes any free one. */
  readonly listen: string;
  /** What an image of this node runs, for the webhook; undefined for one that is not here. */
  readonly image?: ((reference: string, signal: AbortSignal) => Promise<ImageRuns | undefined>) | undefined;
};

/** Of an image's configuration. */
export type ImageRuns = { readonly entrypoint: readonly string[]; readonly cmd: readonly string[] };

const IMAGE_MS = 2_000;

type Asked = FastifyRequest<{ Params: { digest: string; '*': string } }>;

/** `bytes=FROM-`: all that a resumed pull asks for. */
const RANGE = /^bytes=(\d{1,15})-$/;

/** Where other agents fetch this node's snapshots. What it gives is checked by who fetches; a snapshot is memory, so nobody gets it without the token. */
export class PeerServer implements AsyncDisposable {
  /** Without a slash at its end. */
  readonly url: string;
  readonly #server: FastifyInstance;

  private constructor(server: FastifyInstance, url: string) {
    this.#server = server;
    this.url = url;
  }

  /** Throws `usage` when it cannot listen there. */
  static async open(deps: PeerServerDeps): Promise<PeerServer> {
    const [, host = '', port = ''] = /^\[?([^\]]*)\]?:(\d{1,5})$/.exec(deps.listen) ?? [];
    const server = fastify({ forceCloseConnections: true });
    server.addHook('onRequest', async (request) => {
      if (!isSame(request.headers.authorization ?? '', `Bearer ${deps.token()}`))
        throw new RekindleError('unauthorized', 'the agents of another service, or nobody, use this token');
    });
    server.setErrorHandler((error, _request, reply) => {
      const { code, message } = toRekindleError(error);
      void reply.code(code === 'unauthorized' ? 401 : code === 'not_found' ? 404 : 500).send({ code, message });
    });
    const find = (digest: string) => findSnapshot(deps.store, digest);
    server.get('/snapshots/:digest/manifest', async (request: Asked, reply) => {
      const snapshot = await find(request.params.digest);
      return sendFile(deps, reply, snapshot, join(snapshot.dir, 'manifest.json'), 0);
    });
    server.get('/snapshots/:digest/files/*', async (request: Asked, reply) => {
      const { digest, '*': path } = request.params;
      const snapshot = await find(digest);
      // Only what the manifest lists, so that no path leads out of the snapshot.
      const entry = snapshot.manifest.files.find((one) => one.type === 'file' && one.path === path);
      if (entry === undefined) throw new RekindleError('not_found', `${path} is no file of snapshot ${digest}`);
      const range = RANGE.exec(request.headers.range ?? '')?.[1];
      return sendFile(deps, reply, snapshot, join(snapshot.dir, path), Number(range ?? 0));
    });
    server.get('/images', async (request: FastifyRequest<{ Querystring: { reference?: string } }>) => {
      const { reference = '' } = request.query;
      const found = await deps.image?.(reference, AbortSignal.timeout(IMAGE_MS));
      if (found === undefined) throw new RekindleError('not_found', `no image ${reference} here`);
      return { entrypoint: found.entrypoint, cmd: found.cmd };
    });
    try {
      if (host === '') throw new Error('write HOST:PORT');
      await server.listen({ host, port: Number(port) });
    } catch (cause) {
      await server.close();
      const why = cause instanceof Error ? cause.message : String(cause);
      throw new RekindleError('usage', `cannot listen for other agents at ${deps.listen}: ${why}`, { cause });
    }
    const address = server.server.address();
    if (address === null || typeof address === 'string') throw new RekindleError('internal', `no port at ${deps.listen}`);
    const at = address.family === 'IPv6' ? `[${address.address}]` : address.address;
    return new PeerServer(server, `http://${at}:${address.port}`);
  }

  /** Ends transfers that run: who fetches goes on elsewhere, or later. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server.close();
  }
}

/** States of suspended slots are of no use to others. */
async function findSnapshot(store: Pick<SnapshotStore, 'list'>, digest: string): Promise<Snapshot> {
  const found = (await store.list()).find((one) => one.digest === digest && !one.manifest.workload.startsWith(SUSPENDED_PREFIX));
  if (found === undefined) throw new RekindleError('not_found', `no snapshot ${digest} here`);
  return found;
}

async function sendFile(deps: PeerServerDeps, reply: FastifyReply, snapshot: Snapshot, path: string, from: number): Promise<FastifyReply> {
  const pin = deps.store.pin(snapshot.digest);
  try {
    const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    const { size } = await file.stat();
    if (from > size || (from > 0 && from === size)) {
      await file.close();
      pin[Symbol.dispose]();
      return reply.code(416).header('content-range', `bytes */${size}`).send();
    }
    const stream = createReadStream(path, { fd: file, start: from, highWaterMark: 256 * 1024 });
    stream.once('close', () => pin[Symbol.dispose]());
    reply.header('content-type', 'application/octet-stream').header('content-length', size - from);
    if (from > 0) reply.code(206).header('content-range', `bytes ${from}-${size - 1}/${size}`);
    return reply.send(stream);
  } catch (error) {
    pin[Symbol.dispose]();
    throw error;
  }
}

function isSame(given: string, wanted: string): boolean {
  const [a, b] = [Buffer.from(given), Buffer.from(wanted)];
  return a.length === b.length && timingSafeEqual(a, b);
}
