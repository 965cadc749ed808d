import type { Dispatcher, Pool } from 'undici';
import type { Exchange, ExchangeEvents, Outgoing } from './exchange.ts';

/**
 * Requests without a body, by undici, which costs half of what node:http does. It can neither send trailers nor `Expect`, and an answer that begins
 * before the request's body has ended ends its connection: see StreamExchange for those.
 */
export class FastExchange implements Exchange, Dispatcher.DispatchHandler {
  readonly #events: ExchangeEvents;
  #controller: Dispatcher.DispatchController | undefined;
  #over = false;

  constructor(pool: Pool, { method, path, head }: Outgoing, events: ExchangeEvents) {
    this.#events = events;
    // The types name the methods that have one in the standard; undici takes any token.
    pool.dispatch({ method: method as Dispatcher.HttpMethod, path, headers: head.headers }, this);
  }

  resume(): void {
    this.#controller?.resume();
  }

  abort(): void {
    this.#over = true;
    this.#controller?.abort(GONE);
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    this.#controller = controller;
    // Nobody wanted it any more while it waited for its connection.
    if (this.#over) controller.abort(GONE);
    else this.#events.sent();
  }

  onResponseStart(controller: Dispatcher.DispatchController, status: number, _: unknown, message?: string): void {
    if (this.#over) return;
    const headers = texts(controller.rawHeaders);
    if (status < 200) this.#events.information(status, headers);
    else this.#events.head(status, message ?? '', headers);
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    if (!this.#over && !this.#events.data(chunk)) controller.pause();
  }

  onResponseEnd(controller: Dispatcher.DispatchController): void {
    if (this.#over) return;
    this.#over = true;
    this.#events.end(texts(controller.rawTrailers));
  }

  onResponseError(_: Dispatcher.DispatchController, error: Error): void {
    if (this.#over) return;
    this.#over = true;
    this.#events.failed(error);
  }
}

const GONE = new Error('the client has gone');
const NONE: readonly string[] = [];

/** Names and values as one list of texts. */
function texts(raw: Dispatcher.DispatchController['rawHeaders']): readonly string[] {
  if (!Array.isArray(raw) || raw.length === 0) return NONE;
  return raw.map((one) => (typeof one === 'string' ? one : one.toString('latin1')));
}
