import type { V1APIService } from '@kubernetes/client-node';
import { type Finding, fail, ok, warn } from '../../lib/fact.ts';

/** There is one of them in a cluster. */
export const EXTERNAL_METRICS = 'v1beta1.external.metrics.k8s.io';
const OURS = 'rekindle-scaler';

/** Who serves external metrics to HorizontalPodAutoscalers. */
export function externalMetrics(found: V1APIService | undefined, namespace: string): Finding {
  const name = 'external metrics';
  const service = found?.spec?.service;
  if (found === undefined || service === undefined)
    return ok(
      name,
      'nobody serves them',
      'kubectl apply -k manifests/overlays/external-metrics, if a HorizontalPodAutoscaler shall scale by invocations and connections',
    );
  const owner = `${service.namespace}/${service.name}`;
  if (service.namespace !== namespace || service.name !== OURS)
    return ok(
      name,
      `${owner} serves them, and rekindle leaves that alone`,
      "for KEDA: a ScaledObject with rekindle's external scaler (manifests/overlays/keda)",
    );
  const available = found.status?.conditions?.find(({ type }) => type === 'Available');
  if (available?.status === 'True') return ok(name, 'the scaler serves them');
  return fail(
    name,
    `the scaler is to serve them, and the API server cannot ask it: ${available?.message ?? 'it has not tried yet'}`,
    `kubectl -n ${namespace} logs deploy/rekindle-scaler`,
  );
}

/** HorizontalPodAutoscalers cannot scale by what nobody serves. */
export function askedInVain(
  found: V1APIService | undefined,
  autoscalers: readonly {
    readonly metadata?: { readonly name?: string; readonly namespace?: string };
    readonly spec?: { readonly metrics?: readonly { readonly external?: { readonly metric: { readonly name: string } } }[] };
  }[],
): Finding[] {
  const asking = autoscalers.filter(
    ({ spec }) => spec?.metrics?.some(({ external }) => external?.metric.name.startsWith('rekindle')) === true,
  );
  if (asking.length === 0 || found !== undefined) return [];
  const names = asking.map(({ metadata }) => `${metadata?.namespace}/${metadata?.name}`).slice(0, 5);
  return [
    warn(
      'autoscalers',
      `${asking.length} ask for metrics of rekindle, which nobody serves: ${names.join(', ')}`,
      'kubectl apply -k manifests/overlays/external-metrics',
    ),
  ];
}
