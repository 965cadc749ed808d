/**
 * Whether what is shown is fresh, in words; and the form for the token.
 *
 * @import { ApiFailure, Link } from './api.js'
 * @import { Told } from './state.js'
 */
import { token } from './api.js';
import { byId, set, write } from './dom.js';
import { clock } from './words.js';

/**
 * @param {Link} link
 * @param {Told} told
 * @param {number | undefined} heardAtMs when the last event came
 * @returns {{ at: 'live' | 'stale' | 'lost' | 'connecting', text: string }}
 */
export function connectionWords(link, told, heardAtMs) {
  const shown = heardAtMs === undefined ? '' : ` What is shown is of ${clock(heardAtMs)}.`;
  switch (link.at) {
    case 'connecting':
      return { at: 'connecting', text: 'Connecting…' };
    case 'denied':
      return { at: 'lost', text: `The gateway asks for its API token.${shown}` };
    case 'lost': {
      const seconds = Math.ceil((link.retryAtMs - Date.now()) / 1000);
      return { at: 'lost', text: `Reconnecting${seconds > 0 ? ` in ${seconds} s` : '…'}: ${link.why}.${shown}` };
    }
    case 'live':
      if (!told.connection.connected) return { at: 'stale', text: 'Redis is away: what is shown may be old.' };
      if (told.connection.scaler === undefined) return { at: 'stale', text: 'No scaler leads: no instances are added or ended.' };
      return { at: 'live', text: `Live, scaler ${told.connection.scaler} leads` };
  }
}

/** @param {{ at: string, text: string }} words */
export function showConnection({ at, text }) {
  set(byId('connection', HTMLElement), 'data-at', at);
  write(byId('connection-text', HTMLElement), text);
}

export class TokenForm {
  #section = byId('token', HTMLElement);
  #input = byId('token-input', HTMLInputElement);
  #error = byId('token-error', HTMLElement);
  #forget = byId('forget', HTMLButtonElement);

  /** @param {{ onToken: () => void }} deps called when there is a new one, or none any more */
  constructor({ onToken }) {
    byId('token-form', HTMLFormElement).addEventListener('submit', (event) => {
      event.preventDefault();
      token.set(this.#input.value.trim());
      this.#input.value = '';
      onToken();
    });
    this.#forget.addEventListener('click', () => {
      token.forget();
      onToken();
    });
    this.accepted();
  }

  /** @param {ApiFailure} failure */
  ask(failure) {
    const hidden = this.#section.hidden;
    this.#section.hidden = false;
    write(this.#error, token.get() === undefined ? '' : `${failure.code}: ${failure.message}`);
    if (hidden || this.#error.textContent !== '') this.#input.focus();
  }

  accepted() {
    const focused = this.#section.contains(document.activeElement);
    this.#section.hidden = true;
    write(this.#error, '');
    this.#forget.hidden = token.get() === undefined;
    if (focused) byId('pools-title', HTMLElement).focus();
  }
}
