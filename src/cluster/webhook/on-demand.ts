import { ownerOf, STATE_LABEL } from '../../workloads/kubernetes.ts';
import type { Autoscaler, LimitRange, Pod, PodContainer, ResourceQuota, Service } from '../kinds.ts';
import { parseQuantity } from '../quantity.ts';
import { cannotPark } from './probes.ts';

/** What else is in the pod's namespace. */
export type Surroundings = {
  readonly autoscalers: readonly Autoscaler[];
  readonly limitRanges: readonly LimitRange[];
  readonly quotas: readonly ResourceQuota[];
  readonly services: readonly Service[];
};

export const NO_SURROUNDINGS: Surroundings = { autoscalers: [], limitRanges: [], quotas: [], services: [] };

/** Requests are changed in place from this minor version on. */
const OLDEST_MINOR = 33;
const RESOURCES = ['cpu', 'memory'] as const;

/** Why pods with this container cannot park, in words that go on after a colon; undefined if they can. */
export function onDemandRefusal(
  pod: Pod,
  container: PodContainer,
  { autoscalers }: Surroundings,
  minorVersion: number,
): string | undefined {
  if (minorVersion < OLDEST_MINOR) return `Kubernetes 1.${minorVersion} cannot change requests in place, 1.${OLDEST_MINOR} can`;
  const { kind, name } = ownerOf(pod);
  if (kind === 'Job') return 'a pod of a Job has nothing to wait for';
  const autoscaler = autoscalers.find(({ spec }) => {
    const target = spec?.scaleTargetRef;
    return target?.kind === kind && target.name === name && scalesByUse(spec?.metrics);
  });
  if (autoscaler !== undefined)
    return `HorizontalPodAutoscaler ${autoscaler.metadata?.name} scales by the utilisation of requests, and parked pods use nothing of requests that change: scale by rekindle's external metrics`;
  return cannotPark(container);
}

/** What parked pods of this container will not do, in sentences. */
export function onDemandWarnings(
  { metadata, spec }: Pod,
  container: PodContainer,
  { limitRanges, quotas, services }: Surroundings,
): string[] {
  const larger = staysLarge(spec?.containers ?? [], container, limitRanges);
  const quota = quotas.find(({ spec: quotaSpec }) =>
    RESOURCES.some((resource) => [resource, `requests.${resource}`].some((key) => quotaSpec?.hard?.[key] !== undefined)),
  );
  const blind = services.filter((service) => selectsParked(service, metadata?.labels ?? {})).map((service) => service.metadata?.name);
  return [
    ...(larger === undefined ? [] : [`parked pods ${larger}`]),
    ...(quota === undefined ? [] : [`ResourceQuota ${quota.metadata?.name} counts requests: where it is used up a parked pod cannot wake`]),
    ...(blind.length === 0
      ? []
      : [
          `Service ${blind.join(', ')} selects parked pods too, which answer for an application that does not run: add ${STATE_LABEL}: live to its selector`,
        ]),
    ...(container.lifecycle?.postStart === undefined ? [] : ['postStart is run when a pod starts, parked or not, and not when it wakes']),
  ];
}

function selectsParked({ spec }: Service, labels: Readonly<Record<string, string>>): boolean {
  const { [STATE_LABEL]: state, ...wanted } = spec?.selector ?? {};
  // The webhook's own label says the rest.
  return state !== 'live' && Object.keys(wanted).length > 0 && Object.entries(wanted).every(([key, value]) => labels[key] === value);
}

/** What in-place resize cannot take from this container's pods, and why: what they do, in words. */
function staysLarge(containers: readonly PodContainer[], container: PodContainer, limitRanges: readonly LimitRange[]): string | undefined {
  const { requests = {}, limits = {} } = container.resources ?? {};
  if (containers.every(isGuaranteed))
    return 'keep their requests: these are equal to limits (QoS class Guaranteed), and the class of a pod cannot change';
  // The API server takes limits for requests that are not given.
  if (RESOURCES.every((resource) => (requests[resource] ?? limits[resource]) === undefined)) return 'keep their requests: there are none';
  const restarting = container.resizePolicy?.find(({ restartPolicy }) => restartPolicy === 'RestartContainer');
  if (restarting !== undefined) return `keep what they request of ${restarting.resourceName}: its resizePolicy is RestartContainer`;
  const items = limitRanges.flatMap((range) => (range.spec?.limits ?? []).map((item) => ({ range, item })));
  const narrow = items.find(({ item }) => item.maxLimitRequestRatio !== undefined);
  if (narrow !== undefined) return `request as much as the maxLimitRequestRatio of LimitRange ${narrow.range.metadata?.name} demands`;
  const least = items.find(
    ({ item }) => item.type !== 'PersistentVolumeClaim' && RESOURCES.some((resource) => item.min?.[resource] !== undefined),
  );
  return least === undefined ? undefined : `request as much as the minimum of LimitRange ${least.range.metadata?.name}`;
}

function isGuaranteed({ resources }: PodContainer): boolean {
  return RESOURCES.every((resource) => {
    const limit = parseQuantity(resources?.limits?.[resource]);
    return limit !== undefined && parseQuantity(resources?.requests?.[resource] ?? resources?.limits?.[resource]) === limit;
  });
}

/** An autoscaler without metrics scales by the utilisation of the processor. */
function scalesByUse(metrics: NonNullable<Autoscaler['spec']>['metrics']): boolean {
  if (metrics === undefined || metrics.length === 0) return true;
  return metrics.some(({ resource, containerResource }) => (resource ?? containerResource)?.target.type === 'Utilization');
}
