import { type Agent, type ClientRequest, type IncomingMessage, request } from 'node:http';
import type { Duplex } from 'node:stream';
import type { Exchange, ExchangeEvents, Outgoing } from './exchange.ts';
import { upgradeHead } from './headers.ts';

export type StreamTarget = { readonly host: string; readonly port: number; readonly agent: Agent };

/** How long a body may bring nothing while the application would take more. */
const BODY_IDLE_MS = 60_000;

/** Requests with a body, trailers, `Expect` or a change of protocol, by node:http. The body is read no faster than the application takes it. */
export class StreamExchange implements Exchange {
  readonly #events: ExchangeEvents;
  readonly #outgoing: Outgoing;
  readonly #request: ClientRequest;
  #answer: IncomingMessage | undefined;
  #idle: NodeJS.Timeout | undefined;
  #over = false;

  constructor(target: StreamTarget, outgoing: Outgoing, events: ExchangeEvents) {
    this.#events = events;
    this.#outgoing = outgoing;
    const { method, path } = outgoing;
    this.#request = request({ ...target, method, path, headers: headersOf(outgoing) })
      .on('error', (error) => this.#fail(error))
      .on('socket', (socket) => {
        if (socket.connecting) socket.once('connect', () => this.#connected());
        else this.#connected();
      })
      .on('continue', () => this.#over || events.information(100, []))
      .on('information', ({ statusCode, rawHeaders }) => this.#over || statusCode === 100 || events.information(statusCode, rawHeaders))
      .on('response', (answer) => this.#begin(answer))
      .on('upgrade', (answer, socket, head) => this.#upgrade(answer, socket, head));
  }

  resume(): void {
    this.#answer?.resume();
  }

  abort(): void {
    this.#stop();
    this.#request.destroy();
  }

  /** Nothing is read of the body before: until then the request may still go to another instance. */
  #connected(): void {
    if (this.#over) return;
    this.#events.sent();
    this.#request.flushHeaders();
    const { body } = this.#outgoing;
    if (body === undefined || this.#outgoing.head.body === 'none') {
      this.#request.end();
      return;
    }
    this.#idle = setTimeout(
      () => this.#fail(new Error(`the client sent nothing of the request's body for ${BODY_IDLE_MS / 1000} s`)),
      BODY_IDLE_MS,
    );
    body.on('data', this.#onBody).once('end', this.#onBodyEnd);
  }

  readonly #onBody = (chunk: Buffer): void => {
    this.#idle?.refresh();
    // An application that has answered and closed may not want the rest of the body.
    if (!this.#request.writable) return;
    if (this.#request.write(chunk)) return;
    const body = this.#outgoing.body;
    body?.pause();
    clearTimeout(this.#idle);
    this.#request.once('drain', () => {
      this.#idle?.refresh();
      body?.resume();
    });
  };

  readonly #onBodyEnd = (): void => {
    clearTimeout(this.#idle);
    const trailers = this.#outgoing.trailers?.() ?? [];
    if (trailers.length > 0 && this.#outgoing.head.body === 'chunked') this.#request.addTrailers(pairs(trailers));
    this.#request.end();
  };

  #begin(answer: IncomingMessage): void {
    if (this.#over) {
      answer.destroy();
      return;
    }
    this.#answer = answer;
    const { statusCode = 0, statusMessage = '', rawHeaders } = answer;
    answer
      .on('data', (chunk: Buffer) => this.#over || this.#events.data(chunk) || answer.pause())
      .on('end', () => {
        // Also comes when the connection ended too early.
        if (this.#over || !answer.complete) return;
        this.#stop();
        // An answer that did not wait for the whole body: what is left of that has nowhere to go, and the connection no other use.
        if (!this.#request.writableEnded) this.#request.destroy();
        this.#events.end(answer.rawTrailers);
      })
      .on('error', (error) => this.#fail(error))
      .on('close', () => this.#fail(new Error('it closed the connection before its answer was whole')));
    this.#events.head(statusCode, statusMessage, rawHeaders);
  }

  #upgrade(answer: IncomingMessage, socket: Duplex, head: Buffer): void {
    if (this.#over) {
      socket.destroy();
      return;
    }
    this.#stop();
    this.#events.upgraded(answer.statusMessage ?? '', answer.rawHeaders, socket, head);
  }

  #fail(error: Error): void {
    if (this.#over) return;
    // What comes of a body that the application does not want after it has begun to answer is not what went wrong.
    if (
      this.#answer !== undefined &&
      !this.#answer.destroyed &&
      !this.#answer.complete &&
      error !== this.#answer.errored &&
      isWriteError(error)
    )
      return;
    this.#stop();
    this.#request.destroy();
    this.#events.failed(error);
  }

  #stop(): void {
    this.#over = true;
    clearTimeout(this.#idle);
    this.#outgoing.body?.off('data', this.#onBody).off('end', this.#onBodyEnd);
  }
}

function isWriteError(error: Error): boolean {
  return 'code' in error && error.code === 'EPIPE';
}

function headersOf({ head, upgrade }: Outgoing): string[] {
  if (upgrade !== undefined) return upgradeHead([...head.headers, 'Upgrade', upgrade]);
  const headers = [...head.headers];
  if (head.trailers) headers.push('TE', 'trailers', 'Connection', 'keep-alive, TE');
  else headers.push('Connection', 'keep-alive');
  if (head.body === 'chunked') headers.push('Transfer-Encoding', 'chunked');
  if (head.expectsContinue) headers.push('Expect', '100-continue');
  return headers;
}

function pairs(raw: readonly string[]): [string, string][] {
  const list: [string, string][] = [];
  for (let i = 0; i < raw.length; i += 2) list.push([raw[i] ?? '', raw[i + 1] ?? '']);
  return list;
}
