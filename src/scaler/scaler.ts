import type { Clock } from '../lib/clock.ts';
import type { Log } from '../lib/log.ts';
import type { Controller } from '../lib/loop.ts';
import type { Action } from '../pool/actions.ts';
import { assume } from '../pool/assume.ts';
import { plan } from '../pool/plan.ts';
import type { Burst, PoolState } from '../pool/state.ts';
import type { JobQueues } from '../queue/job-queue.ts';
import type { ScalerTruth, SharedView, SlotTruth, Teller, WorkloadTruth } from '../queue/truth.ts';
import { Draining, HOLD_MS } from './draining.ts';
import { type NodeAction, orderOf } from './jobs.ts';
import { Outstanding } from './outstanding.ts';
import { demandNow, poolStateOf } from './state.ts';
import { DemandWindows } from './windows.ts';

export type ScalerDeps = {
  readonly id: string;
  readonly view: SharedView;
  readonly queues: Pick<JobQueues, 'add' | 'exists'>;
  readonly leader: { readonly leads: boolean };
  /** Of the file, or of the cluster's pods. The same array until it changes. */
  readonly workloads: () => readonly WorkloadTruth[];
  /** In a cluster: nodes that have no room at present. */
  readonly full?: () => ReadonlySet<string>;
  readonly log: Log;
  /** Monotonic. */
  readonly clock: Clock;
  /** After every pass that planned, for metrics. */
  readonly onPlan?: (durationMs: number, actions: readonly Action[]) => void;
};

const EVERY_MS = 250;
const PAUSE_MS = 5;
/** So long after this one began to lead, or Redis came back, nodes may not have told yet what they have. */
const SETTLE_MS = 1_200;
/** What was told so long before that is as good as told since. */
const TOLD_BEFORE_MS = 1_500;

/**
 * Keeps the pools as policy and demand ask for, while it leads: looks at the shared view, plans, and queues jobs. What it remembers (demand of the
 * last minutes, what is queued) may be lost at any time. Woken by changes of the view, so that a request that waits is planned for at once.
 */
export class Scaler implements Controller, AsyncDisposable {
  readonly name = 'scaler';
  readonly #deps: ScalerDeps;
  readonly #log: Log;
  readonly #windows = new DemandWindows();
  readonly #outstanding = new Outstanding();
  readonly #draining = new Draining();
  #bursts: ReadonlyMap<string, Burst> = new Map();
  #lastUsed: ReadonlyMap<string, number> = new Map();
  #desired: ReadonlyMap<string, number> = new Map();
  #tellers: { readonly scaler: Teller; readonly workloads: Teller } | undefined;
  #toldWorkloads: readonly WorkloadTruth[] = [];
  #toldAtMs = Number.NEGATIVE_INFINITY;
  #told = '';
  /** When it began to lead with Redis there. */
  #sinceMs: number | undefined;
  #mayPassAtMs = Number.NEGATIVE_INFINITY;

  constructor(deps: ScalerDeps) {
    this.#deps = deps;
    this.#log = deps.log.child({ component: 'scaler' });
  }

  async reconcile(signal: AbortSignal): Promise<{ requeueAfterMs: number }> {
    const { clock, leader, view } = this.#deps;
    const pauseMs = this.#mayPassAtMs - clock.now();
    if (pauseMs > 0) await clock.sleep(pauseMs, signal);
    if (!leader.leads) {
      await this.#standDown();
      return { requeueAfterMs: EVERY_MS };
    }
    this.#tell();
    if (!view.connected) {
      this.#sinceMs = undefined;
      return { requeueAfterMs: EVERY_MS };
    }
    const startedMs = clock.now();
    this.#windows.sample(view.view, this.#deps.workloads(), startedMs);
    if (!this.#isSettled(startedMs)) return { requeueAfterMs: 50 };
    const requeueAfterMs = await this.#pass(startedMs);
    const tookMs = clock.now() - startedMs;
    // A great fleet must not take the whole core.
    this.#mayPassAtMs = clock.now() + Math.max(PAUSE_MS, tookMs);
    return { requeueAfterMs: Math.max(requeueAfterMs, 4 * tookMs) };
  }

  /** Takes back what it told, except the workloads. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#standDown();
  }

  async #pass(nowMs: number): Promise<number> {
    const { clock, view: shared, workloads, onPlan, full } = this.#deps;
    const { view } = shared;
    this.#outstanding.settle(view, nowMs);
    await this.#forgetLost(nowMs);
    const waiting = demandNow(view, nowMs);
    const ending = new Set(this.#outstanding.actions.flatMap((action) => ('slot' in action ? [action.slot] : [])));
    this.#draining.settle(
      view,
      (workload) => (waiting.get(workload)?.waiting ?? 0) > 0,
      (uid) => ending.has(uid),
    );
    this.#draining.drainOutdated(view, nowMs);

    const memory = {
      windows: this.#windows.windows,
      bursts: this.#bursts,
      lastUsed: this.#lastUsed,
      draining: this.#draining.lives,
      held: this.#outstanding.held(view, nowMs),
      ...(full === undefined ? {} : { full: full() }),
    };
    const seen = poolStateOf(view, workloads(), memory, nowMs);
    const { actions, bursts, desired } = plan(assume(seen, this.#outstanding.actions, nowMs), nowMs);
    this.#bursts = bursts;
    this.#desired = desired;
    this.#lastUsed = lastUsedOf(seen);
    onPlan?.(clock.now() - nowMs, actions);
    const isAllDone = await this.#act(actions, nowMs);
    this.#tellDecisions();
    return isAllDone ? EVERY_MS : HOLD_MS / 2;
  }

  /** Queues what is to be done. False if something is left for soon. */
  async #act(actions: readonly Action[], nowMs: number): Promise<boolean> {
    let isAllDone = true;
    const toQueue: NodeAction[] = [];
    for (const action of actions) {
      const slot = 'slot' in action && action.do !== 'park' ? this.#slot(action.node, action.slot) : undefined;
      if (action.do === 'drain') {
        if (slot !== undefined) this.#draining.drain(slot, nowMs);
      } else if (!endsInstance(action) || slot === undefined || this.#draining.hold(slot, nowMs)) toQueue.push(action);
      else isAllDone = false;
    }
    const queued = await Promise.all(toQueue.map((action) => this.#queue(action, nowMs)));
    return isAllDone && queued.every((done) => done);
  }

  async #queue(wanted: NodeAction, nowMs: number): Promise<boolean> {
    const { view, queues, leader } = this.#deps;
    const order = orderOf(wanted, view.view.nodes);
    const agent = view.view.nodes.get(wanted.node)?.said.agent;
    if (order === undefined || agent === undefined || !this.#outstanding.may(order, nowMs)) return true;
    if (wanted.do === 'warm' && !this.#knowsOf(wanted.node, wanted.workload, nowMs)) return false;
    // By the clock, not by what was true when the pass began.
    if (!leader.leads) return true;
    const { do: what, node, workload } = order.action;
    const slot = 'slot' in order.action ? order.action.slot : undefined;
    this.#outstanding.add(order, agent, nowMs);
    const done = await queues.add(node, order.job);
    if (done) this.#log.info({ do: what, workload, node, slot }, 'job queued');
    else this.#outstanding.withdraw(order);
    return done;
  }

  /** Jobs that Redis no longer has: done, failed or lost. */
  async #forgetLost(nowMs: number): Promise<void> {
    const due = this.#outstanding.due(nowMs);
    const exist = await Promise.all(due.map(({ node, id }) => this.#deps.queues.exists(node, id)));
    for (const [index, { key }] of due.entries()) if (exist[index] === false) this.#outstanding.forget(key, nowMs);
  }

  /** Whether the nodes that there are have been heard: else slots would be made that are there already. */
  #isSettled(nowMs: number): boolean {
    this.#sinceMs ??= nowMs;
    const since = this.#sinceMs;
    if (nowMs - since >= SETTLE_MS) return true;
    const nodes = [...this.#deps.view.view.nodes.values()];
    return nodes.length > 0 && nodes.every(({ heardAtMs }) => heardAtMs >= since - TOLD_BEFORE_MS);
  }

  #tell(): void {
    const { view, workloads, clock } = this.#deps;
    const known = workloads();
    if (this.#tellers === undefined) {
      this.#draining.adopt(view.view.scaler?.said.draining ?? [], view.view, clock.now());
      this.#tellers = { scaler: view.tellScaler(() => this.#truth()), workloads: view.tellWorkloads(workloads) };
    } else if (known !== this.#toldWorkloads) {
      this.#tellers.workloads.now();
    }
    if (known !== this.#toldWorkloads) this.#toldAtMs = clock.now();
    this.#toldWorkloads = known;
  }

  #tellDecisions(): void {
    const text = JSON.stringify(this.#truth());
    if (text !== this.#told) this.#tellers?.scaler.now();
    this.#told = text;
  }

  #truth(): ScalerTruth {
    const bursts = [...this.#bursts.keys()];
    return { id: this.#deps.id, draining: this.#draining.uids, desired: Object.fromEntries(this.#desired), bursts };
  }

  async #standDown(): Promise<void> {
    this.#sinceMs = undefined;
    this.#outstanding.clear();
    this.#draining.clear();
    const tellers = this.#tellers;
    this.#tellers = undefined;
    await tellers?.scaler[Symbol.asyncDispose]();
    await tellers?.workloads[Symbol.asyncDispose]();
  }

  /** Whether the node has said what snapshot it has of the workload as it is now: just changed, it may have one that fits. */
  #knowsOf(node: string, workload: string, nowMs: number): boolean {
    const revision = this.#toldWorkloads.find(({ name }) => name === workload)?.revision;
    const phases = this.#deps.view.view.nodes.get(node)?.said.phases ?? [];
    return phases.some((one) => one.workload === workload && one.revision === revision) || nowMs - this.#toldAtMs > SETTLE_MS;
  }

  #slot(node: string, uid: string): SlotTruth | undefined {
    return this.#deps.view.view.nodes.get(node)?.said.slots.find((slot) => slot.uid === uid);
  }
}

function endsInstance(action: Action): boolean {
  return action.do === 'end' || action.do === 'suspend' || (action.do === 'remove' && action.why === 'idle');
}

/** Kept while slots are parked, and forgotten with them. */
function lastUsedOf({ slots }: PoolState): Map<string, number> {
  return new Map(slots.flatMap(({ uid, lastUsedMs }) => (lastUsedMs > 0 ? [[uid, lastUsedMs] as const] : [])));
}
