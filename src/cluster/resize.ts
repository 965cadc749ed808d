import { type Static, Type } from 'typebox';
import { Value } from 'typebox/value';
import { RekindleError } from '../lib/errors.ts';
import { REQUESTS_ANNOTATION } from '../workloads/kubernetes.ts';
import type { Cluster } from './cluster.ts';
import { slotContainerOf } from './host.ts';
import { type LimitRange, PODS, type Pod, type PodContainer } from './kinds.ts';
import { parseQuantity } from './quantity.ts';

/** Requests are changed in place from this minor version on (https://kubernetes.io/docs/tasks/configure-pod-container/resize-container-resources/). */
export const OLDEST_RESIZE_MINOR = 33;

const Requests = Type.Object({ cpu: Type.Optional(Type.String()), memory: Type.Optional(Type.String()) });
/** Of the container that is a slot; other resources are never changed. */
export type Requests = Static<typeof Requests>;

/** `right`: they are as they should be. `never`: they stay as declared, and why, in words. */
export type Resize =
  | { readonly do: 'right' }
  | { readonly do: 'change'; readonly container: string; readonly requests: Requests }
  | { readonly do: 'never'; readonly why: string };

const RESOURCES = ['cpu', 'memory'] as const;
type Resource = (typeof RESOURCES)[number];
/** What a slot without application needs; no request may be nothing, which would change the pod's class. */
const PARKED: Readonly<Record<Resource, number>> = { cpu: 0.001, memory: 4 * 2 ** 20 };

/**
 * What a pod's requests should become: `declared` while it has an application, `parked` without. Only requests are lowered, never a limit; every key stays, and
 * so does the QoS class; never below what a LimitRange of the namespace allows. Pure.
 */
export function resizeOf(pod: Pod, wanted: 'declared' | 'parked', limitRanges: readonly LimitRange[]): Resize {
  const container = slotContainerOf(pod);
  const declared = declaredRequests(pod);
  if (container === undefined || declared === undefined)
    return { do: 'never', why: `its own requests are not known: it has no valid annotation ${REQUESTS_ANNOTATION}` };
  const why = whyNever(pod, container, declared);
  if (why !== undefined) return { do: 'never', why };
  const changes = RESOURCES.flatMap((resource) => {
    const own = declared[resource];
    if (own === undefined || restarts(container, resource)) return [];
    const target = wanted === 'declared' ? own : parkedRequest(pod, container, resource, own, limitRanges);
    return parseQuantity(target) === parseQuantity(container.resources?.requests?.[resource]) ? [] : [[resource, target] as const];
  });
  return changes.length === 0 ? { do: 'right' } : { do: 'change', container: container.name, requests: Object.fromEntries(changes) };
}

/** What became of a change: whether the node took it. */
export type ResizeState = 'done' | 'under way' | 'deferred' | 'infeasible';

/** What the kubelet says of the pod's last change. Pure. */
export function resizeStateOf({ metadata, status }: Pod): ResizeState {
  const generation = metadata?.generation ?? 0;
  const isSeen = (observed: number | undefined) => observed === undefined || observed >= generation;
  const pending = status?.conditions?.find(({ type, status: value }) => type === 'PodResizePending' && value === 'True');
  if (pending !== undefined && isSeen(pending.observedGeneration)) return pending.reason === 'Infeasible' ? 'infeasible' : 'deferred';
  if (!isSeen(status?.observedGeneration)) return 'under way';
  const isInProgress = status?.conditions?.some(({ type, status: value }) => type === 'PodResizeInProgress' && value === 'True');
  return isInProgress === true ? 'under way' : 'done';
}

/**
 * Asks for other requests. Undefined when that is accepted, or the pod is gone; else why it is forbidden (a quota, a LimitRange, a right that lacks). Throws
 * `cluster_unavailable` when the API server does not answer. May be repeated.
 */
export async function resize(
  cluster: Pick<Cluster, 'patch'>,
  { metadata }: Pod,
  { container, requests }: { readonly container: string; readonly requests: Requests },
  signal: AbortSignal,
): Promise<string | undefined> {
  const { name = '', namespace } = metadata ?? {};
  try {
    const patch = { spec: { containers: [{ name: container, resources: { requests } }] } };
    await cluster.patch(PODS, { name, namespace, subresource: 'resize' }, patch, 'strategic', signal);
    return undefined;
  } catch (error) {
    if (error instanceof RekindleError && !error.retryable) return error.message;
    throw error;
  }
}

/** As the webhook wrote them down. Somebody may have written something else there: it says what the pod asks for, as the pod itself could. */
function declaredRequests({ metadata }: Pod): Requests | undefined {
  try {
    const value: unknown = JSON.parse(metadata?.annotations?.[REQUESTS_ANNOTATION] ?? '');
    if (!Value.Check(Requests, value)) return undefined;
    const requests: Requests = value;
    const isFine = RESOURCES.every((resource) => requests[resource] === undefined || (parseQuantity(requests[resource]) ?? -1) >= 0);
    return isFine ? requests : undefined;
  } catch {
    return undefined;
  }
}

function whyNever({ spec, status }: Pod, container: PodContainer, declared: Requests): string | undefined {
  if (spec?.resources !== undefined) return 'its requests are those of the whole pod';
  if (status?.qosClass === 'Guaranteed')
    return 'its requests are equal to its limits (QoS class Guaranteed), and the class of a pod cannot change';
  const asked = RESOURCES.filter((resource) => (parseQuantity(declared[resource]) ?? 0) > 0);
  if (asked.length === 0) return 'it has no requests';
  if (asked.every((resource) => restarts(container, resource))) return 'its resizePolicy is RestartContainer';
  return undefined;
}

function restarts({ resizePolicy }: PodContainer, resource: Resource): boolean {
  return resizePolicy?.some((policy) => policy.resourceName === resource && policy.restartPolicy === 'RestartContainer') ?? false;
}

/** The least that is allowed, but never more than its own. */
function parkedRequest(pod: Pod, container: PodContainer, resource: Resource, own: string, limitRanges: readonly LimitRange[]): string {
  const others = (pod.spec?.containers ?? []).filter((one) => one !== container);
  const sum = (of: 'limits' | 'requests') =>
    others.reduce((all, { resources }) => all + (parseQuantity(resources?.[of]?.[resource]) ?? 0), 0);
  const limit = parseQuantity(container.resources?.limits?.[resource]) ?? 0;
  const least = limitRanges
    .flatMap(({ spec }) => spec?.limits ?? [])
    .map(({ type, min, maxLimitRequestRatio }) => {
      const lowest = parseQuantity(min?.[resource]) ?? 0;
      const ratio = parseQuantity(maxLimitRequestRatio?.[resource]) ?? 0;
      const byRatio = (limits: number) => (ratio > 0 ? limits / ratio : 0);
      if (type === 'Container') return Math.max(lowest, byRatio(limit));
      return type === 'Pod' ? Math.max(lowest, byRatio(limit + sum('limits'))) - sum('requests') : 0;
    });
  const amount = Math.max(PARKED[resource], ...least);
  return amount >= (parseQuantity(own) ?? 0) ? own : formatted(resource, amount);
}

function formatted(resource: Resource, amount: number): string {
  // Not up because of what binary fractions leave over.
  return resource === 'cpu' ? `${Math.ceil(Number((amount * 1000).toFixed(3)))}m` : `${Math.ceil(amount / 2 ** 20)}Mi`;
}
