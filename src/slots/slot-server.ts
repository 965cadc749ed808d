import { chmod, lstat, rename, rm } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import type { Clock } from '../lib/clock.ts';
import { errno, RekindleError } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';
import { LineSplitter, MAX_SLOT_LINE_BYTES, parseSlotLine } from './protocol.ts';
import { SlotConnection } from './slot-connection.ts';

export type SlotServerOptions = {
  /** Called for each connection once its `hello` was read. Must not throw; may return before it is done with the connection. */
  readonly onConnection: (connection: SlotConnection) => void;
  readonly clock: Clock;
  readonly log: Log;
  /** Unix socket, mode 0666: who connects is settled by `prove`, not by file rights. Its folder must exist. */
  readonly unixPath?: string;
  /** `port: 0` takes any free one, see {@link SlotServer.tcpPort}. */
  readonly tcp?: { readonly host: string; readonly port: number };
  /** All connections together; more are closed at once. Default 2048. */
  readonly maxConnections?: number;
  /** Connections from one address, which is one pod; more are closed at once. Those of the unix socket have none. Default 64. */
  readonly maxPerAddress?: number;
  /** As `maxWithoutHello`, among those of one address. Default 8. */
  readonly maxWithoutHelloPerAddress?: number;
  /** Connections without a `hello` yet; for one more, the oldest of them is closed, so that silent ones keep nobody out. Default 256. */
  readonly maxWithoutHello?: number;
  /** Time for the `hello` to come, in ms. Default 2000. */
  readonly helloTimeoutMs?: number;
};

/** Where slots connect. Whoever speaks nonsense, too much or not at all is closed, without harm to others. */
export class SlotServer {
  readonly #options: SlotServerOptions;
  readonly #servers: Server[] = [];
  readonly #sockets = new Set<Socket>();
  /** Each with its address, oldest first. */
  readonly #withoutHello = new Map<Socket, string | undefined>();
  readonly #byAddress = new Map<string, { connections: number; refused: boolean }>();
  #unixInode: bigint | undefined;
  #tcpPort: number | undefined;

  constructor(options: SlotServerOptions) {
    this.#options = options;
  }

  /** The TCP port listened on, if any. */
  get tcpPort(): number | undefined {
    return this.#tcpPort;
  }

  /** Resolves once slots can connect. Throws `usage` when another process listens there already, or the path is something else. */
  async listen(): Promise<void> {
    const { unixPath, tcp } = this.#options;
    if (unixPath !== undefined) await this.#listenUnix(unixPath);
    if (tcp !== undefined) {
      const server = await this.#open({ host: tcp.host, port: tcp.port });
      const address = server.address();
      if (address !== null && typeof address === 'object') this.#tcpPort = address.port;
    }
  }

  /** Stops listening, closes every connection and removes the socket. Slots that are parked or live come back by themselves. Safe to repeat. */
  async close(): Promise<void> {
    const { unixPath } = this.#options;
    // Only what is still ours: the next agent may have put its own socket there.
    if (unixPath !== undefined && this.#unixInode !== undefined && (await inode(unixPath)) === this.#unixInode)
      await rm(unixPath, { force: true });
    const closed = this.#servers.splice(0).map((server) => new Promise((resolve) => server.close(resolve)));
    for (const socket of this.#sockets) socket.destroy();
    await Promise.all(closed);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #listenUnix(path: string): Promise<void> {
    await refuseUnlessStale(path);
    // Bound beside and moved there when it is whole: a slot never meets a socket that it may not use yet, or none at all.
    const beside = `${path}.${process.pid}`;
    await rm(beside, { force: true });
    await this.#open({ path: beside });
    await chmod(beside, 0o666);
    this.#unixInode = await inode(beside);
    await rename(beside, path);
  }

  #open(where: { path: string } | { host: string; port: number }): Promise<Server> {
    const server = createServer({ noDelay: true }, (socket) => this.#accept(socket));
    return new Promise((resolve, reject) => {
      server.once('error', (error) => {
        reject(new RekindleError('usage', `cannot listen for slots at ${JSON.stringify(where)}: ${error.message}`, { cause: error }));
      });
      server.listen({ ...where, backlog: 4096 }, () => {
        server.on('error', (error) => this.#options.log.error({ err: error }, 'slot server failed'));
        this.#servers.push(server);
        resolve(server);
      });
    });
  }

  #accept(socket: Socket): void {
    const { log, maxConnections = 2048, maxWithoutHello = 256, maxWithoutHelloPerAddress = 8 } = this.#options;
    // A connection that breaks is an ordinary end; 'close' follows.
    socket.on('error', () => socket.destroy());
    const remoteAddress = addressOf(socket);
    if (!this.#hasRoom(remoteAddress)) {
      socket.destroy();
      return;
    }
    if (this.#sockets.size >= maxConnections) {
      log.warn({ connections: this.#sockets.size }, 'too many slot connections, one refused');
      socket.destroy();
      return;
    }
    this.#count(remoteAddress, 1);
    this.#sockets.add(socket);
    this.#withoutHello.set(socket, remoteAddress);
    // First among its own, so that one who floods closes nobody else's.
    if (remoteAddress !== undefined) this.#thin(maxWithoutHelloPerAddress, remoteAddress);
    this.#thin(maxWithoutHello);
    socket.once('close', () => {
      this.#count(remoteAddress, -1);
      this.#sockets.delete(socket);
      this.#withoutHello.delete(socket);
    });
    this.#awaitHello(socket, remoteAddress);
  }

  #hasRoom(remoteAddress: string | undefined): boolean {
    const own = remoteAddress === undefined ? undefined : this.#byAddress.get(remoteAddress);
    if (own === undefined || own.connections < (this.#options.maxPerAddress ?? 64)) return true;
    // Once until all of them are gone: a flood must not flood the log.
    if (!own.refused)
      this.#options.log.warn({ remoteAddress, connections: own.connections }, 'too many slot connections of one address, more are refused');
    own.refused = true;
    return false;
  }

  #count(remoteAddress: string | undefined, change: 1 | -1): void {
    if (remoteAddress === undefined) return;
    const own = this.#byAddress.get(remoteAddress) ?? { connections: 0, refused: false };
    own.connections += change;
    if (own.connections === 0) this.#byAddress.delete(remoteAddress);
    else this.#byAddress.set(remoteAddress, own);
  }

  /** Closes the oldest connection without a hello, of those of `remoteAddress` if that is given, when there are more than `limit`. */
  #thin(limit: number, remoteAddress?: string): void {
    if (this.#withoutHello.size <= limit) return;
    const of = [...this.#withoutHello].filter(([, address]) => remoteAddress === undefined || address === remoteAddress);
    const [oldest] = of;
    if (oldest === undefined || of.length <= limit) return;
    this.#withoutHello.delete(oldest[0]);
    oldest[0].destroy();
  }

  #awaitHello(socket: Socket, remoteAddress: string | undefined): void {
    const splitter = new LineSplitter({ limitBytes: MAX_SLOT_LINE_BYTES });
    const timer = new AbortController();
    const stop = () => timer.abort();
    const take = (chunk: Buffer) => {
      const lines = splitter.push(chunk);
      const [first, ...rest] = lines ?? [];
      if (lines !== undefined && first === undefined) return;
      socket.off('data', take);
      socket.off('close', stop);
      stop();
      this.#withoutHello.delete(socket);
      const line = first === undefined ? undefined : parseSlotLine(first);
      if (line?.say !== 'hello') socket.destroy();
      else this.#options.onConnection(new SlotConnection({ hello: line.hello, socket, remoteAddress, splitter, lines: rest }));
    };
    socket.on('data', take);
    socket.once('close', stop);
    this.#options.clock.sleep(this.#options.helloTimeoutMs ?? 2_000, timer.signal).then(
      () => socket.destroy(),
      () => undefined,
    );
  }
}

/** IPv4 addresses in their own form, also on a socket for both. A connection over the unix socket has none. */
function addressOf({ remoteAddress }: Socket): string | undefined {
  return remoteAddress?.replace(/^::ffff:(?=\d+\.)/, '');
}

async function inode(path: string): Promise<bigint | undefined> {
  try {
    return (await lstat(path, { bigint: true })).ino;
  } catch (error) {
    if (errno(error) === 'ENOENT') return undefined;
    throw error;
  }
}

/** A socket that nobody listens at was left by an agent that was killed; anything else at `path` is not ours to replace. */
async function refuseUnlessStale(path: string): Promise<void> {
  if ((await inode(path)) === undefined) return;
  const problem = await new Promise<string | undefined>((resolve) => {
    const probe = connect(path);
    probe.once('connect', () => {
      probe.destroy();
      resolve('another agent listens there');
    });
    probe.once('error', (error) => resolve(['ECONNREFUSED', 'ENOENT'].includes(errno(error) ?? '') ? undefined : error.message));
  });
  if (problem !== undefined || !(await lstat(path)).isSocket()) {
    throw new RekindleError(
      'usage',
      `cannot listen for slots at ${path}: ${problem ?? 'it is not a socket'}. Stop that, remove it, or choose another path`,
    );
  }
}
