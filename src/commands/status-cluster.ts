import type { Cluster } from '../cluster/cluster.ts';
import { NODES, PODS } from '../cluster/kinds.ts';
import { Kube } from '../cluster/kube.ts';
import type { ApiNode, ApiPool, ApiSnapshot } from '../gateway/schemas.ts';
import { systemClock } from '../lib/clock.ts';
import { RekindleError } from '../lib/errors.ts';
import { parseWorkloadName } from '../workloads/kubernetes.ts';
import { age, type Context, type JsonOption, megabytes, table } from './context.ts';
import { oneLine, phaseOf } from './status-service.ts';

/** Which cluster: as kubectl, which gives no plugin its own flags. */
export type ClusterOptions = { readonly kubeconfig?: string; readonly context?: string };

export type ClusterStatusOptions = JsonOption & ClusterOptions & { readonly namespace?: string };

export type ClusterStatus = {
  readonly pools: readonly ApiPool[];
  readonly snapshots: readonly ApiSnapshot[];
  readonly nodes: readonly ClusterNode[];
};

/** A node of Kubernetes, and what its agent tells; `told` undefined: nothing. */
export type ClusterNode = { readonly name: string; readonly agent: 'ready' | 'not ready' | 'none' | 'unknown'; readonly told?: ApiNode };

const NAMESPACE = 'rekindle';
const AGENTS = 'app.kubernetes.io/name=rekindle-agent';
/** So many pods are told one by one without being asked for. */
const FEW_PODS = 20;

/** The cluster that a command is about. */
export function openCluster({ log }: Pick<Context, 'log'>, { kubeconfig, context }: ClusterOptions): Kube {
  return Kube.open({ clock: systemClock, log }, kubeconfig, context);
}

/** Where rekindle is in that cluster. */
export function namespaceOf({ config }: Pick<Context, 'config'>): string {
  return config.namespace ?? NAMESPACE;
}

/**
 * What the gateways know, asked for through the API server: whoever may use the service's proxy needs nothing but a kubeconfig. Nodes and agents are added where
 * one may list them. Throws `cluster_unavailable`, `not_found` where rekindle is not installed.
 */
export async function readClusterStatus(
  cluster: Pick<Cluster, 'raw' | 'list'>,
  namespace: string,
  signal: AbortSignal,
): Promise<ClusterStatus> {
  const ask = async <T>(list: string): Promise<readonly T[]> => {
    const answer = await cluster.raw(`/api/v1/namespaces/${namespace}/services/rekindle-gateway:http/proxy/api/${list}`, signal);
    if (!Array.isArray(answer))
      throw new RekindleError(
        'not_found',
        `no gateway of rekindle is in namespace ${namespace}: \`kubectl apply -k manifests/\` installs it`,
      );
    return answer as T[];
  };
  const [pools, snapshots, told] = await Promise.all([ask<ApiPool>('pools'), ask<ApiSnapshot>('snapshots'), ask<ApiNode>('nodes')]);
  return { pools, snapshots, nodes: await nodesOf(cluster, namespace, told, signal) };
}

async function nodesOf(
  cluster: Pick<Cluster, 'list'>,
  namespace: string,
  told: readonly ApiNode[],
  signal: AbortSignal,
): Promise<readonly ClusterNode[]> {
  const byName = new Map(told.map((node) => [node.name, node]));
  const tell = (name: string, agent: ClusterNode['agent']): ClusterNode => {
    const node = byName.get(name);
    return { name, agent, ...(node === undefined ? {} : { told: node }) };
  };
  try {
    const [nodes, agents] = await Promise.all([cluster.list(NODES, {}, signal), cluster.list(PODS, { namespace, labels: AGENTS }, signal)]);
    const ready = new Map<string, boolean>();
    for (const { spec, status } of agents) {
      const isReady = status?.conditions?.some(({ type, status: value }) => type === 'Ready' && value === 'True') ?? false;
      if (spec?.nodeName !== undefined) ready.set(spec.nodeName, isReady || ready.get(spec.nodeName) === true);
    }
    const names = new Set([...nodes.flatMap(({ metadata }) => metadata?.name ?? []), ...byName.keys()]);
    return [...names].sort().map((name) => tell(name, ready.has(name) ? (ready.get(name) ? 'ready' : 'not ready') : 'none'));
  } catch (error) {
    signal.throwIfAborted();
    // One who may not list nodes still sees what their agents tell.
    if (error instanceof RekindleError && !error.retryable) return told.map(({ name }) => tell(name, 'unknown'));
    throw error;
  }
}

/** What is of one namespace, nodes included. */
export function onlyOf(status: ClusterStatus, namespace: string): ClusterStatus {
  const isOf = ({ workload }: { readonly workload: string }) => parseWorkloadName(workload)?.namespace === namespace;
  return { ...status, pools: status.pools.filter(isOf), snapshots: status.snapshots.filter(isOf) };
}

/** For people, as blocks of lines. */
export function clusterText({ pools, snapshots, nodes }: ClusterStatus, nowMs: number): string {
  const instances = pools.flatMap(instancesOf);
  const blocks = [
    pools.length === 0
      ? 'workloads: none; pods opt in by the label rekindle.dev/enabled: "true" of their template'
      : table([['WORKLOAD', 'MODE', 'PODS', 'LIVE', 'COLD', 'SEED', 'PARKED', 'WAITING', 'REQUESTS', 'SNAPSHOT'], ...pools.map(poolRow)]),
    ...(instances.length === 0 || instances.length > FEW_PODS
      ? reasons(instances)
      : [table([['POD', 'NODE', 'STATE', 'AGE'], ...instances.map(podRow)])]),
    snapshots.length === 0
      ? 'snapshots: none'
      : table([
          ['SNAPSHOT', 'WORKLOAD', 'SIZE', 'AGE', 'NODES'],
          ...snapshots.map(({ digest, workload, totalBytes, createdAtMs, nodes: on, quarantined }) => [
            digest.slice(0, 12),
            inWords(workload),
            megabytes(totalBytes),
            age(nowMs - createdAtMs),
            `${on.join(', ')}${quarantined === undefined ? '' : ` (not restored any more: ${oneLine(quarantined)})`}`,
          ]),
        ]),
    nodes.length === 0
      ? 'nodes: none'
      : table([['NODE', 'AGENT', 'CORES', 'PODS', 'INSTANCES', 'SNAPSHOTS', 'STATE'], ...nodes.map(nodeRow)]),
  ];
  return blocks.join('\n');
}

type Instance = {
  readonly workload: string;
  readonly name: string;
  readonly node: string;
  readonly ageMs: number;
  readonly state: string;
  readonly why?: string;
};

/** Pods that park are told as slots, all others as pods. */
function instancesOf({ workload, slots, pods = [] }: ApiPool): Instance[] {
  return [
    ...slots.map(({ state, seed, error, ...slot }) => ({
      ...slot,
      state: seed ? 'seed' : state,
      ...(error === undefined ? {} : { why: error }),
    })),
    ...pods,
  ].map(({ name, node, ageMs, state, start, ...more }) => {
    const why = 'why' in more && more.why !== undefined ? more.why : state === 'cold' ? start?.reason : undefined;
    const shown = state === 'live' && start?.ms !== undefined ? `live, restored in ${Math.round(start.ms)} ms` : state;
    return { workload, name, node, ageMs, state: shown, ...(why === undefined ? {} : { why }) };
  });
}

function poolRow(pool: ApiPool): string[] {
  const { slots, pods = [], mode, inFlight, waiting } = pool;
  const states = [...slots.map(({ state, seed }) => (seed ? 'seed' : state)), ...pods.map(({ state }) => state)];
  const count = (...wanted: readonly string[]) => String(states.filter((state) => wanted.includes(state)).length);
  const connections = [...slots, ...pods].reduce((sum, one) => sum + (('connections' in one ? one.connections : 0) ?? 0), 0);
  return [
    inWords(pool.workload),
    mode ?? '',
    String(states.length),
    count('live'),
    count('cold'),
    count('seed'),
    count('parked', 'suspended'),
    // Between two states, or broken: the list of pods says which.
    count('waiting', 'restoring', 'making', 'ending', 'failed'),
    `${inFlight + connections}${waiting > 0 ? ` (${waiting} wait)` : ''}`,
    phaseOf(pool),
  ];
}

function podRow({ workload, name, node, ageMs, state, why }: Instance): string[] {
  const namespace = parseWorkloadName(workload)?.namespace;
  return [
    namespace === undefined ? name : `${namespace}/${name}`,
    node,
    why === undefined ? state : `${state}: ${oneLine(why)}`,
    age(ageMs),
  ];
}

/** Of many pods: each reason once per workload. */
function reasons(instances: readonly Instance[]): string[] {
  const counts = new Map<string, { readonly row: readonly [string, string, string]; count: number }>();
  for (const { workload, state, why } of instances) {
    if (why === undefined) continue;
    const row = [inWords(workload), state, oneLine(why)] as const;
    const known = counts.get(row.join(' '));
    if (known === undefined) counts.set(row.join(' '), { row, count: 1 });
    else known.count += 1;
  }
  const rows = [...counts.values()].map(({ row: [workload, state, why], count }) => [workload, state, String(count), why]);
  return rows.length === 0 ? [] : [table([['WORKLOAD', 'STATE', 'PODS', 'WHY'], ...rows])];
}

function nodeRow({ name, agent, told }: ClusterNode): string[] {
  if (told === undefined) return [name, agent, '–', '–', '–', '–', agent === 'none' ? 'starts everything cold' : 'not heard of'];
  const { cores, slots, pods = 0, instances, snapshots, leaving, pulling } = told;
  const state = leaving ? 'leaving' : pulling > 0 ? `pulling ${pulling}` : 'serves';
  return [name, agent, String(cores), String(slots + pods), String(instances), String(snapshots), state];
}

/** As kubectl names things: `NAMESPACE/NAME`. */
function inWords(workload: string): string {
  const { namespace, name } = parseWorkloadName(workload) ?? {};
  return namespace === undefined ? workload : `${namespace}/${name}`;
}
