import type { SlotTruth, View } from '../queue/truth.ts';
import { lifeOf } from './state.ts';

/** So long an idle instance is sent nothing new before it is ended: a request that a gateway sends it at this moment arrives before that. */
export const HOLD_MS = 100;

type Drain = { readonly uid: string; readonly workload: string; readonly sinceMs: number; readonly mayReturn: boolean };

/** The slots that gateways send nothing new to, by life (see `lifeOf`): those that drain, and those that are about to be ended because they are idle. */
export class Draining {
  readonly #lives = new Map<string, Drain>();

  get lives(): ReadonlySet<string> {
    return new Set(this.#lives.keys());
  }

  get uids(): string[] {
    return [...this.#lives.values()].map(({ uid }) => uid);
  }

  drain(slot: SlotTruth, nowMs: number): void {
    const life = lifeOf(slot);
    const since = this.#lives.get(life)?.sinceMs ?? nowMs;
    this.#lives.set(life, { uid: slot.uid, workload: slot.workload, sinceMs: since, mayReturn: false });
  }

  /** Whether the slot has been held back for long enough; begins that if need be. */
  hold(slot: SlotTruth, nowMs: number): boolean {
    const life = lifeOf(slot);
    const known = this.#lives.get(life);
    if (known !== undefined) return nowMs - known.sinceMs >= HOLD_MS;
    this.#lives.set(life, { uid: slot.uid, workload: slot.workload, sinceMs: nowMs, mayReturn: true });
    return false;
  }

  /** Instances of an old description drain as soon as one of the new is there. */
  drainOutdated(view: View, nowMs: number): void {
    const slots = [...view.nodes.values()].flatMap(({ said }) => said.slots);
    if (!slots.some(({ outdated }) => outdated)) return;
    const renewed = new Set(slots.filter((slot) => slot.ready && !slot.outdated).map(({ workload }) => workload));
    for (const slot of slots) if (slot.outdated && slot.ready && renewed.has(slot.workload)) this.drain(slot, nowMs);
  }

  /** What an earlier leader decided. */
  adopt(uids: readonly string[], view: View, nowMs: number): void {
    const wanted = new Set(uids);
    for (const { said } of view.nodes.values()) {
      for (const slot of said.slots) if (wanted.has(slot.uid) && runs(slot)) this.drain(slot, nowMs);
    }
  }

  /** Forgets lives that are over, and gives back what is only held when requests wait for its workload. `ending`: lives whose end is queued. */
  settle(view: View, isWaiting: (workload: string) => boolean, ending: (uid: string) => boolean): void {
    if (this.#lives.size === 0) return;
    const running = new Set([...view.nodes.values()].flatMap(({ said }) => said.slots.filter(runs).map(lifeOf)));
    for (const [life, { uid, workload, mayReturn }] of this.#lives) {
      if (!running.has(life) || (mayReturn && isWaiting(workload) && !ending(uid))) this.#lives.delete(life);
    }
  }

  clear(): void {
    this.#lives.clear();
  }
}

function runs({ state }: SlotTruth): boolean {
  return state === 'live' || state === 'cold' || state === 'ending';
}
