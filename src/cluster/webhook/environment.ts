import { AGENT_PORT, type Mode } from '../../workloads/kubernetes.ts';
import type { ContainerSpec } from '../../workloads/workload.ts';
import type { EnvVar, PodContainer } from '../kinds.ts';
import { parkedPorts } from './probes.ts';

type InstanceEnv = ContainerSpec['instanceEnv'];

/** What differs between the pods of one template. Everything else that a field may say is equal for all of them, or makes snapshots of its own: it is in the spec hash. */
const PER_POD: InstanceEnv = {
  'metadata.name': 'name',
  'metadata.uid': 'uid',
  'status.podIP': 'address',
  'status.podIPs': 'pod',
  'status.hostIP': 'pod',
  'status.hostIPs': 'pod',
  'spec.nodeName': 'pod',
  "metadata.labels['statefulset.kubernetes.io/pod-name']": 'pod',
  "metadata.labels['apps.kubernetes.io/pod-index']": 'pod',
  "metadata.labels['batch.kubernetes.io/job-completion-index']": 'pod',
  "metadata.annotations['batch.kubernetes.io/job-completion-index']": 'pod',
};

/** Our own, in the order in which they are put before the container's. */
const OURS = [
  'REKINDLE_HOST_IP',
  'REKINDLE_AGENT',
  'REKINDLE_POD_UID',
  'REKINDLE_CONTAINER',
  'REKINDLE_RESTORE_MS',
  'REKINDLE_PRELOAD',
  'REKINDLE_MODE',
  'REKINDLE_PARKED_PORTS',
];

/** The slot gives up after its helper has: longer than a restore may take, and putting everything back. */
const UNDO_MS = 15_000;
const MAX_RESTORE_MS = 3_600_000;

/** Variables that have other values in other pods, and those made of such. */
export function instanceEnvOf({ env = [] }: PodContainer): InstanceEnv {
  const found: InstanceEnv = {};
  for (const { name, value, valueFrom } of env) {
    if (name.startsWith('REKINDLE_')) continue;
    const field = valueFrom?.fieldRef?.fieldPath;
    const what = field === undefined ? undefined : PER_POD[field];
    if (what !== undefined) found[name] = what;
    // Kubernetes puts in only what stands further up.
    else if (value !== undefined && refersTo(value, found) !== undefined) found[name] = 'pod';
    else delete found[name];
  }
  return found;
}

/** The first of these variables that a text of a pod is made of, as `$(NAME)`. */
export function refersTo(text: string, names: InstanceEnv): string | undefined {
  // `$$` stands for one `$` and begins nothing.
  const references = text.matchAll(/\$\$|\$\(([^()]+)\)/g);
  return [...references].map(([, name]) => name ?? '').find((name) => Object.hasOwn(names, name));
}

/** The container's environment with what the slot needs. What is ours already, from an earlier pass, is written anew. */
export function slotEnvironment(container: PodContainer, mode: Mode, restoreSeconds: number): EnvVar[] {
  const theirs = (container.env ?? []).filter(({ name }) => !OURS.includes(name));
  return [
    { name: 'REKINDLE_HOST_IP', valueFrom: { fieldRef: { apiVersion: 'v1', fieldPath: 'status.hostIP' } } },
    { name: 'REKINDLE_AGENT', value: `tcp:$(REKINDLE_HOST_IP):${AGENT_PORT}` },
    { name: 'REKINDLE_POD_UID', valueFrom: { fieldRef: { apiVersion: 'v1', fieldPath: 'metadata.uid' } } },
    { name: 'REKINDLE_CONTAINER', value: container.name },
    { name: 'REKINDLE_RESTORE_MS', value: String(Math.min(MAX_RESTORE_MS, Math.ceil(restoreSeconds * 1000) + UNDO_MS)) },
    // By the slot, which alone knows what the image, ConfigMaps and Secrets put into the same variables.
    { name: 'REKINDLE_PRELOAD', value: '1' },
    ...(mode === 'on-demand' ? parking(container) : []),
    ...theirs,
  ];
}

function parking(container: PodContainer): EnvVar[] {
  const ports = parkedPorts(container);
  return [
    { name: 'REKINDLE_MODE', value: 'on-demand' },
    ...(ports.length === 0 ? [] : [{ name: 'REKINDLE_PARKED_PORTS', value: ports.join(',') }]),
  ];
}
