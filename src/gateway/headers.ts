import { isTraceparent, newTraceparent } from './trace-context.ts';

/** Names and values in turn, as node:http's `rawHeaders`. */
export type RawHeaders = readonly string[];

/** What the gateway itself has to know of a request's head; `headers` is what the application gets. */
export type RequestHead = {
  readonly headers: string[];
  /** A body follows: of a known length, or in chunks. */
  readonly body: 'none' | 'length' | 'chunked';
  readonly expectsContinue: boolean;
  /** The client can read trailers, or sends some: both need the slower way. */
  readonly trailers: boolean;
};

/** Where a request came from, for the headers that tell. */
export type Client = { readonly address: string; readonly proto: 'http' | 'https'; readonly httpVersion: string };

export type RequestHeadOptions = {
  readonly client: Client;
  /** The `Authorization` that is the gateway's own token and no business of the application. */
  readonly ownAuthorization?: string | undefined;
};

/** Meant for the next hop only, RFC 9110 7.6.1; `Expect` and `Content-Length` are said anew by who sends the request on. */
const HOP_BY_HOP = new Set(['connection', 'keep-alive', 'proxy-connection', 'te', 'transfer-encoding', 'upgrade', 'http2-settings']);

/** The request's head as the application shall see it. */
export function requestHead(raw: RawHeaders, { client, ownAuthorization }: RequestHeadOptions): RequestHead {
  const headers: string[] = [];
  const named = connectionOptions(raw);
  let body: RequestHead['body'] = 'none';
  let expectsContinue = false;
  let trailers = false;
  let host = '';
  let forwardedFor = '';
  let forwarded = '';
  let forwardedHost = false;
  let forwardedProto = false;
  let traceparent: string | undefined;
  const tracestates: string[] = [];
  for (let i = 0; i < raw.length; i += 2) {
    const name = raw[i] ?? '';
    const value = raw[i + 1] ?? '';
    const lower = name.toLowerCase();
    switch (lower) {
      case 'host':
        host = value;
        break;
      case 'content-length':
        if (value !== '0') body = 'length';
        headers.push(name, value);
        continue;
      case 'transfer-encoding':
        body = 'chunked';
        continue;
      case 'expect':
        expectsContinue = true;
        continue;
      case 'te':
        trailers ||= /\btrailers\b/i.test(value);
        continue;
      case 'trailer':
        trailers = true;
        break;
      case 'authorization':
        if (value === ownAuthorization) continue;
        break;
      case 'x-forwarded-for':
        forwardedFor += `${value}, `;
        continue;
      case 'forwarded':
        forwarded += `${value}, `;
        continue;
      case 'x-forwarded-host':
        forwardedHost = true;
        break;
      case 'x-forwarded-proto':
        forwardedProto = true;
        break;
      case 'traceparent':
        traceparent = value;
        continue;
      case 'tracestate':
        tracestates.push(value);
        continue;
    }
    if (HOP_BY_HOP.has(lower) || named?.has(lower)) continue;
    headers.push(name, value);
  }
  headers.push('x-forwarded-for', forwardedFor + client.address);
  if (!forwardedHost && host !== '') headers.push('x-forwarded-host', host);
  if (!forwardedProto) headers.push('x-forwarded-proto', client.proto);
  headers.push('forwarded', forwarded + forwardedElement(client, host));
  if (traceparent !== undefined && isTraceparent(traceparent)) {
    headers.push('traceparent', traceparent);
    if (tracestates.length > 0) headers.push('tracestate', tracestates.join(','));
  } else {
    // The state belongs to the trace that it came with.
    headers.push('traceparent', newTraceparent());
  }
  return { headers, body, expectsContinue, trailers };
}

/** RFC 7239: addresses of version 6 are in brackets and quotes, and so is everything that is no token. */
function forwardedElement({ address, proto }: Client, host: string): string {
  const node = address.includes(':') ? `"[${address}]"` : address;
  const named = host === '' || /["\\]/.test(host) ? '' : `;host="${host}"`;
  return `for=${node}${named};proto=${proto}`;
}

/** Headers that the `Connection` header says are for the next hop only; undefined where it says nothing of the kind. */
function connectionOptions(raw: RawHeaders): ReadonlySet<string> | undefined {
  let named: Set<string> | undefined;
  for (let i = 0; i < raw.length; i += 2) {
    const name = raw[i] ?? '';
    if (name.length !== 10 || name.toLowerCase() !== 'connection') continue;
    const value = (raw[i + 1] ?? '').toLowerCase();
    if (value === 'keep-alive' || value === 'close' || value === 'upgrade') continue;
    named ??= new Set();
    for (const option of value.split(',')) named.add(option.trim());
  }
  // These make a message what it is: a client that calls them meant for this hop alone must not take them from the application (smuggling).
  for (const kept of ['host', 'content-length', 'cookie', 'authorization', 'x-forwarded-for', 'forwarded']) named?.delete(kept);
  return named;
}

/** An answer's head as the client shall see it, without what the gateway adds. `length` is what `Content-Length` says. */
export type AnswerHead = { readonly headers: string[]; readonly length: number | undefined };

/** `chunked`: the answer can have trailers, so that naming them makes sense. */
export function answerHead(raw: RawHeaders, chunked: (length: number | undefined) => boolean): AnswerHead {
  const headers: string[] = [];
  const named = connectionOptions(raw);
  let length: number | undefined;
  let trailer: string | undefined;
  for (let i = 0; i < raw.length; i += 2) {
    const name = raw[i] ?? '';
    const value = raw[i + 1] ?? '';
    const lower = name.toLowerCase();
    if (lower === 'content-length') length = Number(value);
    if (lower === 'trailer') trailer = trailer === undefined ? value : `${trailer}, ${value}`;
    else if (!HOP_BY_HOP.has(lower) && !named?.has(lower)) headers.push(name, value);
  }
  if (trailer !== undefined && chunked(length)) headers.push('trailer', trailer);
  return { headers, length };
}

/** A switch of protocols: `Connection` and `Upgrade` are what it is about, and stay. */
export function upgradeHead(raw: RawHeaders): string[] {
  const headers: string[] = [];
  for (let i = 0; i < raw.length; i += 2) {
    const lower = (raw[i] ?? '').toLowerCase();
    if (!HOP_BY_HOP.has(lower) || lower === 'upgrade') headers.push(raw[i] ?? '', raw[i + 1] ?? '');
  }
  headers.push('Connection', 'Upgrade');
  return headers;
}
