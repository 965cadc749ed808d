import { readEvents } from './sse.js';

/** Every call of the gateway's API, with the token where one is known. */

const KEY = 'rekindle-api-token';
const SILENCE_MS = 30_000;
const BACKOFF_MS = { first: 500, factor: 1.7, longest: 10_000 };

/** What the API answered instead of a success: its code and its sentence. */
export class ApiFailure extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {number} status
   */
  constructor(code, message, status) {
    super(message);
    this.code = code;
    this.status = status;
  }
}

export const token = {
  get: () => sessionStorage.getItem(KEY) ?? undefined,
  /** @param {string} value */
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

/**
 * @param {string} path relative, so that the page also works below a proxy's prefix
 * @param {RequestInit} [init]
 */
async function call(path, init = {}) {
  const headers = new Headers(init.headers);
  const known = token.get();
  if (known !== undefined) headers.set('authorization', `Bearer ${known}`);
  const answer = await fetch(path, { ...init, headers, cache: 'no-store' });
  if (answer.ok) return answer;
  const text = await answer.text().catch(() => '');
  throw failure(answer.status, text);
}

/**
 * @param {number} status
 * @param {string} text
 */
function failure(status, text) {
  try {
    const body = JSON.parse(text);
    if (typeof body.code === 'string' && typeof body.message === 'string') return new ApiFailure(body.code, body.message, status);
  } catch {
    // Not from the gateway: a proxy between us and it.
  }
  return new ApiFailure(`HTTP ${status}`, text.slice(0, 300) || 'no more is known', status);
}

/**
 * Sends a burst and waits until all of it is answered.
 * @param {{ workload: string, requests: number, path: string }} burst
 * @returns {Promise<import('../schemas.ts').BurstAnswer>}
 */
export async function fireBurst(burst) {
  const answer = await call('api/burst', { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(burst) });
  return answer.json();
}

/**
 * What the connection to `/events` is doing.
 * @typedef {{ at: 'connecting' }
 *   | { at: 'live', clockOffsetMs: number }
 *   | { at: 'lost', why: string, retryAtMs: number }
 *   | { at: 'denied', failure: ApiFailure }} Link
 */

/** Follows `/events` for ever: connects again, waiting longer each time, until it is heard again. Stands still while a token is needed. */
export class EventFollower {
  #onEvent;
  #onLink;
  #wake = () => {};
  #attempt = new AbortController();

  /** @param {{ onEvent: (name: string, data: unknown) => void, onLink: (link: Link) => void }} to */
  constructor({ onEvent, onLink }) {
    this.#onEvent = onEvent;
    this.#onLink = onLink;
  }

  /** Connects at once: after a new token, or when the network is back. */
  again() {
    this.#attempt.abort();
    this.#wake();
  }

  async run() {
    let waitMs = BACKOFF_MS.first;
    for (;;) {
      let heard = false;
      const link = await this.#once(() => {
        heard = true;
      });
      if (heard) waitMs = BACKOFF_MS.first;
      if (link === 'again') continue;
      if (link.at === 'lost') {
        const delay = waitMs * (0.75 + Math.random() / 2);
        waitMs = Math.min(waitMs * BACKOFF_MS.factor, BACKOFF_MS.longest);
        this.#onLink({ ...link, retryAtMs: Date.now() + delay });
        if (await this.#pause(delay)) waitMs = BACKOFF_MS.first;
      } else {
        this.#onLink(link);
        await this.#pause();
      }
    }
  }

  /**
   * One connection, until it ends.
   * @param {() => void} heard
   * @returns {Promise<'again' | Link>}
   */
  async #once(heard) {
    this.#attempt = new AbortController();
    const { signal } = this.#attempt;
    try {
      const answer = await call('events', { signal, headers: { accept: 'text/event-stream' } });
      const date = Date.parse(answer.headers.get('date') ?? '');
      // The header has whole seconds: less than two apart are the same time.
      const offset = date - Date.now();
      const clockOffsetMs = Math.abs(offset) > 2000 ? offset : 0;
      if (answer.body === null) return lost('the answer had no body');
      await readEvents(answer.body, SILENCE_MS, ({ event, data }) => {
        heard();
        if (event === 'state') this.#onLink({ at: 'live', clockOffsetMs });
        this.#onEvent(event, JSON.parse(data));
      });
      return signal.aborted ? 'again' : lost('the gateway ended the connection');
    } catch (error) {
      if (signal.aborted) return 'again';
      if (error instanceof ApiFailure && error.status === 401) return { at: 'denied', failure: error };
      if (error instanceof ApiFailure) return lost(`${error.code}: ${error.message}`);
      if (error instanceof TypeError) return lost('the gateway does not answer');
      return lost(`what it said could not be read (${String(error)})`);
    }
  }

  /**
   * Resolves after `ms`, or with true when woken.
   * @param {number} [ms]
   * @returns {Promise<boolean>}
   */
  #pause(ms) {
    return new Promise((resolve) => {
      const timer = ms === undefined ? undefined : setTimeout(() => resolve(false), ms);
      this.#wake = () => {
        clearTimeout(timer);
        resolve(true);
      };
    });
  }
}

/** @param {string} why @returns {Link} */
function lost(why) {
  return { at: 'lost', why, retryAtMs: 0 };
}
