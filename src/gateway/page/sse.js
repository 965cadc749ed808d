/**
 * Server-sent events read by fetch, because EventSource cannot send a token.
 * The format is that of https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream; ids are not used.
 *
 * @typedef {{ event: string, data: string }} ServerEvent
 */

/** Puts pieces of text together again into events. */
export class EventParser {
  #rest = '';
  #event = '';
  /** @type {string[]} */
  #data = [];

  /**
   * The events that this piece completes.
   * @param {string} piece
   * @returns {ServerEvent[]}
   */
  push(piece) {
    const text = this.#rest + piece;
    /** @type {ServerEvent[]} */
    const events = [];
    let from = 0;
    for (;;) {
      const end = lineEnd(text, from);
      if (end === undefined) break;
      this.#line(text.slice(from, end.at), events);
      from = end.next;
    }
    this.#rest = text.slice(from);
    return events;
  }

  /**
   * @param {string} line
   * @param {ServerEvent[]} events
   */
  #line(line, events) {
    if (line === '') {
      if (this.#data.length > 0) events.push({ event: this.#event || 'message', data: this.#data.join('\n') });
      this.#event = '';
      this.#data = [];
      return;
    }
    const colon = line.indexOf(':');
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(line[colon + 1] === ' ' ? colon + 2 : colon + 1);
    if (field === 'event') this.#event = value;
    if (field === 'data') this.#data.push(value);
  }
}

/**
 * Where the next line ends. Undefined where that cannot be known yet: a CR at the very end may be half of a CR LF.
 * @param {string} text
 * @param {number} from
 */
function lineEnd(text, from) {
  const lf = text.indexOf('\n', from);
  const cr = text.indexOf('\r', from);
  if (cr < 0 || (lf >= 0 && lf < cr)) return lf < 0 ? undefined : { at: lf, next: lf + 1 };
  if (cr === text.length - 1) return undefined;
  return { at: cr, next: text[cr + 1] === '\n' ? cr + 2 : cr + 1 };
}

/**
 * The events of one answer, until it ends, `signal` aborts, or nothing at all (not even a comment) comes for `silenceMs`.
 * @param {ReadableStream<Uint8Array>} body
 * @param {number} silenceMs
 * @param {(event: ServerEvent) => void} heard
 */
export async function readEvents(body, silenceMs, heard) {
  const parser = new EventParser();
  const decoder = new TextDecoder();
  const reader = body.getReader();
  // A connection whose other end has gone without a word (a laptop that slept) never ends by itself.
  const silence = () => reader.cancel().catch(() => {});
  let timer = setTimeout(silence, silenceMs);
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      clearTimeout(timer);
      timer = setTimeout(silence, silenceMs);
      for (const event of parser.push(decoder.decode(value, { stream: true }))) heard(event);
    }
  } finally {
    clearTimeout(timer);
    reader.cancel().catch(() => {});
  }
}
