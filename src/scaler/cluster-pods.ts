import type { Cluster, Followed } from '../cluster/cluster.ts';
import { revisionOf, slotContainerOf, workloadOf } from '../cluster/host.ts';
import { type Kind, PODS } from '../cluster/kinds.ts';
import type { Log } from '../lib/log.ts';
import type { WorkloadTruth } from '../queue/truth.ts';
import { ENABLED_LABEL, MODE_VARIABLE, type Mode, ownerOf, WORKLOAD_ANNOTATION, workloadName } from '../workloads/kubernetes.ts';
import type { WorkloadSpec } from '../workloads/workload.ts';
import type { CountedPod } from './loads.ts';

export type Pod = typeof PODS extends Kind<infer T> ? T : never;

/** An opted-in pod that has not ended, and the workload that it belongs to. */
export type OptedPod = { readonly uid: string; readonly workload: string; readonly mode: Mode; readonly pod: Pod };

/**
 * The opted-in pods of the whole cluster, and the workloads that they describe. Every replica of the scaler follows them, leader or not. While the API
 * server is away they are as they were.
 */
export class ClusterPods {
  readonly #log: Log;
  readonly #followed: Followed<Pod>;
  readonly #callbacks = new Set<() => void>();
  readonly #complained = new Set<string>();
  readonly #described = new WeakMap<Pod, { readonly spec: WorkloadSpec | undefined }>();
  #isStale = true;
  #isKnown = false;
  #byUid: ReadonlyMap<string, OptedPod> = new Map();
  #workloads: readonly WorkloadTruth[] = [];
  #told = '[]';

  /** Follows until the signal aborts. */
  constructor({ cluster, log }: { readonly cluster: Pick<Cluster, 'follow'>; readonly log: Log }, signal: AbortSignal) {
    this.#log = log;
    this.#followed = cluster.follow(PODS, { labels: `${ENABLED_LABEL}=true` }, () => this.#onChanged(), signal);
  }

  /** Resolves when the pods that there are are known. */
  get synced(): Promise<void> {
    return this.#followed.synced;
  }

  /** Whether they were ever told. */
  get isKnown(): boolean {
    return this.#isKnown;
  }

  get connected(): boolean {
    return this.#followed.connected;
  }

  get byUid(): ReadonlyMap<string, OptedPod> {
    this.#read();
    return this.#byUid;
  }

  /** The same array until it changes. */
  get workloads(): readonly WorkloadTruth[] {
    this.#read();
    return this.#workloads;
  }

  onChange(callback: () => void): () => void {
    const entry = () => callback();
    this.#callbacks.add(entry);
    return () => this.#callbacks.delete(entry);
  }

  #onChanged(): void {
    this.#isKnown = true;
    this.#isStale = true;
    for (const callback of [...this.#callbacks]) callback();
  }

  #read(): void {
    if (!this.#isStale) return;
    this.#isStale = false;
    const pods = this.#followed.items().filter(isThere);
    this.#byUid = new Map(pods.map((pod) => [pod.metadata?.uid ?? '', optedPod(pod)]));
    const workloads = workloadsOf(pods, (pod) => this.#describe(pod));
    const text = JSON.stringify(workloads);
    if (text === this.#told) return;
    this.#workloads = workloads;
    this.#told = text;
  }

  /** Read once: most pods are the same as at the change before. */
  #describe(pod: Pod): WorkloadSpec | undefined {
    const known = this.#described.get(pod);
    if (known !== undefined) return known.spec;
    const spec = describedBy(pod);
    this.#described.set(pod, { spec });
    if (spec === undefined && slotContainerOf(pod) !== undefined) this.#complain(pod);
    return spec;
  }

  /** Once per pod: it is left alone, and starts cold. */
  #complain({ metadata }: Pod): void {
    if (this.#complained.has(metadata?.uid ?? '')) return;
    if (this.#complained.size > MOST_COMPLAINTS) this.#complained.clear();
    this.#complained.add(metadata?.uid ?? '');
    this.#log.warn({ pod: metadata?.name, namespace: metadata?.namespace }, `pod has no valid ${WORKLOAD_ANNOTATION} annotation`);
  }
}

const MOST_COMPLAINTS = 1_000;

/**
 * The workloads that pods describe, by name. Of several descriptions that of the newest pod counts: a rollout replaces the others. Pods that the webhook left
 * alone describe none. Pure.
 */
export function workloadsOf(pods: readonly Pod[], describe: (pod: Pod) => WorkloadSpec | undefined = describedBy): WorkloadTruth[] {
  const newest = new Map<string, { readonly pod: Pod; readonly truth: WorkloadTruth }>();
  for (const pod of pods) {
    const spec = describe(pod);
    if (spec === undefined) continue;
    const { name, ...described } = spec;
    const before = newest.get(name);
    if (before === undefined || isNewer(pod, before.pod))
      newest.set(name, { pod, truth: { name, revision: revisionOf(pod), spec: described, mode: modeOf(pod) } });
  }
  return [...newest.values()].map(({ truth }) => truth).sort((a, b) => (a.name < b.name ? -1 : 1));
}

function describedBy(pod: Pod): WorkloadSpec | undefined {
  return slotContainerOf(pod) === undefined ? undefined : workloadOf(pod);
}

/** The pods as {@link Loads} looks at them; undefined before the API server told them. */
export function countedPods(pods: Pick<ClusterPods, 'byUid' | 'isKnown'>): ReadonlyMap<string, CountedPod> | undefined {
  if (!pods.isKnown) return undefined;
  const isReady = ({ status }: Pod) => status?.conditions?.some(({ type, status: value }) => type === 'Ready' && value === 'True') === true;
  return new Map([...pods.byUid].map(([uid, { workload, pod }]) => [uid, { workload, ready: isReady(pod) }]));
}

/** As the webhook decided: a pod that asks to park and cannot is an ordinary one. */
function modeOf(pod: Pod): Mode {
  return slotContainerOf(pod)?.env?.some(({ name, value }) => name === MODE_VARIABLE && value === 'on-demand') ? 'on-demand' : 'restore';
}

function optedPod(pod: Pod): OptedPod {
  const { uid = '', namespace = '' } = pod.metadata ?? {};
  return { uid, workload: workloadName(namespace, ownerOf(pod).name), mode: modeOf(pod), pod };
}

function isThere({ metadata, status }: Pod): boolean {
  return metadata?.uid !== undefined && status?.phase !== 'Succeeded' && status?.phase !== 'Failed';
}

/** Those that are being deleted say less than those that stay. */
function isNewer(a: Pod, b: Pod): boolean {
  const [goesA, goesB] = [a, b].map(({ metadata }) => metadata?.deletionTimestamp !== undefined);
  if (goesA !== goesB) return goesB === true;
  const [atA = 0, atB = 0] = [a, b].map(({ metadata }) => Date.parse(String(metadata?.creationTimestamp ?? 0)));
  return atA === atB ? (a.metadata?.uid ?? '') > (b.metadata?.uid ?? '') : atA > atB;
}
