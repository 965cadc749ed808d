import { type LabelSelector, selects } from './label-selector.ts';
import { type Load, METRICS, type Metric, metricOf } from './loads.ts';

/** The documents of `external.metrics.k8s.io/v1beta1`, as the API server and its clients read them. Pure. */

export const GROUP = 'external.metrics.k8s.io';
export const VERSION = 'v1beta1';
const GROUP_VERSION = `${GROUP}/${VERSION}`;
/** Of every value: whose it is. */
export const WORKLOAD_LABEL = 'workload';

const preferred = { groupVersion: GROUP_VERSION, version: VERSION };
const apiGroup = { name: GROUP, versions: [preferred], preferredVersion: preferred };

export const DISCOVERY = {
  groups: { kind: 'APIGroupList', apiVersion: 'v1', groups: [apiGroup] },
  group: { kind: 'APIGroup', apiVersion: 'v1', ...apiGroup },
  resources: {
    kind: 'APIResourceList',
    apiVersion: 'v1',
    groupVersion: GROUP_VERSION,
    resources: METRICS.map((name) => ({ name, singularName: '', namespaced: true, kind: 'ExternalMetricValueList', verbs: ['get'] })),
  },
} as const;

/** Empty on purpose: there is nothing to explain, and what the API server merges into its own document cannot collide with it. */
export const OPENAPI = {
  v2: { swagger: '2.0', info: { title: 'rekindle external metrics', version: VERSION }, paths: {} },
  v3: { paths: {} },
} as const;

export function isMetric(name: string): name is Metric {
  return METRICS.some((metric) => metric === name);
}

/** The values of one metric in one namespace. A workload of which nobody can tell it is left out: an autoscaler then leaves it as it is. */
export function metricValues(metric: Metric, loads: Iterable<readonly [workload: string, Load]>, selector: LabelSelector, nowMs: number) {
  const items = [...loads].flatMap(([workload, load]) => {
    const metricLabels = { [WORKLOAD_LABEL]: workload };
    const value = metricOf(metric, load);
    if (value === undefined || !selects(selector, metricLabels)) return [];
    return [{ metricName: metric, metricLabels, timestamp: secondsOf(nowMs), value: String(value) }];
  });
  return { kind: 'ExternalMetricValueList', apiVersion: GROUP_VERSION, metadata: {}, items };
}

/** How the API server says that something went wrong. */
export function failure(code: number, reason: string, message: string) {
  return { kind: 'Status', apiVersion: 'v1', metadata: {}, status: 'Failure', message, reason, code };
}

/** RFC 3339 without fractions, as metav1.Time is written. */
function secondsOf(ms: number): string {
  return new Date(ms).toISOString().replace(/\.\d+Z$/, 'Z');
}
