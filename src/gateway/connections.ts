import { Agent } from 'node:http';
import { Pool } from 'undici';
import type { Exchange, ExchangeEvents, Outgoing } from './exchange.ts';
import { FastExchange } from './fast-exchange.ts';
import type { Instance } from './instances.ts';
import { StreamExchange } from './stream-exchange.ts';

/**
 * How long an unused connection is kept: less than any server waits before it closes one (gunicorn 2 s, node and uvicorn 5 s), so that a request is
 * not sent just when the application closes.
 */
const IDLE_MS = 1_000;
const CONNECT_MS = 5_000;

/** The connections to instances, kept alive from request to request. */
export class Connections implements AsyncDisposable {
  readonly #fast = new Map<Instance, Pool>();
  readonly #streams = new Map<Instance, Agent>();

  send(instance: Instance, outgoing: Outgoing, events: ExchangeEvents): Exchange {
    const { body, trailers, expectsContinue } = outgoing.head;
    if (body === 'none' && !trailers && !expectsContinue && outgoing.upgrade === undefined) {
      return new FastExchange(this.#poolOf(instance), outgoing, events);
    }
    return new StreamExchange({ host: instance.host, port: instance.port, agent: this.#agentOf(instance) }, outgoing, events);
  }

  /** Closes what is open to an instance that gets no more requests. */
  drop(instance: Instance): void {
    this.#streams.get(instance)?.destroy();
    this.#streams.delete(instance);
    void this.#fast.get(instance)?.close();
    this.#fast.delete(instance);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const agent of this.#streams.values()) agent.destroy();
    await Promise.all([...this.#fast.values()].map((pool) => pool.destroy()));
  }

  #poolOf(instance: Instance): Pool {
    const known = this.#fast.get(instance);
    if (known !== undefined) return known;
    const host = instance.host.includes(':') ? `[${instance.host}]` : instance.host;
    // No timeouts of its own: an answer may take as long as its request's deadline, and a stream may be silent for as long as it likes.
    const pool = new Pool(`http://${host}:${instance.port}`, {
      pipelining: 1,
      keepAliveTimeout: IDLE_MS,
      keepAliveMaxTimeout: IDLE_MS,
      headersTimeout: 0,
      bodyTimeout: 0,
      connect: { timeout: CONNECT_MS },
    });
    this.#fast.set(instance, pool);
    return pool;
  }

  #agentOf(instance: Instance): Agent {
    const known = this.#streams.get(instance);
    if (known !== undefined) return known;
    const agent = new Agent({
      keepAlive: true,
      keepAliveMsecs: IDLE_MS,
      maxSockets: Number.POSITIVE_INFINITY,
      scheduling: 'lifo',
      timeout: undefined,
    });
    // Of node's agent `timeout` would also end requests that are quiet; a free socket only is ours to end.
    agent.on('free', (socket) => socket.setTimeout(IDLE_MS));
    this.#streams.set(instance, agent);
    return agent;
  }
}
