import { createHash, timingSafeEqual } from 'node:crypto';
import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';
import type { Failure } from './failure.ts';

export type GuardOptions = {
  /** When there is one, everything that tells or does something wants it. */
  readonly token?: string | undefined;
  /** The listener is reachable from this machine only. */
  readonly loopback: boolean;
};

/** Health is for probes, and the page holds nothing before it has asked with a token. */
const OPEN = /^\/(healthz|readyz|favicon\.ico)?(\?|$)|^\/[\w-]+\.(js|css|svg|html|png|ico|woff2)(\?|$)/;

/** Who may ask. */
export class Guard {
  /** What the gateway's own clients send; it is no business of applications. */
  readonly authorization: string | undefined;
  readonly #digest: Buffer | undefined;
  readonly #checksHost: boolean;
  #lastHost: string | undefined;

  constructor({ token, loopback }: GuardOptions) {
    this.authorization = token === undefined ? undefined : `Bearer ${token}`;
    this.#digest = this.authorization === undefined ? undefined : digest(this.authorization);
    this.#checksHost = loopback && token === undefined;
  }

  /** Why this request is not answered, or undefined. */
  refusal(request: IncomingMessage): Failure | undefined {
    // A page elsewhere can have its own name point to 127.0.0.1 and then read what is told here (DNS rebinding): only names that mean this machine.
    if (this.#checksHost && !this.#isLocal(request.headers.host ?? '')) {
      return {
        code: 'usage',
        message: `this gateway answers to localhost and loopback addresses only, not to ${request.headers.host}: set a token to use other names`,
      };
    }
    if (this.#digest === undefined || OPEN.test(request.url ?? '')) return undefined;
    const given = request.headers.authorization;
    // Of digests, so that neither content nor length shows in the time it takes.
    if (given !== undefined && timingSafeEqual(digest(given), this.#digest)) return undefined;
    return { code: 'unauthorized', message: 'this gateway has an API token: send it as "Authorization: Bearer TOKEN"' };
  }

  #isLocal(host: string): boolean {
    if (host === this.#lastHost) return true;
    const name = host.replace(/:\d+$/, '').toLowerCase();
    const local = name === 'localhost' || name.endsWith('.localhost') || /^127(\.\d{1,3}){3}$/.test(name) || name === '[::1]';
    if (local) this.#lastHost = host;
    return local;
  }
}

/** A page of another origin must not make this browser's user do something here, which needs no answer to be read (CSRF). */
export function isForeign(headers: IncomingHttpHeaders): boolean {
  const site = headers['sec-fetch-site'];
  if (site !== undefined && site !== 'same-origin' && site !== 'none') return true;
  const { origin, host } = headers;
  if (origin === undefined) return false;
  return !URL.canParse(origin) || new URL(origin).host !== host;
}

export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host);
}

const digest = (text: string): Buffer => createHash('sha256').update(text).digest();
