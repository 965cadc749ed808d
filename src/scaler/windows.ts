import { emptyWindow, observe, type Window } from '../pool/demand.ts';
import type { View, WorkloadTruth } from '../queue/truth.ts';
import { demandNow } from './state.ts';

/** Every so often demand is sampled, however often there are passes: more samples when more changes would say too much. */
export const SAMPLE_EVERY_MS = 200;

/** The last minutes' demand of all workloads. */
export class DemandWindows {
  #windows = new Map<string, Window>();
  #arrivals = new Map<string, number>();
  #nextMs = Number.NEGATIVE_INFINITY;

  get windows(): ReadonlyMap<string, Window> {
    return this.#windows;
  }

  /** Takes a sample if one is due. */
  sample(view: View, workloads: readonly WorkloadTruth[], nowMs: number): void {
    if (nowMs < this.#nextMs) return;
    this.#nextMs = nowMs + SAMPLE_EVERY_MS;
    const now = demandNow(view, nowMs);
    const arrived = this.#arrived(view);
    this.#windows = new Map(
      workloads.map(({ name, spec }) => {
        const { inFlight, waiting } = now.get(name) ?? { inFlight: 0, waiting: 0 };
        const keepMs = spec.pool.stableWindowSeconds * 1_000;
        const window = { ...(this.#windows.get(name) ?? emptyWindow(keepMs)), keepMs };
        return [name, observe(window, { atMs: nowMs, concurrency: inFlight + waiting, arrivals: arrived.get(name) ?? 0 })];
      }),
    );
  }

  /** Requests since the last sample; of a gateway seen for the first time none, since nobody knows when they came. */
  #arrived(view: View): Map<string, number> {
    const totals = new Map<string, number>();
    const arrived = new Map<string, number>();
    for (const { said } of view.gateways.values()) {
      for (const { workload, arrivals } of said.demand) {
        const key = `${said.id} ${workload}`;
        totals.set(key, arrivals);
        const more = arrivals - (this.#arrivals.get(key) ?? arrivals);
        if (more > 0) arrived.set(workload, (arrived.get(workload) ?? 0) + more);
      }
    }
    this.#arrivals = totals;
    return arrived;
  }
}
