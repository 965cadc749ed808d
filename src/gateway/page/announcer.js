/**
 * Speaks to screen readers through one polite region: what was done here at once, what the pools do in one sentence every few seconds, and
 * only of those that changed.
 *
 * @import { HeardPool } from './state.js'
 */
import { write } from './dom.js';
import { countStates } from './slot-words.js';

const EVERY_MS = 5000;
const MOST_POOLS = 3;

export class Announcer {
  /** @type {Map<string, string>} */
  #told = new Map();
  #lastMs = Number.NEGATIVE_INFINITY;
  #region;

  /** @param {HTMLElement} region */
  constructor(region) {
    this.#region = region;
  }

  /** @param {string} text */
  say(text) {
    // What the pools do may wait until this has been spoken.
    this.#lastMs = performance.now();
    write(this.#region, text);
  }

  /** @param {ReadonlyMap<string, HeardPool>} pools */
  tell(pools) {
    if (performance.now() - this.#lastMs < EVERY_MS) return;
    const changed = [...pools.values()]
      .map(({ pool }) => ({ name: pool.workload, text: sentence(pool) }))
      .filter(({ name, text }) => this.#told.get(name) !== text);
    if (changed.length === 0) return;
    this.#told = new Map([...pools.values()].map(({ pool }) => [pool.workload, sentence(pool)]));
    const more = changed.length > MOST_POOLS ? [`${changed.length - MOST_POOLS} more pools changed`] : [];
    this.say([...changed.slice(0, MOST_POOLS).map(({ name, text }) => `${name}: ${text}`), ...more].join('. '));
  }
}

/** @param {HeardPool['pool']} pool */
function sentence(pool) {
  const counts = countStates(pool.slots);
  const failed = counts.get('failed') ?? 0;
  const cold = counts.get('cold') ?? 0;
  return [
    `${counts.get('live') ?? 0} live`,
    ...(cold > 0 ? [`${cold} cold`] : []),
    `${counts.get('restoring') ?? 0} restoring`,
    ...(failed > 0 ? [`${failed} failed`] : []),
    `${pool.waiting} waiting`,
  ].join(', ');
}
