import type { Clock } from '../lib/clock.ts';
import { RekindleError } from '../lib/errors.ts';
import { ENABLED_LABEL, REQUESTS_ANNOTATION, STATE_LABEL } from '../workloads/kubernetes.ts';
import type { Cluster, KubeObject } from './cluster.ts';
import { gateCondition, isUntold } from './gates.ts';
import { slotContainerOf } from './host.ts';
import {
  ADMISSION_BINDINGS,
  ADMISSION_POLICIES,
  API_SERVICES,
  CLUSTER_ROLE_BINDINGS,
  CLUSTER_ROLES,
  DAEMON_SETS,
  DEPLOYMENTS,
  type Kind,
  MUTATING_WEBHOOKS,
  NAMESPACES,
  NODES,
  PODS,
  type Pod,
  PRIORITY_CLASSES,
  ROLE_BINDINGS,
  SERVICES,
  STATEFUL_SETS,
} from './kinds.ts';
import { OLDEST_RESIZE_MINOR, resize, resizeOf } from './resize.ts';

export type UninstallDeps = {
  readonly cluster: Cluster;
  readonly clock: Clock;
  /** A line of progress, for people. */
  readonly say: (line: string) => void;
};

export type UninstallOptions = {
  /** Rekindle's own. */
  readonly namespace: string;
  readonly keepSnapshots: boolean;
  /** What its keys in Redis begin with. */
  readonly redisPrefix: string;
  /** For all nodes. */
  readonly nodesMs: number;
  /** Not for what runs in the namespace itself, and ends with it. */
  readonly waitForNamespace: boolean;
};

export type Uninstalled = {
  readonly gates: number;
  readonly requests: number;
  readonly nodes: readonly string[];
  /** What is left to the user, in words. */
  readonly notes: readonly string[];
};

type Ours = { readonly kind: Kind<KubeObject>; readonly name: string; readonly namespace?: string };
const ours = (kind: Kind<KubeObject>, name: string, namespace?: string): Ours => ({
  kind,
  name,
  ...(namespace === undefined ? {} : { namespace }),
});

/** All that the manifests put outside of their namespace, but for the uninstalling Job's own, which go with the namespace; in the order in which it goes. */
export const OUTSIDE: readonly Ours[] = [
  ours(MUTATING_WEBHOOKS, 'rekindle'),
  ours(API_SERVICES, 'v1beta1.external.metrics.k8s.io'),
  ...['pod-status', 'pod-resize'].flatMap((policy) =>
    [ADMISSION_BINDINGS, ADMISSION_POLICIES].map((kind) => ours(kind, `rekindle-${policy}`)),
  ),
  ours(ROLE_BINDINGS, 'rekindle-external-metrics', 'kube-system'),
  ...['agent', 'gateway', 'scaler', 'external-metrics', 'external-metrics-delegator', 'external-metrics-reader'].map((role) =>
    ours(CLUSTER_ROLE_BINDINGS, `rekindle-${role}`),
  ),
  ...['agent', 'gateway', 'scaler', 'external-metrics', 'external-metrics-reader'].map((role) => ours(CLUSTER_ROLES, `rekindle-${role}`)),
  ours(PRIORITY_CLASSES, 'rekindle'),
];
/** Of the Job: its rights, which it needs to the end. */
export const UNINSTALLER = 'rekindle-uninstall';

const AGENT = 'rekindle-agent';
const RETIRE = '--retire';
const LOOK_EVERY_MS = 500;
/** Roles have a minute to drain. */
const GONE_MS = 120_000;
/** Patches at the same time. */
const PARALLEL = 16;

const podsLabelled = (role: string) => `app.kubernetes.io/name=rekindle-${role}`;

/**
 * Removes rekindle from a cluster so that no pod notices: see the steps in {@link Uninstall.run}. Each looks first what is left to do: after a failure, or when it was
 * interrupted, all of it may be run again.
 */
export class Uninstall {
  readonly #deps: UninstallDeps;
  readonly #options: UninstallOptions;
  readonly #notes: string[] = [];
  readonly #opened = new Set<string>();
  readonly #resized = new Set<string>();

  constructor(deps: UninstallDeps, options: UninstallOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  /** Throws `timeout` when a node or an object does not go in time, saying which. */
  async run(signal: AbortSignal): Promise<Uninstalled> {
    const { say } = this.#deps;
    // 1. Pods made from now on are ordinary ones.
    await this.#remove(ours(MUTATING_WEBHOOKS, 'rekindle'), signal);
    say('injection: stopped');
    // 2. Nobody parks, wakes or resizes any more; discovery does not fail for want of external metrics.
    await this.#removeMetrics(signal);
    await this.#endRole('scaler', signal);
    // 3. Who waits for a seed serves, and what is parked gets back what it asked for before it is started.
    await this.#openGates(signal);
    await this.#restoreRequests(signal);
    // 4. Parked slots are started, and nodes cleaned, by their agents.
    const nodes = await this.#retireNodes(signal);
    await this.#endRole('agent', signal);
    // 5. Pods that were being admitted when the webhook went: no agent answers them now.
    await this.#openGates(signal);
    await this.#restoreRequests(signal);
    await this.#note(signal);
    // 6. The objects.
    await this.#endRole('gateway', signal);
    for (const one of OUTSIDE) if (one.kind.plural !== API_SERVICES.plural) await this.#remove(one, signal);
    await this.#removeNamespace(signal);
    return { gates: this.#opened.size, requests: this.#resized.size, nodes, notes: this.#notes };
  }

  async #openGates(signal: AbortSignal): Promise<void> {
    const { cluster, clock, say } = this.#deps;
    const shut = (await this.#pods(signal)).filter(isUntold);
    const condition = gateCondition('True', { reason: 'Uninstalled', message: 'rekindle is being uninstalled' }, clock.now());
    await inTurns(shut, async ({ metadata }) => {
      const { uid = '', name = '', namespace } = metadata ?? {};
      const patch = { metadata: { uid, labels: { [STATE_LABEL]: 'live' } }, status: { conditions: [condition] } };
      await cluster.patch(PODS, { name, namespace, subresource: 'status' }, patch, 'strategic', signal).catch(unlessConflict);
      this.#opened.add(uid);
    });
    if (shut.length > 0) say(`gates: ${shut.length} opened`);
  }

  async #restoreRequests(signal: AbortSignal): Promise<void> {
    const { cluster, say } = this.#deps;
    if ((await cluster.minorVersion(signal)) < OLDEST_RESIZE_MINOR) return;
    const small = (await this.#pods(signal)).flatMap((pod) => {
      if (pod.metadata?.annotations?.[REQUESTS_ANNOTATION] === undefined || pod.metadata.deletionTimestamp !== undefined) return [];
      const decided = resizeOf(pod, 'declared', []);
      return decided.do === 'change' ? [{ pod, decided }] : [];
    });
    await inTurns(small, async ({ pod, decided }) => {
      const forbidden = await resize(cluster, pod, decided, signal);
      if (forbidden === undefined) this.#resized.add(pod.metadata?.uid ?? '');
      else this.#tell(`pod ${nameOf(pod)} keeps the requests it had while parked: ${forbidden}`);
    });
    if (small.length > 0) say(`requests: ${small.length} pods have what they declared again`);
  }

  /** Resolves with the nodes that are clean. */
  async #retireNodes(signal: AbortSignal): Promise<readonly string[]> {
    const { cluster, say, clock } = this.#deps;
    const { namespace, nodesMs, keepSnapshots } = this.#options;
    const args = ['agent', '--cluster', RETIRE, ...(keepSnapshots ? ['--keep-snapshots'] : [])];
    const patch = {
      spec: {
        // All at once: there is nobody left to wait for.
        updateStrategy: { type: 'RollingUpdate', rollingUpdate: { maxUnavailable: '100%' } },
        template: { spec: { containers: [{ name: 'agent', args }] } },
      },
    };
    if ((await cluster.patch(DAEMON_SETS, { name: AGENT, namespace }, patch, 'strategic', signal)) === undefined) {
      this.#tell(
        'there is no DaemonSet of agents: nodes were not cleaned. Apply the manifests and uninstall again, or remove /var/lib/rekindle there',
      );
      return [];
    }
    const until = clock.now() + nodesMs;
    let told = '';
    for (;;) {
      const { done, left, away } = await this.#nodes(signal);
      const line = `nodes: ${done.length} clean${left.length === 0 ? '' : `, ${left.join(', ')} left`}`;
      if (line !== told) say(line);
      told = line;
      if (left.length === 0) {
        for (const name of away)
          this.#tell(`node ${name} is not ready and was not cleaned: remove /var/lib/rekindle and /run/rekindle there`);
        return done;
      }
      if (clock.now() > until)
        throw new RekindleError(
          'timeout',
          `agents have not retired from ${left.join(', ')} within ${nodesMs / 1000} s: \`kubectl -n ${namespace} get pods -o wide\` and their logs say why. Run it again when that is mended`,
          { retryable: true },
        );
      await clock.sleep(LOOK_EVERY_MS, signal);
    }
  }

  /** Where a retired agent is done, where it is not, and where nobody can be. */
  async #nodes(signal: AbortSignal): Promise<{ done: readonly string[]; left: readonly string[]; away: readonly string[] }> {
    const { cluster } = this.#deps;
    const { namespace } = this.#options;
    const [set, nodes, pods] = await Promise.all([
      cluster.get(DAEMON_SETS, { name: AGENT, namespace }, signal),
      cluster.list(NODES, {}, signal),
      cluster.list(PODS, { namespace, labels: podsLabelled('agent') }, signal),
    ]);
    const unready = new Set(nodes.filter((node) => !isTrue(node, 'Ready')).map(({ metadata }) => metadata?.name));
    const byNode = new Map<string, boolean>();
    for (const pod of pods) {
      const node = pod.spec?.nodeName;
      const isRetired = pod.spec?.containers[0]?.args?.includes(RETIRE) === true && isTrue(pod, 'Ready') && !isGoing(pod);
      if (node !== undefined) byNode.set(node, isRetired || byNode.get(node) === true);
    }
    const named = (wanted: (node: string, isDone: boolean) => boolean) =>
      [...byNode].flatMap(([node, isDone]) => (wanted(node, isDone) ? [node] : [])).sort();
    const done = named((_, isDone) => isDone);
    const left = named((node, isDone) => !isDone && !unready.has(node));
    const away = named((node, isDone) => !isDone && unready.has(node));
    // Between two pods of a node there is none.
    const { desiredNumberScheduled = 0, observedGeneration = 0 } = set?.status ?? {};
    const isSettled = observedGeneration >= (set?.metadata?.generation ?? 0) && done.length + away.length >= desiredNumberScheduled;
    return { done, left: left.length === 0 && !isSettled ? ['others'] : left, away };
  }

  /** What is not ours to change. */
  async #note(signal: AbortSignal): Promise<void> {
    const { cluster } = this.#deps;
    const { namespace } = this.#options;
    const isThere = (await cluster.get(NAMESPACES, { name: namespace }, signal)) !== undefined;
    if (isThere && (await cluster.get(STATEFUL_SETS, { name: 'rekindle-redis', namespace }, signal)) === undefined)
      this.#tell(
        `your own Redis keeps a few keys, which begin with ${this.#options.redisPrefix}: delete them there if nothing else of rekindle uses it`,
      );
    for (const pod of await this.#pods(signal))
      if (pod.metadata?.labels?.[STATE_LABEL] === 'parked' && slotContainerOf(pod) !== undefined && !isGoing(pod))
        this.#tell(`pod ${nameOf(pod)} may still be parked: delete it, its owner makes another`);
    for (const service of await cluster.list(SERVICES, {}, signal))
      if (service.spec?.selector?.[STATE_LABEL] !== undefined)
        this.#tell(
          `Service ${nameOf(service)} selects ${STATE_LABEL}, which pods made from now on do not have: remove that from its selector before the next rollout`,
        );
  }

  async #removeMetrics(signal: AbortSignal): Promise<void> {
    const { cluster } = this.#deps;
    const name = 'v1beta1.external.metrics.k8s.io';
    const found = await cluster.get(API_SERVICES, { name }, signal);
    // KEDA's, or somebody else's.
    if (found?.spec?.service?.namespace !== this.#options.namespace) return;
    await this.#remove(ours(API_SERVICES, name), signal);
    this.#deps.say('external metrics: no longer served');
  }

  async #endRole(role: 'scaler' | 'agent' | 'gateway', signal: AbortSignal): Promise<void> {
    const { cluster, say, clock } = this.#deps;
    const { namespace } = this.#options;
    const name = `rekindle-${role}`;
    if (role === 'agent') await cluster.remove(DAEMON_SETS, { name, namespace }, signal);
    else await cluster.remove(DEPLOYMENTS, { name, namespace }, signal);
    const until = clock.now() + GONE_MS;
    for (;;) {
      const unready = new Set(
        (await cluster.list(NODES, {}, signal)).filter((node) => !isTrue(node, 'Ready')).map(({ metadata }) => metadata?.name),
      );
      const pods = await cluster.list(PODS, { namespace, labels: podsLabelled(role) }, signal);
      // Of a node that is away nobody can say whether they have ended.
      const left = pods.filter(({ spec }) => spec?.nodeName !== undefined && !unready.has(spec.nodeName));
      if (left.length === 0) break;
      if (clock.now() > until)
        throw new RekindleError('timeout', `${left.map(nameOf).join(', ')} do not end. Run it again when they have`, { retryable: true });
      await clock.sleep(LOOK_EVERY_MS, signal);
    }
    say(`${role}: gone`);
  }

  async #removeNamespace(signal: AbortSignal): Promise<void> {
    const { cluster, say, clock } = this.#deps;
    const { namespace, waitForNamespace } = this.#options;
    const found = await cluster.get(NAMESPACES, { name: namespace }, signal);
    if (found === undefined) return say('namespace: gone');
    // The Job's own rights go when their owner has gone.
    const { uid = '' } = found.metadata ?? {};
    const owner = { metadata: { ownerReferences: [{ apiVersion: 'v1', kind: 'Namespace', name: namespace, uid }] } };
    for (const kind of [CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES]) await cluster.patch(kind, { name: UNINSTALLER }, owner, 'merge', signal);
    await cluster.remove(NAMESPACES, { name: namespace, uid }, signal);
    if (!waitForNamespace) return say('namespace: being deleted');
    const until = clock.now() + GONE_MS;
    while ((await cluster.get(NAMESPACES, { name: namespace }, signal)) !== undefined) {
      if (clock.now() > until)
        throw new RekindleError(
          'timeout',
          `the namespace ${namespace} does not go: \`kubectl get namespace ${namespace} -o yaml\` says what is left in it`,
          { retryable: true },
        );
      await clock.sleep(LOOK_EVERY_MS, signal);
    }
    say('namespace: gone');
  }

  #pods(signal: AbortSignal): Promise<readonly Pod[]> {
    return this.#deps.cluster.list(PODS, { labels: `${ENABLED_LABEL}=true` }, signal);
  }

  #remove({ kind, name, namespace }: Ours, signal: AbortSignal): Promise<void> {
    return this.#deps.cluster.remove(kind, { name, namespace }, signal);
  }

  /** Each once. */
  #tell(note: string): void {
    if (!this.#notes.includes(note)) this.#notes.push(note);
  }
}

async function inTurns<T>(all: readonly T[], act: (one: T) => Promise<void>): Promise<void> {
  for (let at = 0; at < all.length; at += PARALLEL) await Promise.all(all.slice(at, at + PARALLEL).map(act));
}

/** Somebody else was faster, or another pod has its name. */
function unlessConflict(error: unknown): void {
  if (!(error instanceof RekindleError && error.code === 'conflict')) throw error;
}

type Conditioned = { readonly status?: { readonly conditions?: readonly { readonly type: string; readonly status: string }[] } };

function isTrue({ status }: Conditioned, wanted: string): boolean {
  return status?.conditions?.some(({ type, status: value }) => type === wanted && value === 'True') ?? false;
}

function isGoing({ metadata }: Pod): boolean {
  return metadata?.deletionTimestamp !== undefined;
}

function nameOf({ metadata }: KubeObject): string {
  return `${metadata?.namespace}/${metadata?.name}`;
}
