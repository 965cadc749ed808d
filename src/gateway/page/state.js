/**
 * What the gateway has told, kept by applying its events one after the other.
 *
 * @import { ApiConnection, ApiNode, ApiPool, ApiProblem, ApiSnapshot, ApiStart, ApiState } from '../schemas.ts'
 * @typedef {{ pool: ApiPool, heardAtMs: number }} HeardPool
 */

/** Older starts and problems are forgotten, here as in the gateway. */
export const KEPT_MS = 15 * 60_000;
const MOST_STARTS = 5000;
const MOST_PROBLEMS = 200;

export class Told {
  /** @type {Map<string, HeardPool>} */
  pools = new Map();
  /** @type {readonly ApiNode[]} */
  nodes = [];
  /** @type {readonly ApiSnapshot[]} */
  snapshots = [];
  /** @type {ApiStart[]} */
  starts = [];
  /** Newest last. @type {ApiProblem[]} */
  problems = [];
  /** @type {ApiConnection} */
  connection = { connected: true };
  /** Nothing has been told yet. */
  empty = true;

  /**
   * Takes one event in. Returns which part of the page it changes; undefined for an event of a newer gateway.
   * @param {string} name
   * @param {any} data of the schema that `EVENT_NAMES` in schemas.ts has for this name
   * @returns {'everything' | 'pools' | 'nodes' | 'snapshots' | 'starts' | 'problems' | 'connection' | undefined}
   */
  take(name, data) {
    switch (name) {
      case 'state':
        this.#takeAll(data);
        return 'everything';
      case 'pool':
        this.pools.set(data.workload, { pool: data, heardAtMs: Date.now() });
        return 'pools';
      case 'gone':
        this.pools.delete(data);
        return 'pools';
      case 'nodes':
        this.nodes = data;
        return 'nodes';
      case 'snapshots':
        this.snapshots = data;
        return 'snapshots';
      case 'start':
        this.starts.push(data);
        if (this.starts.length > MOST_STARTS) this.starts.splice(0, this.starts.length - MOST_STARTS);
        return 'starts';
      case 'problem':
        this.problems.push(data);
        if (this.problems.length > MOST_PROBLEMS) this.problems.shift();
        return 'problems';
      case 'connected':
        this.connection = data;
        return 'connection';
      default:
        return undefined;
    }
  }

  /** @param {ApiState} state */
  #takeAll(state) {
    const heardAtMs = Date.now();
    this.pools = new Map(state.pools.map((pool) => [pool.workload, { pool, heardAtMs }]));
    this.nodes = state.nodes;
    this.snapshots = state.snapshots;
    this.starts = state.starts.slice(-MOST_STARTS);
    this.problems = state.problems.slice(-MOST_PROBLEMS);
    this.connection = { connected: state.connected, ...(state.scaler === undefined ? {} : { scaler: state.scaler }) };
    this.empty = false;
  }

  /** @param {number} nowMs by the gateway's clock */
  forget(nowMs) {
    const old = nowMs - KEPT_MS;
    if ((this.starts[0]?.atMs ?? nowMs) < old) this.starts = this.starts.filter(({ atMs }) => atMs >= old);
    if ((this.problems[0]?.atMs ?? nowMs) < old) this.problems = this.problems.filter(({ atMs }) => atMs >= old);
  }
}
