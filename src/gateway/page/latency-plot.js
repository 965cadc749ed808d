/**
 * Starts as dots, by time and by how long each took (log scale), with the medians of restores and of cold starts as lines; and the same as a
 * table. Round is restored, a diamond is cold.
 *
 * @import { ApiStart } from '../schemas.ts'
 * @typedef {{ sorted: number[], p50: number | undefined, p99: number | undefined }} Summary
 */
import { arrange, el, fill, set, svg, table, write } from './dom.js';
import { KEPT_MS } from './state.js';
import { count, duration, percentile, plural } from './words.js';

const SHOWN_MS = 60_000;
const HEIGHT = 230;
const MARGIN = { top: 10, right: 10, bottom: 24, left: 48 };
const KINDS = /** @type {const} */ (['restore', 'cold']);
const NAMES = { restore: 'restored', cold: 'started cold' };

export class LatencyPlot {
  #select;
  /** @type {readonly ApiStart[]} */
  #starts = [];
  #nowMs = Date.now();
  #width = 400;
  #axes = svg('g', { class: 'axes' });
  #dots = { restore: svg('path', { class: 'dots restore' }), cold: svg('path', { class: 'dots cold' }) };
  #medians = svg('g', { class: 'medians' });
  #picture = svg('svg', { role: 'img', height: HEIGHT, class: 'plot' });
  #key = { restore: el('span'), cold: el('span') };
  #table = table('Starts of the last 15 minutes', ['Workload', 'How', 'Starts#', 'p50#', 'p99#', 'Slowest#']);
  #none = el('p', { class: 'empty' }, 'Nothing has been started in the last 15 minutes.');

  /**
   * @param {HTMLElement} place
   * @param {HTMLSelectElement} select the filter by workload
   */
  constructor(place, select) {
    this.#select = select;
    this.#picture.append(this.#axes, this.#dots.cold, this.#dots.restore, this.#medians);
    const keys = KINDS.map((kind) => el('li', {}, el('span', { class: `mark ${kind}`, 'aria-hidden': 'true' }), this.#key[kind]));
    place.append(
      el(
        'figure',
        {},
        el('ul', { class: 'key' }, ...keys),
        this.#picture,
        el('figcaption', {}, 'Dots: starts of the last minute. Lines and table: the last 15 minutes.'),
      ),
      this.#none,
      this.#table.frame,
    );
    select.addEventListener('change', () => this.#draw());
    new ResizeObserver(([entry]) => {
      this.#width = Math.max(200, entry?.contentRect.width ?? 400);
      this.#draw();
    }).observe(place);
  }

  /**
   * @param {readonly ApiStart[]} starts
   * @param {Iterable<string>} workloads
   * @param {number} nowMs by the gateway's clock
   */
  update(starts, workloads, nowMs) {
    this.#starts = starts.filter(({ start, atMs }) => start.ms !== undefined && atMs > nowMs - KEPT_MS);
    this.#nowMs = nowMs;
    this.#offer([...new Set([...workloads, ...starts.map(({ workload }) => workload)])].sort((a, b) => a.localeCompare(b)));
    this.#draw();
    this.#tell();
  }

  /** @param {readonly string[]} workloads */
  #offer(workloads) {
    const there = [...this.#select.options].slice(1).map(({ value }) => value);
    if (there.join('\n') === workloads.join('\n')) return;
    const chosen = this.#select.value;
    this.#select.replaceChildren(el('option', { value: '' }, 'all'), ...workloads.map((name) => el('option', { value: name }, name)));
    this.#select.value = workloads.includes(chosen) ? chosen : '';
  }

  #draw() {
    const chosen = this.#select.value;
    const starts = this.#starts.filter(({ workload }) => chosen === '' || workload === chosen);
    const summary = { restore: summarise(starts, 'restore'), cold: summarise(starts, 'cold') };
    const [low, high] = decades(starts);
    const inner = HEIGHT - MARGIN.top - MARGIN.bottom;
    const y = (/** @type {number} */ ms) => MARGIN.top + inner * (1 - (Math.log10(Math.max(ms, 10 ** low)) - low) / (high - low));
    const x = (/** @type {number} */ atMs) =>
      MARGIN.left + (this.#width - MARGIN.left - MARGIN.right) * (1 - (this.#nowMs - atMs) / SHOWN_MS);
    set(this.#picture, 'width', this.#width);
    set(this.#picture, 'viewBox', `0 0 ${this.#width} ${HEIGHT}`);
    this.#drawAxes(low, high, y);
    for (const kind of KINDS) {
      const shown = starts.filter(({ start, atMs }) => start.how === kind && atMs > this.#nowMs - SHOWN_MS);
      set(
        this.#dots[kind],
        'd',
        shown.map(({ atMs, start }) => dot(kind, Math.min(x(atMs), this.#width - MARGIN.right), y(start.ms ?? 0))).join(''),
      );
      set(this.#dots[kind], 'data-count', shown.length);
      const { sorted, p50 } = summary[kind];
      write(this.#key[kind], `${count(sorted.length)} ${NAMES[kind]}${p50 === undefined ? '' : `, p50 ${duration(p50)}`}`);
    }
    this.#drawMedians(summary, y);
    set(this.#picture, 'aria-label', `Start latency on a logarithmic scale. ${sentence(summary)} The table below has the numbers.`);
  }

  /**
   * @param {number} low
   * @param {number} high
   * @param {(ms: number) => number} y
   */
  #drawAxes(low, high, y) {
    const right = this.#width - MARGIN.right;
    const parts = [];
    for (let power = low; power <= high; power += 1) {
      const at = Math.round(y(10 ** power)) + 0.5;
      parts.push(svg('line', { x1: MARGIN.left, x2: right, y1: at, y2: at }));
      parts.push(
        svg('text', { x: MARGIN.left - 8, y: at + 4, 'text-anchor': 'end' }, power < 3 ? `${10 ** power} ms` : `${10 ** (power - 3)} s`),
      );
    }
    const seconds = [60, 45, 30, 15, 0];
    for (const ago of seconds) {
      const at = MARGIN.left + ((right - MARGIN.left) * (60 - ago)) / 60;
      parts.push(svg('text', { x: at, y: HEIGHT - 6, 'text-anchor': ago === 0 ? 'end' : 'middle' }, ago === 0 ? 'now' : `−${ago} s`));
    }
    arrange(this.#axes, parts);
  }

  /**
   * @param {Record<'restore' | 'cold', Summary>} summary
   * @param {(ms: number) => number} y
   */
  #drawMedians(summary, y) {
    const right = this.#width - MARGIN.right;
    /** @type {SVGElement[]} */
    const parts = [];
    for (const kind of KINDS) {
      const { p50 } = summary[kind];
      if (p50 === undefined) continue;
      const at = y(p50);
      // The label of the faster stands below its line, that of the slower above: they never meet.
      const other = summary[kind === 'restore' ? 'cold' : 'restore'].p50;
      const above = other === undefined || p50 >= other;
      const label = above ? Math.max(at - 5, 11) : Math.min(at + 16, HEIGHT - MARGIN.bottom - 3);
      parts.push(svg('line', { class: kind, x1: MARGIN.left, x2: right, y1: at, y2: at }));
      parts.push(
        svg('text', { class: kind, x: MARGIN.left + 6, y: label }, `p50 ${kind === 'cold' ? 'cold' : 'restore'} ${duration(p50)}`),
      );
    }
    arrange(this.#medians, parts);
  }

  #tell() {
    const names = [...new Set(this.#starts.map(({ workload }) => workload))].sort((a, b) => a.localeCompare(b));
    this.#none.hidden = names.length > 0;
    this.#table.frame.hidden = names.length === 0;
    const rows = names.flatMap((name) => {
      const starts = this.#starts.filter(({ workload }) => workload === name);
      return KINDS.flatMap((kind) => row(name, kind, summarise(starts, kind)));
    });
    fill(this.#table, rows);
  }
}

/**
 * A row of the table, or none.
 * @param {string} workload
 * @param {'restore' | 'cold'} kind
 * @param {Summary} summary
 */
function row(workload, kind, { sorted, p50, p99 }) {
  if (p50 === undefined || p99 === undefined) return [];
  return [[workload, NAMES[kind], count(sorted.length), duration(p50), duration(p99), duration(sorted.at(-1) ?? p99)]];
}

/**
 * @param {readonly ApiStart[]} starts
 * @param {'restore' | 'cold'} kind
 * @returns {Summary}
 */
function summarise(starts, kind) {
  const sorted = starts.flatMap(({ start }) => (start.how === kind && start.ms !== undefined ? [start.ms] : [])).sort((a, b) => a - b);
  return { sorted, p50: percentile(sorted, 0.5), p99: percentile(sorted, 0.99) };
}

/** @param {Record<'restore' | 'cold', Summary>} summary */
function sentence(summary) {
  return KINDS.map((kind) => {
    const { sorted, p50 } = summary[kind];
    return `${plural(sorted.length, 'instance')} ${NAMES[kind]}${p50 === undefined ? '' : `, half of them within ${duration(p50)}`}.`;
  }).join(' ');
}

/** The powers of ten that hold every start, at least 10 ms to 10 s, so that the scale does not jump about. @param {readonly ApiStart[]} starts */
function decades(starts) {
  let [low, high] = [1, 4];
  for (const { start } of starts) {
    const power = Math.log10(Math.max(start.ms ?? 100, 1));
    low = Math.min(low, Math.floor(power));
    high = Math.max(high, Math.ceil(power));
  }
  return /** @type {const} */ ([low, high]);
}

/**
 * One mark of a path: many marks are one element, so that thousands cost little.
 * @param {'restore' | 'cold'} kind
 * @param {number} x
 * @param {number} y
 */
function dot(kind, x, y) {
  const [left, top] = [x.toFixed(1), y.toFixed(1)];
  if (kind === 'restore') return `M${left} ${top}m-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0z`;
  return `M${left} ${top}m0-4l4 4l-4 4l-4-4z`;
}
