import type { Action } from '../../../src/pool/actions.ts';
import { assume } from '../../../src/pool/assume.ts';
import { demandOf, emptyWindow, observe, type Window } from '../../../src/pool/demand.ts';
import { plan } from '../../../src/pool/plan.ts';
import type { PoolSlot, PoolState, PoolWorkload, SnapshotPhase } from '../../../src/pool/state.ts';

export const STEP_MS = 50;
const TAKES = { restore: 100, cold: 1_000, snapshot: 500, make: 200, pull: 400, end: 100 };

type Client = { readonly workload: string; readonly serviceMs: number; since: number; on: string | undefined; doneAt: number };

/** Clients of a workload that send their next request when the last was answered: their number is the concurrency. */
export type Load = { readonly clients: number; readonly serviceMs: number };

/** A fleet that does what plans say, each thing after a while, and checks at each step that nothing is broken. Starts empty. */
export class Simulator {
  nowMs = 1_000_000;
  state: PoolState;
  readonly taken: { readonly atMs: number; readonly action: Action }[] = [];
  readonly answered = new Map<string, number>();
  readonly longestWaitMs = new Map<string, number>();
  #clients: Client[] = [];
  #due: { readonly atMs: number; readonly apply: () => void }[] = [];
  readonly #windows = new Map<string, Window>();
  readonly #leaving = new Set<Client>();
  #made = 0;

  constructor(state: PoolState) {
    this.state = state;
  }

  load(workload: string, { clients, serviceMs }: Load): void {
    this.#clients = this.#clients.filter((client) => client.workload !== workload || client.on !== undefined);
    const now = this.#clients.filter((client) => client.workload === workload).length;
    const more = Math.max(0, clients - now);
    this.#clients.push(...Array.from({ length: more }, () => ({ workload, serviceMs, since: this.nowMs, on: undefined, doneAt: 0 })));
    let surplus = now - clients;
    // Clients that are served leave with their answer.
    for (const client of this.#clients) if (client.workload === workload && surplus-- > 0) this.#leaving.add(client);
  }

  run(ms: number): void {
    const until = this.nowMs + ms;
    while (this.nowMs < until) this.#step();
  }

  #step(): void {
    this.nowMs += STEP_MS;
    const due = this.#due.filter(({ atMs }) => atMs <= this.nowMs);
    this.#due = this.#due.filter(({ atMs }) => atMs > this.nowMs);
    for (const { apply } of due) apply();
    this.#answer();
    this.#assign();
    this.state = { ...this.state, workloads: this.state.workloads.map((workload) => this.#withDemand(workload)) };
    const { actions, bursts } = plan(this.state, this.nowMs);
    const workloads = this.state.workloads.map(({ burst: _, ...workload }) => {
      const burst = bursts.get(workload.name);
      return burst === undefined ? workload : { ...workload, burst };
    });
    for (const action of actions) this.#take(action);
    this.state = assume({ ...this.state, workloads }, actions, this.nowMs);
    for (const action of actions) this.#begin(action);
    this.#check();
  }

  #answer(): void {
    for (const client of this.#clients) {
      if (client.on === undefined || client.doneAt > this.nowMs) continue;
      this.#change(client.on, (slot) => ({ inFlight: slot.inFlight - 1, lastUsedMs: this.nowMs }));
      this.answered.set(client.workload, (this.answered.get(client.workload) ?? 0) + 1);
      Object.assign(client, { on: undefined, since: this.nowMs });
    }
    this.#clients = this.#clients.filter((client) => !(this.#leaving.has(client) && client.on === undefined));
  }

  #assign(): void {
    for (const client of this.#clients.filter(({ on }) => on === undefined).sort((a, b) => a.since - b.since)) {
      const waited = this.nowMs - client.since;
      this.longestWaitMs.set(client.workload, Math.max(waited, this.longestWaitMs.get(client.workload) ?? 0));
      const target = this.#workload(client.workload).policy.targetConcurrency;
      const free = this.state.slots.filter(
        (one) => one.workload === client.workload && one.ready && !one.draining && one.state !== 'ending' && one.inFlight < target,
      );
      const [best] = free.sort((a, b) => a.inFlight - b.inFlight || b.lastUsedMs - a.lastUsedMs || (a.uid < b.uid ? -1 : 1));
      if (best === undefined) continue;
      this.#change(best.uid, (slot) => ({ inFlight: slot.inFlight + 1 }));
      Object.assign(client, { on: best.uid, doneAt: this.nowMs + client.serviceMs });
    }
  }

  #withDemand(workload: PoolWorkload): PoolWorkload {
    const mine = this.#clients.filter((client) => client.workload === workload.name);
    const waiting = mine.filter(({ on }) => on === undefined);
    const { policy, name } = workload;
    const sample = { atMs: this.nowMs, concurrency: mine.length, arrivals: 0 };
    const window = observe(this.#windows.get(name) ?? emptyWindow(policy.stableWindowMs), sample);
    this.#windows.set(name, window);
    const oldestWaitingMs = Math.max(0, ...waiting.map(({ since }) => this.nowMs - since));
    const now = { inFlight: mine.length - waiting.length, waiting: waiting.length, oldestWaitingMs };
    return { ...workload, demand: demandOf(window, now, policy, this.nowMs) };
  }

  #take(action: Action): void {
    this.taken.push({ atMs: this.nowMs, action });
    if (action.do !== 'end' && action.do !== 'suspend' && action.do !== 'remove' && action.do !== 'restore') return;
    const slot = this.state.slots.find(({ uid }) => uid === action.slot);
    if (slot === undefined) throw new Error(`${action.do} of a slot that is not there: ${action.slot}`);
    if (slot.inFlight > 0) throw new Error(`${action.do} with requests in flight: ${action.slot}`);
    if (action.do === 'restore' && slot.state !== 'parked' && slot.state !== 'suspended')
      throw new Error(`restore of a ${slot.state} slot`);
  }

  #begin(action: Action): void {
    switch (action.do) {
      case 'restore': {
        const cold = action.snapshot === undefined;
        const after = { state: cold ? 'cold' : 'live', ready: true } as const;
        return this.#later(cold ? TAKES.cold : TAKES.restore, () => this.#change(action.slot, () => ({ ...after, ...this.#fresh() })));
      }
      case 'park':
        return this.#later(TAKES.make, () => {
          this.#made += 1;
          this.#change(action.slot, () => ({ uid: `slot-${this.#made}`, state: 'parked', sinceMs: this.nowMs }));
        });
      case 'pull':
        return this.#later(TAKES.pull, () => this.#arrived(action.node, action.digest));
      case 'warm':
        return this.#warm(action);
      case 'end':
        return this.#later(TAKES.end, () => this.#change(action.slot, () => ({ state: 'parked', sinceMs: this.nowMs, draining: false })));
      case 'suspend': {
        const after = { state: 'suspended', suspended: `state of ${action.slot}`, draining: false } as const;
        return this.#later(TAKES.end, () => this.#change(action.slot, () => ({ ...after, sinceMs: this.nowMs })));
      }
      case 'remove':
        return this.#later(TAKES.end, () => {
          this.state = { ...this.state, slots: this.state.slots.filter(({ uid }) => uid !== action.slot) };
        });
      case 'drain':
        return;
    }
  }

  #warm({ node, workload, machineClass }: Extract<Action, { do: 'warm' }>): void {
    this.#made += 1;
    const slot = `seed-${this.#made}`;
    const seed: PoolSlot = { uid: slot, node, workload, state: 'cold', ready: false, inFlight: 0, draining: false, ...this.#fresh() };
    this.state = { ...this.state, slots: [...this.state.slots, seed] };
    this.#phase(workload, machineClass, { at: 'warming', node, slot });
    this.#later(TAKES.cold, () => this.#change(slot, () => ({ ready: true, ...this.#fresh() })));
    const digest = `sha256:${workload}-${machineClass}`;
    this.#later(TAKES.cold + TAKES.snapshot, () => {
      this.#phase(workload, machineClass, { at: 'ready', digest });
      this.#arrived(node, digest);
    });
  }

  #check(): void {
    const runs = (slot: PoolSlot) => ['restoring', 'live', 'cold', 'ending'].includes(slot.state);
    for (const { name, policy } of this.state.workloads) {
      const count = this.state.slots.filter((slot) => slot.workload === name && runs(slot)).length;
      if (count > policy.max) throw new Error(`${name} has ${count} instances, max is ${policy.max}`);
    }
    for (const { name, maxInstances, memoryBytes, cores } of this.state.nodes) {
      const here = this.state.slots.filter((slot) => slot.node === name);
      const running = here.filter(runs);
      const bytes = running.reduce((sum, slot) => sum + this.#workload(slot.workload).memoryBytes, 0);
      const restoring = here.filter(({ state }) => state === 'restoring').length;
      const starting = here.filter(({ state, ready }) => state === 'cold' && !ready).length;
      if (running.length > maxInstances || bytes > memoryBytes) throw new Error(`node ${name} is over its capacity`);
      if (restoring > cores || starting > cores) throw new Error(`node ${name}: ${restoring} restores, ${starting} cold starts`);
    }
    if (new Set(this.state.slots.map(({ uid }) => uid)).size < this.state.slots.length) throw new Error('two slots of one uid');
  }

  #later(ms: number, apply: () => void): void {
    this.#due.push({ atMs: this.nowMs + ms, apply });
  }

  #fresh(): { sinceMs: number; lastUsedMs: number } {
    return { sinceMs: this.nowMs, lastUsedMs: this.nowMs };
  }

  #change(uid: string, change: (slot: PoolSlot) => Partial<PoolSlot>): void {
    this.state = { ...this.state, slots: this.state.slots.map((slot) => (slot.uid === uid ? { ...slot, ...change(slot) } : slot)) };
  }

  #phase(workload: string, machineClass: string, phase: SnapshotPhase): void {
    const change = (one: PoolWorkload) => ({ ...one, snapshots: new Map([...one.snapshots, [machineClass, phase]]) });
    this.state = { ...this.state, workloads: this.state.workloads.map((one) => (one.name === workload ? change(one) : one)) };
  }

  #arrived(name: string, digest: string): void {
    const nodes = this.state.nodes.map((node) => {
      if (node.name !== name) return node;
      const pulling = new Set([...node.pulling].filter((one) => one !== digest));
      return { ...node, pulling, snapshots: new Set([...node.snapshots, digest]) };
    });
    this.state = { ...this.state, nodes };
  }

  #workload(name: string): PoolWorkload {
    const found = this.state.workloads.find((one) => one.name === name);
    if (found === undefined) throw new Error(`no workload ${name}`);
    return found;
  }
}
