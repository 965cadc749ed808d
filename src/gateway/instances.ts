import type { NodeTruth, Seen, SlotTruth, View } from '../queue/truth.ts';
import { concurrencyLimit, pick } from './pick.ts';
import { parseAddress } from './target.ts';

/**
 * One life of a slot that serves, as this gateway knows it: it stays the same object as long as it is told, so that what is counted here is
 * counted once.
 */
export class Instance {
  readonly key: string;
  readonly uid: string;
  readonly parks: number;
  readonly name: string;
  readonly node: string;
  readonly workload: string;
  readonly host: string;
  readonly port: number;
  /** When this gateway first heard that it is ready. */
  readonly readyAtMs: number;
  readonly how: 'restore' | 'cold';
  draining = false;
  avoidUntilMs = 0;
  lastUsedMs: number;
  /** Requests of this gateway, and what the other gateways last said of theirs. */
  own = 0;
  others = 0;
  /** This gateway has sent it something. */
  used = false;
  /** It is told no more: who ends its last request lets its connections go. */
  gone = false;

  constructor(node: string, slot: SlotTruth, at: { readonly host: string; readonly port: number }, nowMs: number) {
    this.key = keyOf(slot);
    this.uid = slot.uid;
    this.parks = slot.parks;
    this.name = slot.name;
    this.node = node;
    this.workload = slot.workload;
    this.host = at.host;
    this.port = at.port;
    this.readyAtMs = nowMs;
    this.lastUsedMs = nowMs;
    this.how = slot.start?.how ?? (slot.state === 'cold' ? 'cold' : 'restore');
  }

  get inFlight(): number {
    return this.own + this.others;
  }

  /** For messages. */
  toString(): string {
    return `instance ${this.name} on ${this.node}`;
  }
}

export const keyOf = (slot: { readonly uid: string; readonly parks: number }): string => `${slot.uid}#${slot.parks}`;

export type InstancesDeps = {
  /** Of this gateway, so that its own counts are not added to themselves. */
  readonly gateway: string;
  readonly nowMs: () => number;
  readonly onReady: (instance: Instance, slot: SlotTruth) => void;
  /** It is told no more, or is another life now; requests may still be in flight there. */
  readonly onGone: (instance: Instance) => void;
};

/** The instances that are ready, by workload, kept up to date with the shared view. */
export class Instances {
  readonly #deps: InstancesDeps;
  readonly #byWorkload = new Map<string, Instance[]>();
  readonly #byKey = new Map<string, Instance>();
  /** Gone, with requests of ours still in flight: should they come back (their agent was only away), these still count. */
  readonly #leaving = new Map<string, Instance>();
  readonly #nodes = new Map<
    string,
    { readonly seen: Seen<NodeTruth>; readonly workloads: View['workloads']; readonly keys: Set<string> }
  >();
  readonly #limits = new Map<string, number>();
  #workloads: View['workloads'];

  constructor(deps: InstancesDeps) {
    this.#deps = deps;
  }

  /** The free instance a request of this workload goes to, see `pick`. */
  pick(workload: string): Instance | undefined {
    const ready = this.#byWorkload.get(workload);
    return ready === undefined ? undefined : pick(ready, this.#limits.get(workload) ?? 1, this.#deps.nowMs());
  }

  of(workload: string): readonly Instance[] {
    return this.#byWorkload.get(workload) ?? [];
  }

  get(key: string): Instance | undefined {
    return this.#byKey.get(key);
  }

  /** Every one there is or that still works for us. */
  *all(): Iterable<Instance> {
    yield* this.#byKey.values();
    yield* this.#leaving.values();
  }

  /** The last request of one that is gone has ended. */
  forget(one: Instance): void {
    if (this.#leaving.get(one.key) === one) this.#leaving.delete(one.key);
  }

  /** Looks at what has changed. */
  update(view: View): void {
    if (view.workloads !== this.#workloads) {
      this.#workloads = view.workloads;
      this.#limits.clear();
      for (const [name, { spec }] of view.workloads ?? []) this.#limits.set(name, concurrencyLimit(spec.pool));
    }
    for (const [name, seen] of view.nodes) this.#updateNode(name, seen, view);
    for (const name of this.#nodes.keys()) if (!view.nodes.has(name)) this.#updateNode(name, undefined, view);
    const draining = new Set(view.scaler?.said.draining);
    for (const one of this.#byKey.values()) {
      one.draining = draining.has(one.uid);
      one.others = 0;
    }
    for (const [id, { said }] of view.gateways) {
      if (id === this.#deps.gateway) continue;
      for (const told of said.instances) {
        const one = told.inFlight > 0 ? this.#byKey.get(keyOf(told)) : undefined;
        if (one !== undefined) one.others += told.inFlight;
      }
    }
  }

  #updateNode(name: string, seen: Seen<NodeTruth> | undefined, view: View): void {
    const before = this.#nodes.get(name);
    // Most changes are of other nodes.
    if (before !== undefined && before.seen === seen && before.workloads === view.workloads) return;
    const keys = new Set<string>();
    for (const slot of seen?.said.slots ?? []) {
      if (!slot.ready || slot.address === undefined || (slot.state !== 'live' && slot.state !== 'cold')) continue;
      const spec = view.workloads?.get(slot.workload)?.spec;
      const at = parseAddress(slot.address, spec?.pool.port ?? spec?.container.ports[0]);
      // A workload that nobody has told, or one without a port, has no instances that could be asked.
      if (at?.port === undefined) continue;
      keys.add(keyOf(slot));
      const known = this.#byKey.get(keyOf(slot));
      if (known !== undefined && known.node === name && known.host === at.host && known.port === at.port) continue;
      if (known !== undefined) this.#remove(known);
      const back = this.#leaving.get(keyOf(slot));
      const same = back !== undefined && back.node === name && back.host === at.host && back.port === at.port;
      const one = same ? back : new Instance(name, slot, { host: at.host, port: at.port }, this.#deps.nowMs());
      if (same) this.#leaving.delete(one.key);
      one.gone = false;
      this.#byKey.set(one.key, one);
      const siblings = this.#byWorkload.get(one.workload);
      if (siblings === undefined) this.#byWorkload.set(one.workload, [one]);
      else siblings.push(one);
      if (!same) this.#deps.onReady(one, slot);
    }
    for (const key of before?.keys ?? []) {
      const one = keys.has(key) ? undefined : this.#byKey.get(key);
      if (one?.node === name) this.#remove(one);
    }
    if (seen === undefined) this.#nodes.delete(name);
    else this.#nodes.set(name, { seen, workloads: view.workloads, keys });
  }

  #remove(one: Instance): void {
    this.#byKey.delete(one.key);
    const siblings = (this.#byWorkload.get(one.workload) ?? []).filter((other) => other !== one);
    if (siblings.length === 0) this.#byWorkload.delete(one.workload);
    else this.#byWorkload.set(one.workload, siblings);
    one.gone = true;
    if (one.own > 0) this.#leaving.set(one.key, one);
    this.#deps.onGone(one);
  }
}
