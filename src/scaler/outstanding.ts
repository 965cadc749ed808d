import type { Action } from '../pool/actions.ts';
import { JOBS, jobId } from '../queue/jobs.ts';
import type { NodeTruth, View } from '../queue/truth.ts';
import type { Order } from './jobs.ts';

type Waiting = { readonly order: Order; readonly agent: string; readonly queuedAtMs: number; askAtMs: number };
type Tries = { readonly count: number; readonly untilMs: number; readonly agent: string };

/** So long after it was queued, and between two times, Redis is asked whether the job is still there. */
const ASK_AFTER_MS = 500;
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 30_000;
/** One seed may be lost with its job; agents say themselves what can have no snapshot. */
const IN_VAIN = 3;

/**
 * What was queued and is not shown by its agent yet, for `assume`. It is forgotten when the truth shows it, when its job is gone (done, failed,
 * or lost by Redis), when its agent is another, and at its deadline: then the next plan decides anew. What was tried in vain is tried
 * again after a pause that doubles.
 */
export class Outstanding {
  readonly #waiting = new Map<string, Waiting>();
  readonly #tries = new Map<string, Tries>();

  get actions(): Action[] {
    return [...this.#waiting.values()].map(({ order }) => order.action);
  }

  /** Whether it may be asked for now. */
  may(order: Order, nowMs: number): boolean {
    return !this.#waiting.has(keyOf(order)) && nowMs >= (this.#tries.get(triesOf(order))?.untilMs ?? nowMs);
  }

  add(order: Order, agent: string, nowMs: number): void {
    this.#waiting.set(keyOf(order), { order, agent, queuedAtMs: nowMs, askAtMs: nowMs + ASK_AFTER_MS });
    // These show that they have begun long before they fail, and of each there is one at a time: every try counts.
    if (order.action.do === 'warm' || order.action.do === 'pull') this.#tried(order, agent, nowMs, FIRST_PAUSE_MS);
  }

  /** Forgets what the view shows, and what has become moot. */
  settle(view: View, nowMs: number): void {
    for (const [key, { order, agent, queuedAtMs }] of this.#waiting) {
      const node = view.nodes.get(order.action.node)?.said;
      const revision = view.workloads?.get(order.action.workload)?.revision;
      if (node?.agent !== agent || nowMs >= queuedAtMs + JOBS[order.job.name].deadlineMs) {
        this.#waiting.delete(key);
      } else if (isShown(order, node, revision)) {
        this.#waiting.delete(key);
        if (order.action.do !== 'warm' && order.action.do !== 'pull') this.#tries.delete(triesOf(order));
      }
    }
    for (const [key, { untilMs, agent }] of this.#tries) {
      const node = view.nodes.get(key.split(' ')[1] ?? '')?.said;
      // Another agent has failed at nothing yet; and a pause that has long been over says nothing more.
      if ((node !== undefined && node.agent !== agent) || nowMs > untilMs + 2 * LONGEST_PAUSE_MS) this.#tries.delete(key);
    }
  }

  /** The jobs of which Redis is to be asked now, by node. */
  due(nowMs: number): { readonly key: string; readonly node: string; readonly id: string }[] {
    const due = [...this.#waiting].filter(([, { askAtMs }]) => nowMs >= askAtMs);
    for (const [, waiting] of due) waiting.askAtMs = nowMs + ASK_AFTER_MS;
    return due.map(([key, { order }]) => ({ key, node: order.action.node, id: jobId(order.job) }));
  }

  /** It could not be queued. */
  withdraw(order: Order): void {
    this.#waiting.delete(keyOf(order));
  }

  /** The job is gone, and nothing shows what it was for: Redis lost it, or it failed. The first time may well be the former. */
  forget(key: string, nowMs: number): void {
    const waiting = this.#waiting.get(key);
    this.#waiting.delete(key);
    if (waiting !== undefined && waiting.order.action.do !== 'warm' && waiting.order.action.do !== 'pull')
      this.#tried(waiting.order, waiting.agent, nowMs, 0);
  }

  /** `WORKLOAD CLASS` where the next seed must wait, after several that came to nothing. */
  held(view: View, nowMs: number): Set<string> {
    const all = new Set<string>();
    for (const [key, { count, untilMs }] of this.#tries) {
      const [what, node = '', workload] = key.split(' ');
      const machineClass = view.nodes.get(node)?.said.machineClass;
      const isUnderWay = this.#waiting.has(`${node} warm.${workload}`);
      if (what === 'warm' && count >= IN_VAIN && nowMs < untilMs && machineClass !== undefined && !isUnderWay)
        all.add(`${workload} ${machineClass}`);
    }
    return all;
  }

  clear(): void {
    this.#waiting.clear();
  }

  #tried(order: Order, agent: string, nowMs: number, firstPauseMs: number): void {
    const count = (this.#tries.get(triesOf(order))?.count ?? 0) + 1;
    const doubled = FIRST_PAUSE_MS * 2 ** Math.min(count - 1, 16);
    const pauseMs = count === 1 ? firstPauseMs : Math.min(doubled, LONGEST_PAUSE_MS);
    this.#tries.set(triesOf(order), { count, untilMs: nowMs + pauseMs, agent });
  }
}

function keyOf({ action, job }: Order): string {
  return `${action.node} ${jobId(job)}`;
}

/** What fails together. */
function triesOf({ action }: Order): string {
  const { do: what, node, workload } = action;
  if (action.do === 'pull') return `${what} ${node} ${action.digest}`;
  return action.do === 'warm' || action.do === 'park' ? `${what} ${node} ${workload}` : `${what} ${node} ${action.slot}`;
}

/** The agent has begun. */
function isShown({ action, slot }: Order, node: NodeTruth, revision: string | undefined): boolean {
  if (action.do === 'warm')
    return node.phases.some((one) => one.workload === action.workload && one.revision === revision && one.at !== 'none');
  if (action.do === 'pull') return node.pulling.includes(action.digest) || hasSnapshot(node, action.digest);
  const now = node.slots.find(({ uid }) => uid === action.slot);
  if (action.do === 'park') return now !== undefined;
  return now === undefined || now.parks !== slot?.parks || now.state !== slot.state;
}

function hasSnapshot(node: NodeTruth, digest: string): boolean {
  return node.snapshots.some((one) => one.digest === digest);
}
