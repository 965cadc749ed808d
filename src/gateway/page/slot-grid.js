/**
 * The slots of one pool as squares. For the keyboard and for screen readers a list to choose from: one stop of the Tab key, arrows inside,
 * and a line below that tells about the square that is pointed at or focused, else how many there are of each state.
 *
 * @import { ApiSlot } from '../schemas.ts'
 * @typedef {{ element: HTMLElement, slot: ApiSlot, sinceMs: number }} Square
 */
import { arrange, el, set, write } from './dom.js';
import { describe, tally } from './slot-words.js';
import { age } from './words.js';

const ORDER = new Intl.Collator('en', { numeric: true });
/** Ages are told anew with every event and differ by the way they took: a state has begun when it was first said to, give or take this. */
const SAME_SINCE_MS = 2500;

export class SlotGrid {
  /** @type {Map<string, Square>} */
  #squares = new Map();
  /** In the order shown. @type {Square[]} */
  #order = [];
  /** @type {Map<string, HTMLElement>} */
  #groups = new Map();
  /** Pointed at. @type {string | undefined} */
  #hovered;
  /** The one that Tab reaches. @type {string | undefined} */
  #chosen;
  #list;
  #line = el('p', { class: 'line' });

  /** @param {string} workload */
  constructor(workload) {
    this.#list = el('div', { class: 'slots', role: 'listbox', 'aria-label': `Slots of ${workload}`, 'aria-orientation': 'horizontal' });
    this.element = el('div', { class: 'grid' }, this.#list, this.#line);
    this.#list.addEventListener('pointerover', (event) => this.#point(uidOf(event.target)));
    this.#list.addEventListener('pointerleave', () => this.#point(undefined));
    this.#list.addEventListener('focusin', (event) => this.#choose(uidOf(event.target)));
    this.#list.addEventListener('focusout', () => queueMicrotask(() => this.tick()));
    this.#list.addEventListener('keydown', (event) => this.#key(event));
  }

  /**
   * @param {readonly ApiSlot[]} slots
   * @param {number} heardAtMs
   */
  update(slots, heardAtMs) {
    for (const slot of slots) this.#put(slot, heardAtMs - slot.ageMs);
    const here = new Set(slots.map(({ uid }) => uid));
    const came = this.#order.length !== slots.length || this.#order.some(({ slot }) => !here.has(slot.uid));
    for (const uid of this.#squares.keys()) if (!here.has(uid)) this.#squares.delete(uid);
    if (came) this.#lay();
    this.tick();
  }

  /** The line below: about one square while it is pointed at or focused, whose age grows; else the count of all. */
  tick() {
    const focused = this.#list.contains(document.activeElement) ? this.#chosen : undefined;
    const square = this.#squares.get(this.#hovered ?? focused ?? '');
    const text = square && `${describe(square.slot, square.sinceMs)} (${age(Date.now() - square.sinceMs)})`;
    write(this.#line, text ?? (tally(this.#order.map(({ slot }) => slot)) || 'no slots'));
    set(this.#line, 'data-about', square && 'slot');
    this.#list.hidden = this.#order.length === 0;
  }

  /**
   * @param {ApiSlot} slot
   * @param {number} sinceMs
   */
  #put(slot, sinceMs) {
    const old = this.#squares.get(slot.uid);
    const square = old ?? { element: el('div', { role: 'option', class: 'slot', 'data-uid': slot.uid, tabindex: -1 }), slot, sinceMs };
    if (old === undefined) this.#squares.set(slot.uid, square);
    else if (old.slot.state !== slot.state || Math.abs(old.sinceMs - sinceMs) > SAME_SINCE_MS) old.sinceMs = sinceMs;
    square.slot = slot;
    const { element } = square;
    set(element, 'data-state', slot.state);
    set(element, 'data-busy', slot.inFlight > 0);
    set(element, 'data-seed', slot.seed);
    set(element, 'data-draining', slot.draining);
    set(element, 'aria-selected', slot.uid === this.#chosen ? 'true' : 'false');
    set(element, 'aria-label', describe(slot, square.sinceMs));
  }

  /** Slots came or went. They stand by node and name, so that none moves because another changed. */
  #lay() {
    const lost = this.#list.contains(document.activeElement) ? this.#order.findIndex(({ slot }) => slot.uid === this.#chosen) : -1;
    this.#order = [...this.#squares.values()].sort(
      (a, b) => ORDER.compare(a.slot.node, b.slot.node) || ORDER.compare(a.slot.name, b.slot.name) || ORDER.compare(a.slot.uid, b.slot.uid),
    );
    /** @type {Map<string, HTMLElement[]>} */
    const byNode = new Map();
    for (const { slot, element } of this.#order) {
      const there = byNode.get(slot.node);
      if (there === undefined) byNode.set(slot.node, [element]);
      else there.push(element);
    }
    for (const node of this.#groups.keys()) if (!byNode.has(node)) this.#groups.delete(node);
    for (const [node, elements] of byNode) arrange(this.#group(node), elements);
    arrange(
      this.#list,
      [...byNode.keys()].map((node) => this.#group(node)),
    );
    set(this.#list, 'data-nodes', byNode.size > 1);
    if (this.#chosen !== undefined && !this.#squares.has(this.#chosen)) this.#chosen = undefined;
    this.#setStop();
    // The square that had the focus has gone: its neighbour takes it, else the keyboard would be back at the top of the page.
    if (lost >= 0 && this.#chosen === undefined) this.#order[Math.min(lost, this.#order.length - 1)]?.element.focus();
  }

  /** @param {string} node */
  #group(node) {
    const there = this.#groups.get(node) ?? el('div', { class: 'group', role: 'group', 'aria-label': node, 'data-node': node });
    this.#groups.set(node, there);
    return there;
  }

  #setStop() {
    const stop = this.#squares.get(this.#chosen ?? '') ?? this.#order[0];
    for (const square of this.#order) {
      set(square.element, 'tabindex', square === stop ? 0 : -1);
      set(square.element, 'aria-selected', square.slot.uid === this.#chosen ? 'true' : 'false');
    }
  }

  /** @param {string | undefined} uid */
  #point(uid) {
    this.#hovered = uid;
    this.tick();
  }

  /** @param {string | undefined} uid */
  #choose(uid) {
    if (uid === undefined) return;
    this.#chosen = uid;
    this.#setStop();
    this.tick();
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const at = this.#order.findIndex(({ slot }) => slot.uid === this.#chosen);
    const to = this.#target(event.key, at);
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    this.#order[to]?.element.focus();
  }

  /**
   * Where a key leads from the square at `at`; undefined for a key that is none of ours.
   * @param {string} key
   * @param {number} at
   */
  #target(key, at) {
    const last = this.#order.length - 1;
    switch (key) {
      case 'ArrowRight':
        return Math.min(at + 1, last);
      case 'ArrowLeft':
        return Math.max(at - 1, 0);
      case 'Home':
        return 0;
      case 'End':
        return last;
      case 'ArrowDown':
      case 'ArrowUp':
        return this.#inNextRow(at, key === 'ArrowDown' ? 1 : -1);
      default:
        return undefined;
    }
  }

  /**
   * The nearest square of the next row, as they happen to be wrapped.
   * @param {number} at
   * @param {1 | -1} step
   */
  #inNextRow(at, step) {
    const from = this.#order[at]?.element.getBoundingClientRect();
    if (from === undefined) return at;
    let best = at;
    let row;
    let nearest = Number.POSITIVE_INFINITY;
    for (let next = at + step; next >= 0 && next < this.#order.length; next += step) {
      const box = this.#order[next]?.element.getBoundingClientRect();
      if (box === undefined || Math.abs(box.top - from.top) < 2) continue;
      row ??= box.top;
      if (Math.abs(box.top - row) > 2) break;
      const distance = Math.abs(box.left - from.left);
      if (distance < nearest) [nearest, best] = [distance, next];
    }
    return best;
  }
}

/** @param {EventTarget | null} target */
function uidOf(target) {
  return target instanceof HTMLElement ? target.dataset.uid : undefined;
}
