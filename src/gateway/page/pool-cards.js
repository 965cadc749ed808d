/**
 * One card per workload: its numbers, its snapshot's phase, its slots, its burst button.
 *
 * @import { ApiPod, ApiPool, ApiSlot } from '../schemas.ts'
 * @import { ApiFailure } from './api.js'
 * @import { HeardPool } from './state.js'
 */
import { BurstForm } from './burst-form.js';
import { arrange, el, set, write } from './dom.js';
import { SlotGrid } from './slot-grid.js';
import { countStates, STATES } from './slot-words.js';
import { count, shortDigest } from './words.js';

/** @typedef {{ announce: (text: string) => void, onDenied: (failure: ApiFailure) => void }} Deps */

export class PoolCards {
  /** @type {Map<string, PoolCard>} */
  #cards = new Map();
  #list;
  #deps;

  /**
   * @param {HTMLElement} list
   * @param {Deps} deps
   */
  constructor(list, deps) {
    this.#list = list;
    this.#deps = deps;
  }

  /** @param {ReadonlyMap<string, HeardPool>} pools */
  update(pools) {
    for (const name of this.#cards.keys()) if (!pools.has(name)) this.#cards.delete(name);
    for (const heard of pools.values()) this.#card(heard.pool.workload).update(heard);
    const names = [...pools.keys()].sort((a, b) => a.localeCompare(b));
    arrange(this.#list, names.length > 0 ? names.map((name) => this.#card(name).element) : [nothing()]);
  }

  tick() {
    for (const card of this.#cards.values()) card.tick();
  }

  /** @param {string} name */
  #card(name) {
    const card = this.#cards.get(name) ?? new PoolCard(name, this.#deps);
    this.#cards.set(name, card);
    return card;
  }
}

function nothing() {
  return el(
    'p',
    { class: 'empty' },
    'No workloads. They are in the file that ',
    el('code', {}, 'rekindle up -f rekindle.yaml'),
    ' was given.',
  );
}

/** One number with its name. @param {string} name @param {string} [note] */
export function figure(name, note) {
  const value = el('span', { class: 'value' }, '–');
  const beside = el('span', { class: 'note' }, note ?? '');
  return { element: el('div', {}, el('dt', {}, name), el('dd', {}, value, beside)), value, beside };
}

class PoolCard {
  #heading;
  #phase = el('span', { class: 'chip' });
  #burst = el('span', { class: 'chip', 'data-tone': 'busy' }, 'in a burst');
  #reason = el('p', { class: 'reason' });
  #instances = figure('Instances');
  #waiting = figure('Waiting');
  #inFlight = figure('In flight');
  #grid;
  #form;
  /** @type {HeardPool | undefined} */
  #shown;

  /**
   * @param {string} name
   * @param {Deps} deps
   */
  constructor(name, deps) {
    const id = `pool-${name}`;
    this.#heading = el('h3', { id }, name);
    this.#grid = new SlotGrid(name);
    this.#form = new BurstForm({ workload: name, ...deps }).element;
    this.element = el(
      'article',
      { class: 'card surface', 'aria-labelledby': id, 'data-workload': name },
      el(
        'div',
        { class: 'inside' },
        el(
          'div',
          { class: 'about' },
          el('div', { class: 'head' }, this.#heading, this.#phase, this.#burst),
          el('dl', { class: 'figures' }, this.#instances.element, this.#waiting.element, this.#inFlight.element),
        ),
        this.#form,
        el('div', { class: 'middle' }, this.#reason, this.#grid.element),
      ),
    );
  }

  /** @param {HeardPool} heard */
  update(heard) {
    if (heard === this.#shown) return;
    this.#shown = heard;
    const { pool, heardAtMs } = heard;
    const slots = pool.pods === undefined ? pool.slots : [...pool.slots, ...pool.pods.map(asSlot)];
    const counts = countStates(slots);
    write(this.#instances.value, count((counts.get('live') ?? 0) + (counts.get('cold') ?? 0)));
    const isPlanned = pool.mode !== 'restore';
    const wanted = isPlanned
      ? `of ${count(pool.desired)} wanted, ${count(pool.min)}–${count(pool.max)} allowed`
      : 'as many as Kubernetes wants';
    write(this.#instances.beside, wanted);
    // Requests reach such pods through their Service, not through the gateway.
    this.#form.hidden = !isPlanned;
    write(this.#waiting.value, count(pool.waiting));
    set(this.#waiting.element, 'data-tone', pool.waiting > 0 ? 'busy' : undefined);
    write(this.#inFlight.value, count(pool.inFlight));
    this.#burst.hidden = !pool.burst;
    write(this.#phase, phaseOf(pool));
    set(this.#phase, 'data-tone', { none: undefined, warming: 'busy', ready: 'good', refused: 'bad' }[pool.phase]);
    this.#reason.hidden = pool.phase !== 'refused';
    write(this.#reason, pool.phase === 'refused' ? `Starts cold: ${pool.reason ?? 'no reason was given'}` : '');
    this.#grid.update(slots, heardAtMs);
  }

  tick() {
    this.#grid.tick();
  }
}

/** A pod in the words of slots. @param {ApiPod} pod @returns {ApiSlot} */
function asSlot({ state, connections: _, ...pod }) {
  const same = { ...pod, seed: state === 'seed', draining: false, inFlight: 0 };
  if (state === 'waiting') return { ...same, state: 'restoring' };
  return { ...same, state: state === 'seed' ? 'cold' : state };
}

/** @param {ApiPool} pool */
function phaseOf({ phase, digest }) {
  switch (phase) {
    case 'none':
      return 'no snapshot';
    case 'warming':
      return 'snapshot being made';
    case 'ready':
      return digest === undefined ? 'snapshot ready' : `snapshot ${shortDigest(digest)} ready`;
    case 'refused':
      return 'snapshot refused';
  }
}

/** @param {HTMLElement} list */
export function fillLegend(list) {
  for (const [state, meaning] of Object.entries(STATES)) {
    const square = el('span', { class: 'slot', 'data-state': state, 'aria-hidden': 'true' });
    list.append(el('li', { title: meaning }, square, state, el('span', { class: 'unseen' }, `: ${meaning}`)));
  }
  const more = /** @type {const} */ ([
    ['with request', 'has a request in flight', 'data-busy'],
    ['seed', 'its snapshot is made from it', 'data-seed'],
  ]);
  for (const [word, meaning, mark] of more) {
    const square = el('span', { class: 'slot', 'data-state': 'live', [mark]: true, 'aria-hidden': 'true' });
    list.append(el('li', { title: meaning }, square, word, el('span', { class: 'unseen' }, `: ${meaning}`)));
  }
}
