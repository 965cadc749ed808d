import type { Pod, PodContainer, PodSpec } from '../../../../src/cluster/kinds.ts';
import { type Injection, inject } from '../../../../src/cluster/webhook/inject.ts';
import { NO_SURROUNDINGS } from '../../../../src/cluster/webhook/on-demand.ts';
import { parsePolicyProperties } from '../../../../src/workloads/configmap.ts';
import { parseDescription } from '../../../../src/workloads/description.ts';
import { ENABLED_LABEL, WORKLOAD_ANNOTATION } from '../../../../src/workloads/kubernetes.ts';

/** A pod of Deployment `web`, with one container. */
export function aPod(container: Partial<PodContainer> = {}, spec: Partial<PodSpec> = {}, annotations: Record<string, string> = {}): Pod {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      generateName: 'web-5d4f8c7b9-',
      namespace: 'shop',
      labels: { app: 'web', 'pod-template-hash': '5d4f8c7b9', [ENABLED_LABEL]: 'true' },
      annotations,
      ownerReferences: [{ apiVersion: 'apps/v1', kind: 'ReplicaSet', name: 'web-5d4f8c7b9', uid: 'rs', controller: true }],
    },
    spec: { containers: [{ name: 'app', image: 'shop/web:1', command: ['node', 'server.js'], ...container }], ...spec },
  };
}

/** What is said beside a pod; everything as it mostly is. */
export function anInjection(pod: Pod, other: Partial<Injection> & { readonly properties?: string } = {}): Injection {
  const { properties = '', ...rest } = other;
  return {
    pod,
    policy: parsePolicyProperties(properties, 'ConfigMap shop/web'),
    image: undefined,
    surroundings: NO_SURROUNDINGS,
    files: { slotImage: 'example.org/slot:1', imageVolumes: true },
    minorVersion: 36,
    ...rest,
  };
}

/** The pod as a slot; fails where it was left as it was. */
export function injected(pod: Pod, other: Parameters<typeof anInjection>[1] = {}) {
  const result = inject(anInjection(pod, other));
  if (result.outcome === 'left') throw new Error(`left as it was: ${result.reason}`);
  const { metadata, spec } = result.pod;
  if (spec === undefined) throw new Error('no spec');
  const container = spec.containers.find(({ command }) => command?.[0] === '/rekindle/slot');
  if (container === undefined) throw new Error('no slot');
  const description = parseDescription(metadata?.annotations?.[WORKLOAD_ANNOTATION] ?? '', 'the pod');
  return { pod: result.pod, spec, container, description, warnings: result.warnings };
}
