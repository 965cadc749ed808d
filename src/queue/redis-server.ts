import { chmod, mkdir } from 'node:fs/promises';
import { connect } from 'node:net';
import { join, resolve } from 'node:path';
import type { Clock } from '../lib/clock.ts';
import { RekindleError } from '../lib/errors.ts';
import type { Service, StartService } from '../lib/exec.ts';

type ServerDeps = { readonly startService: StartService; readonly clock: Clock };

const START_MS = 5_000;
const STOP_MS = 2_000;
const POLL_MS = 5;

/**
 * A redis-server of our own on a unix socket, for this user only. It keeps nothing on disk, since nothing that matters lives there
 * only, and is killed when we end. When it dies, `ended` says why, and another can be started in the same directory: clients find it at the same `url`.
 */
export class RedisServer implements AsyncDisposable {
  readonly url: string;
  readonly pid: number | undefined;
  /** Never rejects. */
  readonly ended: Promise<string>;
  readonly #service: Service;
  readonly #clock: Clock;

  private constructor(socket: string, service: Service, clock: Clock) {
    this.url = `unix:${socket}`;
    this.pid = service.pid;
    this.ended = service.ended;
    this.#service = service;
    this.#clock = clock;
  }

  /**
   * Resolves once it answers. The directory is made if need be (0700). Throws `machine_unsupported` when it cannot be started, `usage` when one runs there already.
   */
  static async start(dir: string, { startService, clock }: ServerDeps, signal?: AbortSignal): Promise<RedisServer> {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    await chmod(dir, 0o700);
    const socket = join(resolve(dir), 'redis.sock');
    if (await answers(socket)) throw new RekindleError('usage', `another redis-server serves ${socket}: is this service running already?`);
    const settings = { port: '0', unixsocket: socket, unixsocketperm: '700', save: '', appendonly: 'no', daemonize: 'no', dir };
    const more = { 'maxmemory-policy': 'noeviction', loglevel: 'warning' };
    const args = Object.entries({ ...settings, ...more }).flatMap(([name, value]) => [`--${name}`, value]);
    const server = new RedisServer(socket, startService('redis-server', args, { cwd: dir }), clock);
    try {
      await server.#untilReady(socket, signal);
      return server;
    } catch (error) {
      await server[Symbol.asyncDispose]();
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#service.kill('SIGTERM');
    const late = new AbortController();
    await Promise.race([this.ended, this.#clock.sleep(STOP_MS, late.signal).catch(() => undefined)]);
    late.abort();
    this.#service.kill('SIGKILL');
    await this.ended;
  }

  async #untilReady(socket: string, signal: AbortSignal | undefined): Promise<void> {
    let why: string | undefined;
    void this.ended.then((reason) => {
      why = reason;
    });
    for (let waitedMs = 0; waitedMs < START_MS; waitedMs += POLL_MS) {
      if (why !== undefined) break;
      if (await answers(socket)) return;
      await this.#clock.sleep(POLL_MS, signal);
    }
    throw new RekindleError('machine_unsupported', `no redis-server could be started: ${why ?? `it did not answer within ${START_MS} ms`}`);
  }
}

function answers(socket: string): Promise<boolean> {
  return new Promise((resolve) => {
    const stream = connect(socket);
    const done = (yes: boolean) => {
      stream.destroy();
      resolve(yes);
    };
    stream.setTimeout(1_000, () => done(false));
    stream.once('error', () => done(false));
    stream.once('close', () => done(false));
    stream.once('data', (data) => done(data.toString('latin1').startsWith('+PONG')));
    stream.write('PING\r\n');
  });
}
