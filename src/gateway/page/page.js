/**
 * The page of rekindle's gateway, put together: events come in, what they change is drawn in the next frame.
 *
 * @import { ApiFailure, Link } from './api.js'
 */
import { Announcer } from './announcer.js';
import { EventFollower } from './api.js';
import { connectionWords, showConnection, TokenForm } from './connection.js';
import { byId, write } from './dom.js';
import { LatencyPlot } from './latency-plot.js';
import { NodeList, SnapshotList, showProblems } from './lists.js';
import { figure, fillLegend, PoolCards } from './pool-cards.js';
import { countStates } from './slot-words.js';
import { Told } from './state.js';
import { count } from './words.js';

const told = new Told();
/** @type {Link} */
let link = { at: 'connecting' };
/** @type {number | undefined} */
let heardAtMs;
let clockOffsetMs = 0;

const announcer = new Announcer(byId('announcer', HTMLElement));
const tokenForm = new TokenForm({ onToken: () => follower.again() });
const cards = new PoolCards(byId('pool-list', HTMLElement), { announce: (text) => announcer.say(text), onDenied: denied });
const plot = new LatencyPlot(byId('starts', HTMLElement), byId('starts-filter', HTMLSelectElement));
const snapshots = new SnapshotList(byId('snapshots', HTMLElement));
const nodes = new NodeList(byId('nodes', HTMLElement));
const totals = { instances: figure('Instances'), waiting: figure('Waiting'), inFlight: figure('In flight') };
const follower = new EventFollower({ onEvent: heard, onLink: linked });

/** What has to be drawn again. @type {Set<ReturnType<Told['take']>>} */
const stale = new Set();

/**
 * @param {string} name
 * @param {unknown} data
 */
function heard(name, data) {
  heardAtMs = Date.now();
  const part = told.take(name, data);
  if (part === undefined) return;
  // However many events come, a frame draws once; a hidden tab draws nothing until it is seen again.
  if (stale.size === 0) requestAnimationFrame(draw);
  stale.add(part);
}

/** @param {Link} now */
function linked(now) {
  const before = link.at;
  link = now;
  if (now.at === 'live') {
    clockOffsetMs = now.clockOffsetMs;
    tokenForm.accepted();
  }
  if (now.at === 'denied') tokenForm.ask(now.failure);
  const words = connectionWords(link, told, heardAtMs);
  showConnection(words);
  if (before !== now.at && before !== 'connecting') announcer.say(words.text);
}

/** @param {ApiFailure} failure */
function denied(failure) {
  tokenForm.ask(failure);
}

function draw() {
  const has = (/** @type {ReturnType<Told['take']>} */ part) => stale.has(part) || stale.has('everything');
  const nowMs = Date.now() + clockOffsetMs;
  if (has('pools')) {
    cards.update(told.pools);
    drawTotals();
    announcer.tell(told.pools);
  }
  if (has('nodes')) nodes.update(told.nodes);
  if (has('snapshots')) snapshots.update(told.snapshots, nowMs);
  if (has('starts')) plot.update(told.starts, told.pools.keys(), nowMs);
  if (has('problems')) showProblems(byId('problems', HTMLElement), told.problems);
  showConnection(connectionWords(link, told, heardAtMs));
  stale.clear();
}

function drawTotals() {
  let [instances, waiting, inFlight] = [0, 0, 0];
  for (const { pool } of told.pools.values()) {
    const counts = countStates(pool.slots);
    instances += (counts.get('live') ?? 0) + (counts.get('cold') ?? 0);
    waiting += pool.waiting;
    inFlight += pool.inFlight;
  }
  write(totals.instances.value, count(instances));
  write(totals.waiting.value, count(waiting));
  write(totals.inFlight.value, count(inFlight));
}

/** What changes by time alone: ages, the plot's dots, the seconds until the next attempt. */
function tick() {
  const nowMs = Date.now() + clockOffsetMs;
  showConnection(connectionWords(link, told, heardAtMs));
  if (told.empty || document.hidden) return;
  told.forget(nowMs);
  cards.tick();
  snapshots.update(told.snapshots, nowMs);
  plot.update(told.starts, told.pools.keys(), nowMs);
  announcer.tell(told.pools);
}

byId('totals', HTMLElement).append(...Object.values(totals).map(({ element }) => element));
fillLegend(byId('legend', HTMLElement));
setInterval(tick, 1000);
addEventListener('online', () => follower.again());
void follower.run();
