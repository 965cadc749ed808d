import { examine, type Fact, type Look } from '../lib/fact.ts';
import { ENABLED_LABEL } from '../workloads/kubernetes.ts';
import type { Cluster } from './cluster.ts';
import { optedIn } from './doctor/pods.ts';
import { admissionPolicies, podSecurity, rightsOf } from './doctor/rights.ts';
import { agents, redis, role, versions } from './doctor/roles.ts';
import { askedInVain, EXTERNAL_METRICS, externalMetrics } from './doctor/scaling.ts';
import { kubernetesVersion, nodeFindings, resizing, slotFiles, unproven } from './doctor/versions.ts';
import { answer, configuration, REHEARSED_PODS, rehearsedPod, serving } from './doctor/webhook.ts';
import { API_SERVICES, AUTOSCALERS, DEPLOYMENTS, MUTATING_WEBHOOKS, NODES, PODS, SECRETS, STATEFUL_SETS } from './kinds.ts';

export type ClusterDoctorDeps = {
  readonly cluster: Pick<Cluster, 'minorVersion' | 'get' | 'list' | 'create' | 'raw'>;
  /** That rekindle is in. */
  readonly namespace: string;
  readonly nowMs: number;
};

const NAME = 'app.kubernetes.io/name';
const BINDINGS = '/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings';
const ASK_PODS_IN = 'default';

/**
 * Every fact that matters about a cluster and rekindle in it. Changes nothing: a pod that opts in is only rehearsed. What the asker may not see is a
 * fact too. Throws `cluster_unavailable` when no API server answers.
 */
export async function examineCluster({ cluster, namespace, nowMs }: ClusterDoctorDeps, signal: AbortSignal): Promise<Fact[]> {
  const minor = await cluster.minorVersion(signal);
  const nodes = cluster.list(NODES, { labels: 'kubernetes.io/os=linux' }, signal);
  const own = cluster.list(PODS, { namespace, labels: `${NAME} in (rekindle-agent,rekindle-gateway,rekindle-scaler)` }, signal);
  const webhook = cluster.get(MUTATING_WEBHOOKS, { name: 'rekindle' }, signal);
  const metrics = cluster.get(API_SERVICES, { name: EXTERNAL_METRICS }, signal);
  // Each is waited for where it is looked at, and a failure is a fact there.
  for (const asked of [nodes, own, webhook, metrics]) asked.catch(() => undefined);
  const deployment = (name: string) => cluster.get(DEPLOYMENTS, { name, namespace }, signal);
  const gateway = async () =>
    role('Deployment', 'gateway', await deployment('rekindle-gateway'), 'new pods start without rekindle, and nothing can be invoked');
  const scaler = async () =>
    role('Deployment', 'scaler', await deployment('rekindle-scaler'), 'nothing wakes, parks or is brought to other nodes');
  const groups: Readonly<Record<string, Readonly<Record<string, Look>>>> = {
    cluster: {
      Kubernetes: () => kubernetesVersion(minor),
      nodes: async () => nodeFindings(await nodes),
      'slot in pods': async () => slotFiles(minor, await nodes),
      'in-place resize': async () => resizing(minor, await cluster.raw('/api/v1', signal)),
    },
    rekindle: {
      agents: async () => agents(await nodes, await cluster.list(PODS, { namespace, labels: `${NAME}=rekindle-agent` }, signal), namespace),
      gateway,
      scaler,
      Redis: async () =>
        redis(await cluster.get(STATEFUL_SETS, { name: 'rekindle-redis', namespace }, signal), [await gateway(), await scaler()]),
      versions: async () => versions(await own),
    },
    webhook: {
      configuration: async () => configuration(await webhook, nowMs),
      certificate: async () => serving(await webhook, await cluster.get(SECRETS, { name: 'rekindle-webhook-tls', namespace }, signal)),
      answer: async () => answer(await cluster.create(REHEARSED_PODS, rehearsedPod(ASK_PODS_IN), signal)),
    },
    scaling: {
      'external metrics': async () => externalMetrics(await metrics, namespace),
      autoscalers: async () => askedInVain(await metrics, await cluster.list(AUTOSCALERS, {}, signal)),
    },
    rights: {
      'rekindle-agent': () => rightsOf(cluster, namespace, 'rekindle-agent', signal),
      'rekindle-gateway': () => rightsOf(cluster, namespace, 'rekindle-gateway', signal),
      'rekindle-scaler': () => rightsOf(cluster, namespace, 'rekindle-scaler', signal),
      'admission policies': async () =>
        admissionPolicies(
          await cluster.raw(`${BINDINGS}/rekindle-pod-status`, signal),
          await cluster.raw(`${BINDINGS}/rekindle-pod-resize`, signal),
        ),
      'pod security': () => podSecurity(cluster, namespace, signal),
    },
    pods: { pods: async () => optedIn(await cluster.list(PODS, { labels: `${ENABLED_LABEL}=true` }, signal), nowMs) },
    unproven: { nodes: async () => unproven(await nodes) },
  };
  return (await Promise.all(Object.entries(groups).map(([group, looks]) => examine(group, looks)))).flat();
}
