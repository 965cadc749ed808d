import { PODS, type Pod } from '../../src/cluster/kinds.ts';
import { GATE, START_ANNOTATION } from '../../src/workloads/kubernetes.ts';
import type { Namespace } from '../../test/cluster/fixture/kube-namespace.ts';

const MOMENTS = ['created', 'scheduled', 'running', 'told', 'containersReady', 'ready'] as const;
export type Moment = (typeof MOMENTS)[number];

/** When something of a pod was first seen through the API (performance.now()). `told`: the agent has said how it started. */
export type Timeline = {
  readonly name: string;
  readonly app: string;
  readonly pod: Pod;
  /** No longer in the API. */
  readonly gone: boolean;
  readonly at: Readonly<Partial<Record<Moment, number>>>;
};

/** What becomes of every pod of a namespace, and when. */
export class Timelines {
  readonly #pods = new Map<string, { name: string; app: string; pod: Pod; gone: boolean; at: Partial<Record<Moment, number>> }>();
  readonly #waiting = new Set<() => void>();
  readonly #stop = new AbortController();

  /** Resolves once changes are heard. */
  async follow({ kube, name: namespace }: Namespace): Promise<void> {
    const followed = kube.follow(
      PODS,
      { namespace },
      (pod) => {
        if (pod !== undefined) this.#note(pod, followed.get(pod.metadata?.name ?? '', namespace) === undefined);
      },
      this.#stop.signal,
    );
    await followed.synced;
  }

  stop(): void {
    this.#stop.abort();
  }

  /** Resolves with what `pick` gives, as soon as that is something. */
  until<T>(what: string, pick: (all: readonly Timeline[]) => T | undefined, withinMs: number): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const timer = setTimeout(() => reject(new Error(`not within ${withinMs} ms: ${what}`)), withinMs);
    const look = (): void => {
      const value = pick([...this.#pods.values()]);
      if (value !== undefined) resolve(value);
    };
    this.#waiting.add(look);
    look();
    return promise.finally(() => {
      clearTimeout(timer);
      this.#waiting.delete(look);
    });
  }

  #note(pod: Pod, gone: boolean): void {
    const { uid = '', name = '', labels = {}, annotations = {} } = pod.metadata ?? {};
    const known = this.#pods.get(uid) ?? { name, app: labels.app ?? '', pod, gone, at: {} };
    this.#pods.set(uid, known);
    known.pod = pod;
    known.gone = gone;
    const is = (type: string) =>
      pod.status?.conditions?.some((condition) => condition.type === type && condition.status === 'True') === true;
    const reached: Record<Moment, boolean> = {
      created: true,
      scheduled: pod.spec?.nodeName !== undefined,
      running: pod.status?.containerStatuses?.some(({ state }) => state?.running !== undefined) === true,
      told: is(GATE) && annotations[START_ANNOTATION] !== undefined,
      containersReady: is('ContainersReady'),
      ready: is('Ready'),
    };
    const now = performance.now();
    for (const moment of MOMENTS) if (reached[moment]) known.at[moment] ??= now;
    for (const look of this.#waiting) look();
  }
}

/** Milliseconds between two moments of a pod; throws where one was not seen. */
export function between({ at, name }: Timeline, from: Moment, to: Moment): number {
  const [begin, end] = [at[from], at[to]];
  if (begin === undefined || end === undefined) throw new Error(`pod ${name} was never seen ${begin === undefined ? from : to}`);
  return end - begin;
}

export const startOf = ({ pod }: Timeline): string => pod.metadata?.annotations?.[START_ANNOTATION] ?? '';

/** From the slot's hello to the first answer, as the agent says it on the pod; throws when the pod was not restored. */
export function restoredMs(timeline: Timeline): number {
  const found = /^restored in (\d+) ms$/.exec(startOf(timeline))?.[1];
  if (found === undefined) throw new Error(`pod ${timeline.name} was not restored: ${startOf(timeline) || 'nothing is said of its start'}`);
  return Number(found);
}
