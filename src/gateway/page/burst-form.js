/** The button that sends a workload many requests at once, and what came of it. */
import { ApiFailure, fireBurst } from './api.js';
import { el, set, write } from './dom.js';
import { count, duration, plural } from './words.js';

export class BurstForm {
  #requests;
  #path;
  #button = el('button', { type: 'submit' }, 'Burst');
  #result = el('p', { class: 'result' });
  #running = false;
  #workload;
  #announce;
  #onDenied;

  /** @param {{ workload: string, announce: (text: string) => void, onDenied: (failure: ApiFailure) => void }} deps */
  constructor({ workload, announce, onDenied }) {
    this.#workload = workload;
    this.#announce = announce;
    this.#onDenied = onDenied;
    this.#requests = el('input', { type: 'number', min: 1, max: 2000, step: 1, value: 50, required: true, inputmode: 'numeric' });
    this.#path = el('input', { type: 'text', value: '/', pattern: '/[!-~]*', required: true, spellcheck: 'false', autocapitalize: 'none' });
    this.#path.title = 'begins with / and holds no spaces';
    set(this.#button, 'aria-label', `Burst: send requests to ${workload}`);
    const form = el(
      'form',
      {},
      el('label', {}, 'Requests', this.#requests),
      el('label', { class: 'path' }, 'Path', this.#path),
      this.#button,
    );
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      void this.#fire();
    });
    this.element = el('div', { class: 'burst', role: 'group', 'aria-label': `Burst at ${workload}` }, form, this.#result);
  }

  async #fire() {
    if (this.#running) return;
    const requests = this.#requests.valueAsNumber;
    this.#run(true);
    this.#show(`Sending ${plural(requests, 'request')}…`, 'busy');
    try {
      const answer = await fireBurst({ workload: this.#workload, requests, path: this.#path.value });
      const counts = `${count(answer.answered)} answered, ${count(answer.failed)} failed`;
      const times = `p50 ${duration(answer.p50Ms)}, p99 ${duration(answer.p99Ms)}, max ${duration(answer.maxMs)}`;
      this.#show(answer.answered > 0 ? `${counts}: ${times}` : counts, answer.failed > 0 ? 'bad' : 'good');
    } catch (error) {
      this.#show(inWords(error), 'bad');
      if (error instanceof ApiFailure && error.status === 401) this.#onDenied(error);
    } finally {
      this.#run(false);
    }
  }

  /** Not the `disabled` attribute: that would throw the keyboard's focus back to the top of the page. @param {boolean} running */
  #run(running) {
    this.#running = running;
    set(this.#button, 'aria-disabled', running ? 'true' : undefined);
  }

  /**
   * @param {string} text
   * @param {'busy' | 'good' | 'bad'} tone
   */
  #show(text, tone) {
    write(this.#result, text);
    set(this.#result, 'data-tone', tone);
    this.#announce(`${this.#workload}: ${text}`);
  }
}

/** @param {unknown} error */
function inWords(error) {
  if (error instanceof ApiFailure) return `${error.code}: ${error.message}`;
  if (error instanceof TypeError) return 'The connection broke before the answer came: the gateway is away, or the network has changed.';
  return String(error);
}
