import { type Finding, fail, ok, warn } from '../../lib/fact.ts';
import type { Node, Pod } from '../kinds.ts';
import { namesOf } from './versions.ts';

/** A workload of rekindle's own, as far as it is looked at. */
type Role = { readonly spec?: { readonly replicas?: number }; readonly status?: { readonly readyReplicas?: number } } | undefined;

/** An agent on every node, and ready: a node without one starts everything cold. */
export function agents(nodes: readonly Node[], pods: readonly Pod[], namespace: string): Finding {
  const name = 'agents';
  if (pods.length === 0) return fail(name, 'there is none', 'kubectl apply -k manifests/');
  const ready = new Set(pods.filter(isReady).map(({ spec }) => spec?.nodeName));
  const missing = nodes.filter(({ metadata }) => !ready.has(metadata?.name));
  if (missing.length === 0) return ok(name, `ready on ${nodes.length === 1 ? 'the node' : `all ${nodes.length} nodes`}`);
  const whys = missing.map(({ metadata }) => whyNot(pods.find(({ spec }) => spec?.nodeName === metadata?.name)));
  const says = `not ready on ${missing.length} of ${nodes.length} nodes (${namesOf(missing)}): ${[...new Set(whys)].join('; ')}`;
  const remedy = `pods there start cold; kubectl -n ${namespace} describe pods -l app.kubernetes.io/name=rekindle-agent, and their logs`;
  return missing.length === nodes.length ? fail(name, says, remedy) : warn(name, says, remedy);
}

/** A Deployment or StatefulSet; `without` is what does not work while it is away. */
export function role(kind: string, name: string, found: Role, without: string): Finding {
  if (found === undefined) return fail(name, `there is no ${kind}: ${without}`, 'kubectl apply -k manifests/');
  const [wanted, ready] = [found.spec?.replicas ?? 1, found.status?.readyReplicas ?? 0];
  if (ready >= wanted && ready > 0) return ok(name, `${ready} of ${wanted} ready`);
  const says = `${ready} of ${wanted} ready`;
  return ready === 0
    ? fail(name, `${says}: ${without}`, 'kubectl -n rekindle describe pods, and their logs')
    : warn(name, says, 'kubectl -n rekindle describe pods');
}

/** A Redis of the user's own has no object here: the others are not ready while they cannot reach it. */
export function redis(found: Role, others: readonly Finding[]): Finding {
  if (found !== undefined)
    return role('StatefulSet', 'Redis', found, 'nodes do not hear of each other, only snapshots of their own are restored');
  if (others.some(({ level }) => level === 'ok')) return ok('Redis', 'one of your own, by the URL in Secret rekindle-redis');
  return warn('Redis', 'none here: whether that of Secret rekindle-redis answers, nobody could say, since no role is ready');
}

/** Roles of several versions are an upgrade that has not ended. */
export function versions(pods: readonly Pod[]): Finding {
  const images = pods.flatMap(({ spec }) => spec?.containers ?? []).map(({ image = '' }) => image);
  const tags = new Set(
    images.filter((image) => !/redis/.test(image)).map((image) => image.replace(/@.*$/, '').replace(/^.*:(?=[^/]*$)/, '')),
  );
  if (tags.size <= 1) return ok('versions', [...tags].join() || 'nothing runs');
  return warn('versions', `several at once: ${[...tags].sort().join(', ')}`, 'wait for the rollout, or look at what holds it up');
}

export function isReady({ status }: Pod): boolean {
  return status?.conditions?.some(({ type, status: is }) => type === 'Ready' && is === 'True') ?? false;
}

function whyNot(pod: Pod | undefined): string {
  if (pod === undefined) return 'there is no pod (a taint, a quota, or pod security)';
  const statuses = [...(pod.status?.initContainerStatuses ?? []), ...(pod.status?.containerStatuses ?? [])];
  const waiting = statuses.find(({ state }) => state?.waiting !== undefined)?.state?.waiting;
  if (waiting !== undefined) return [waiting.reason, waiting.message].filter(Boolean).join(': ');
  return `its pod is ${pod.status?.phase ?? 'unknown'}, and not ready`;
}
