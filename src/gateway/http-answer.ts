import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import type { Answer, AnswerEvents } from './answer.ts';
import { type Failure, statusOf } from './failure.ts';
import type { RawHeaders } from './headers.ts';
import { FrameEnd, goingAway } from './websocket.ts';

/** How long a client may take nothing of an answer that waits for it: slower than some bytes a second is not a reader. */
const STALLED_MS = 60_000;

const JOINED_BYTES = 8192;

/** An answer to a client over HTTP/1. */
export class HttpAnswer implements Answer {
  readonly #request: IncomingMessage;
  readonly #response: ServerResponse;
  #events: AnswerEvents | undefined;
  #left: number | undefined;
  #flushed = false;
  #stalled: NodeJS.Timeout | undefined;
  #sayGoodbye: ((reason: string) => void) | undefined;

  constructor(request: IncomingMessage, response: ServerResponse) {
    this.#request = request;
    this.#response = response;
  }

  /** Who is told what the client does. */
  listen(events: AnswerEvents): void {
    this.#events = events;
    this.#response.on('close', this.#onClose).on('error', this.#onClose);
  }

  information(status: number, headers: RawHeaders): void {
    const response = this.#response;
    // HTTP/1.0 does not know them.
    if (this.#request.httpVersion === '1.0') return;
    if (status === 100) response.writeContinue();
    else if (status === 102) response.writeProcessing();
    else if (status === 103) {
      const hints: Record<string, string | string[]> = {};
      const links: string[] = [];
      for (let i = 0; i < headers.length; i += 2) {
        const name = headers[i]?.toLowerCase() ?? '';
        if (name === 'link') links.push(headers[i + 1] ?? '');
        else hints[name] = headers[i + 1] ?? '';
      }
      if (links.length > 0) response.writeEarlyHints({ ...hints, link: links });
    }
  }

  chunked(length: number | undefined): boolean {
    return length === undefined && this.#request.httpVersion === '1.1' && this.#request.method !== 'HEAD';
  }

  head(status: number, message: string, headers: string[], length: number | undefined): void {
    const response = this.#response;
    const bodiless = status === 204 || status === 304 || this.#request.method === 'HEAD';
    response.writeHead(status, message, headers);
    this.#left = bodiless ? undefined : length;
    // Bytes of the body, when they come along, go out with the head; else it does not wait for them.
    if (this.#left !== 0) process.nextTick(() => this.#flush());
  }

  data(chunk: Buffer): boolean {
    const flushed = this.#flushed;
    this.#flushed = true;
    const response = this.#response;
    if (this.#left !== undefined) {
      this.#left -= chunk.length;
      // The last of it goes out in one write with what is before it.
      if (this.#left === 0) {
        // Node joins a head and a text into one write, and costs a quarter more of the whole for a head and bytes.
        if (chunk.length <= JOINED_BYTES && !flushed) response.end(chunk.toString('latin1'), 'latin1');
        else response.end(chunk);
        return true;
      }
    }
    if (response.write(chunk)) return true;
    this.#stalled = setTimeout(() => response.destroy(), STALLED_MS);
    response.once('drain', this.#onDrain);
    return false;
  }

  end(trailers: RawHeaders): void {
    this.#flushed = true;
    if (trailers.length > 0) this.#addTrailers(trailers);
    this.#response.end();
  }

  cut(): void {
    const { socket } = this.#response;
    // Only a reset tells a client of HTTP/1.0 that the end of the connection is not the end of the answer.
    if (this.#request.httpVersion === '1.0' && socket !== null && 'resetAndDestroy' in socket) socket.resetAndDestroy();
    else this.#response.destroy();
  }

  fail(failure: Failure, headers: string[]): void {
    const response = this.#response;
    if (response.headersSent || response.destroyed) {
      response.destroy();
      return;
    }
    sendFailure(this.#request, response, failure, headers);
  }

  upgraded(message: string, headers: string[], application: Duplex, head: Buffer): void {
    const client = this.#response.socket;
    if (client === null) {
      application.destroy();
      return;
    }
    this.#response.off('close', this.#onClose);
    this.#response.detachSocket(client);
    let text = `HTTP/1.1 101 ${message || 'Switching Protocols'}\r\n`;
    for (let i = 0; i < headers.length; i += 2) text += `${headers[i]}: ${headers[i + 1]}\r\n`;
    client.write(`${text}\r\n`, 'latin1');
    if (head.length > 0) application.unshift(head);
    client.on('error', () => application.destroy()).on('close', () => application.destroy());
    application.on('error', () => client.destroy()).on('close', () => client.destroySoon());
    const frames = this.#request.headers.upgrade?.toLowerCase() === 'websocket' ? new FrameEnd() : undefined;
    if (frames !== undefined) application.on('data', (chunk: Buffer) => frames.push(chunk));
    application.pipe(client).pipe(application);
    this.#sayGoodbye = (reason) => {
      application.unpipe(client);
      // In the middle of a frame nothing can be said.
      if (frames?.between) client.end(goingAway(reason));
      else client.end();
    };
  }

  close(reason: string): void {
    this.#sayGoodbye?.(reason);
  }

  readonly #onDrain = (): void => {
    clearTimeout(this.#stalled);
    this.#events?.resumed();
  };

  readonly #onClose = (): void => {
    clearTimeout(this.#stalled);
    if (!this.#response.writableFinished) this.#events?.gone();
  };

  #flush(): void {
    if (this.#flushed || this.#response.destroyed) return;
    this.#flushed = true;
    this.#response.flushHeaders();
  }

  #addTrailers(raw: RawHeaders): void {
    const list: [string, string][] = [];
    for (let i = 0; i < raw.length; i += 2) list.push([raw[i] ?? '', raw[i + 1] ?? '']);
    try {
      this.#response.addTrailers(list);
    } catch {
      // One that cannot be written is left out with the rest: the answer is whole without.
    }
  }
}

/** The gateway's own answer, as JSON. What is left of the request's body is not waited for. */
export function sendFailure(request: IncomingMessage, response: ServerResponse, failure: Failure, headers: readonly string[] = []): void {
  const body = Buffer.from(JSON.stringify({ code: failure.code, message: failure.message }));
  const all = [
    ...headers,
    'content-type',
    'application/json; charset=utf-8',
    'content-length',
    String(body.length),
    'cache-control',
    'no-store',
  ];
  if (failure.retryAfterSeconds !== undefined) all.push('retry-after', String(failure.retryAfterSeconds));
  // A large upload that nobody wants is not read to its end.
  if (!request.complete && hasBody(request)) all.push('connection', 'close');
  response.writeHead(statusOf(failure), all);
  response.end(body);
}

const hasBody = ({ headers }: IncomingMessage): boolean =>
  headers['transfer-encoding'] !== undefined || (headers['content-length'] ?? '0') !== '0';
