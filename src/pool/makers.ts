import { fullness, placesSoon, startOn } from './place.ts';
import { mayMake } from './spare.ts';
import type { NodeView, View, WorkloadView } from './view.ts';

/**
 * Where to make slots that waiting requests lack, one after the other: nodes with the better start first, and those of one start in turn.
 * Each workload begins with another node. Sorting all nodes anew for each slot would take longer than all the rest of a plan.
 */
export class Makers {
  readonly #view: View;
  readonly #queues = new Map<WorkloadView, NodeView[][]>();
  #emptiest: readonly NodeView[] | undefined;

  constructor(options: { view: View }) {
    this.#view = options.view;
  }

  /** Undefined if no node will have room; `later` if only such have it as are making enough slots already. */
  for(of: WorkloadView): NodeView | 'later' | undefined {
    const queues = this.#queues.get(of) ?? this.#begin(of);
    for (const queue of queues) {
      for (let node = queue.shift(); node !== undefined; node = queue.shift()) {
        if (placesSoon(node, of.workload.memoryBytes) === 0 || !mayMake(node)) continue;
        queue.push(node);
        return node;
      }
    }
    return this.#view.nodes.some((node) => placesSoon(node, of.workload.memoryBytes) > 0) ? 'later' : undefined;
  }

  #begin(of: WorkloadView): NodeView[][] {
    this.#emptiest ??= this.#view.nodes
      .map((node) => ({ node, full: fullness(node) }))
      .sort((a, b) => a.full - b.full || a.node.index - b.node.index)
      .map(({ node }) => node);
    const first = this.#queues.size % Math.max(1, this.#emptiest.length);
    const queues: NodeView[][] = [[], [], [], []];
    for (const node of [...this.#emptiest.slice(first), ...this.#emptiest.slice(0, first)]) {
      if (mayMake(node) && placesSoon(node, of.workload.memoryBytes) > 0) queues[startOn(this.#view, of, node)]?.push(node);
    }
    this.#queues.set(of, queues);
    return queues;
  }
}
