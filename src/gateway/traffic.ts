import { performance } from 'node:perf_hooks';
import type { GatewayTruth, SharedView, SlotTruth } from '../queue/truth.ts';
import { Admission } from './admission.ts';
import { Connections } from './connections.ts';
import type { Guard } from './guard.ts';
import { type Instance, Instances } from './instances.ts';
import { Invoker } from './invoker.ts';
import type { GatewayMetrics } from './metrics.ts';
import type { Problems } from './problems.ts';

export type TrafficDeps = {
  readonly id: string;
  /** Under which others reach this gateway; known once it listens. */
  readonly url: () => string;
  readonly view: SharedView;
  readonly guard: Guard;
  readonly problems: Problems;
  readonly metrics: GatewayMetrics;
  /** Workloads are asked for by namespace and name. */
  readonly namespaced: boolean;
  readonly onReady: (instance: Instance, slot: SlotTruth) => void;
  /** What there is to do has changed. */
  readonly onDemand: () => void;
};

/** All that passes requests on, put together: who waits, who is free, what is open to whom. Follows the shared view, and tells it what there is to do. */
export class Traffic implements AsyncDisposable {
  readonly invoker: Invoker;
  readonly admission: Admission;
  readonly instances: Instances;
  readonly #view: SharedView;
  readonly #stack = new AsyncDisposableStack();

  constructor({ id, url, view, guard, problems, metrics, namespaced, onReady, onDemand }: TrafficDeps) {
    const nowMs = () => performance.now();
    const connections = this.#stack.use(new Connections());
    const instances = new Instances({
      gateway: id,
      nowMs,
      onReady,
      onGone: (one) => {
        if (one.own === 0) connections.drop(one);
      },
    });
    const onUnused = (one: Instance) => {
      instances.forget(one);
      connections.drop(one);
    };
    const tell = () => {
      teller.now();
      onDemand();
    };
    const admission = this.#stack.use(new Admission({ instances, nowMs, tell, onUnused }));
    const truth = (): GatewayTruth => ({ id, url: url(), ...admission.demand() });
    const teller = this.#stack.use(view.tellGateway(truth));
    this.#view = view;
    this.admission = admission;
    this.instances = instances;
    this.invoker = new Invoker({ view, guard, admission, connections, problems, metrics, namespaced, nowMs });
  }

  /** Begins to follow the shared view. */
  follow(): void {
    const look = () => {
      const { view } = this.#view;
      this.instances.update(view);
      if (view.workloads !== undefined) this.admission.removeMissing(view.workloads);
      this.admission.serveAll();
    };
    this.#stack.defer(this.#view.onChange(look));
    look();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}
