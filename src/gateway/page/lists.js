/**
 * Snapshots, nodes and problems.
 *
 * @import { ApiNode, ApiProblem, ApiSnapshot } from '../schemas.ts'
 * @import { Cell } from './dom.js'
 */
import { arrange, el, fill, table } from './dom.js';
import { age, clock, count, duration, plural, shortDigest, size } from './words.js';

const SHOWN_PROBLEMS = 50;

export class SnapshotList {
  #table = table('Snapshots', ['Workload', 'Snapshot', 'Size#', 'Age#', 'Freeze#', 'Verification', 'On nodes']);
  #place;

  /** @param {HTMLElement} place */
  constructor(place) {
    this.#place = place;
  }

  /**
   * @param {readonly ApiSnapshot[]} snapshots
   * @param {number} nowMs by the gateway's clock
   */
  update(snapshots, nowMs) {
    const sorted = [...snapshots].sort((a, b) => a.workload.localeCompare(b.workload) || b.createdAtMs - a.createdAtMs);
    fill(
      this.#table,
      sorted.map((snapshot) => snapshotRow(snapshot, nowMs)),
    );
    arrange(
      this.#place,
      sorted.length > 0 ? [this.#table.frame] : [empty('No snapshots yet: the first instance of each workload starts cold.')],
    );
  }
}

/**
 * @param {ApiSnapshot} snapshot
 * @param {number} nowMs
 * @returns {Cell[]}
 */
function snapshotRow(snapshot, nowMs) {
  const { verifiedAtMs, quarantined } = snapshot;
  /** @type {Cell} */
  let verification = { text: 'not verified yet', tone: 'quiet' };
  if (verifiedAtMs !== undefined) verification = `verified ${age(nowMs - verifiedAtMs)} ago`;
  if (quarantined !== undefined) verification = { text: `✕ quarantined: ${quarantined}`, tone: 'bad' };
  return [
    snapshot.workload,
    shortDigest(snapshot.digest),
    size(snapshot.totalBytes),
    age(nowMs - snapshot.createdAtMs),
    duration(snapshot.freezeMs),
    verification,
    snapshot.nodes.join(', ') || { text: 'none', tone: 'quiet' },
  ];
}

export class NodeList {
  #table = table('Nodes', ['Node', 'State', 'Slots#', 'Instances#', 'Snapshots#', 'Cores#', 'Memory#', 'Class']);
  #place;

  /** @param {HTMLElement} place */
  constructor(place) {
    this.#place = place;
  }

  /** @param {readonly ApiNode[]} nodes */
  update(nodes) {
    const sorted = [...nodes].sort((a, b) => a.name.localeCompare(b.name, 'en', { numeric: true }));
    fill(this.#table, sorted.map(nodeRow));
    arrange(
      this.#place,
      sorted.length > 0 ? [this.#table.frame] : [empty('No node is heard of: no agent is running, or none reaches Redis.')],
    );
  }
}

/** @param {ApiNode} node @returns {Cell[]} */
function nodeRow(node) {
  const state = [
    node.leaving ? 'leaving: takes no more work' : 'works',
    ...(node.pulling > 0 ? [`pulls ${plural(node.pulling, 'snapshot')}`] : []),
  ];
  return [
    node.name,
    state.join(', '),
    count(node.slots + (node.pods ?? 0)),
    count(node.instances),
    count(node.snapshots),
    count(node.cores),
    size(node.memoryBytes),
    { text: node.machineClass.slice(0, 12), tone: 'quiet' },
  ];
}

/**
 * Problems, newest first; the same one again and again is one line with a count.
 * @param {HTMLElement} place
 * @param {readonly ApiProblem[]} problems newest last
 */
export function showProblems(place, problems) {
  /** @type {{ problem: ApiProblem, times: number }[]} */
  const lines = [];
  for (const problem of problems.toReversed()) {
    const last = lines.at(-1);
    if (last !== undefined && sameProblem(last.problem, problem)) last.times += 1;
    else if (lines.push({ problem, times: 1 }) > SHOWN_PROBLEMS) break;
  }
  const items = lines.slice(0, SHOWN_PROBLEMS).map(({ problem, times }) => {
    const where = [problem.workload, problem.node && `on ${problem.node}`].filter((word) => word !== undefined).join(' ');
    const time = el('time', { datetime: new Date(problem.atMs).toISOString() }, clock(problem.atMs));
    return el(
      'li',
      {},
      time,
      el('span', { class: 'where' }, where),
      el('span', { class: 'what' }, problem.text + (times > 1 ? ` (${times} times)` : '')),
    );
  });
  arrange(place, items.length > 0 ? [el('ol', { class: 'problems', role: 'list' }, ...items)] : [empty('None in the last minutes.')]);
}

/** @param {ApiProblem} a @param {ApiProblem} b */
const sameProblem = (a, b) => a.text === b.text && a.workload === b.workload && a.node === b.node;

/** @param {string} text */
const empty = (text) => el('p', { class: 'empty' }, text);
