/** The names by which users, the webhook, agents and the scaler meet on Kubernetes objects. */

/** Label of a pod template: `"true"` opts its pods in. */
export const ENABLED_LABEL = 'rekindle.dev/enabled';
/** Label of a pod that rekindle keeps: what its slot is, see {@link PodState}. */
export const STATE_LABEL = 'rekindle.dev/state';
/** Annotation of a pod template: the ConfigMap whose `cr-properties` say the policy. */
export const PROPERTIES_ANNOTATION = 'rekindle.dev/properties';
/** Annotation of a pod template: which container, where there are several. */
export const CONTAINER_ANNOTATION = 'rekindle.dev/container';
/** Annotation of a pod template: `restore` (default) or `on-demand`. */
export const MODE_ANNOTATION = 'rekindle.dev/mode';
/** Annotation of a pod template: `keep` leaves the readiness probe's period as it is. */
export const PROBE_PERIOD_ANNOTATION = 'rekindle.dev/probe-period';
/** Annotation that the webhook writes: the whole description (`Workload`, as JSON) of the container that became a slot. */
export const WORKLOAD_ANNOTATION = 'rekindle.dev/workload';
/** Annotation that the webhook writes on pods that park: the container's own requests, as JSON, which it has again when it wakes. */
export const REQUESTS_ANNOTATION = 'rekindle.dev/requests';
/** Annotation that the agent writes: how the application came to be, in words. */
export const START_ANNOTATION = 'rekindle.dev/start';
/** Readiness gate, and the condition that opens it. */
export const GATE = 'rekindle.dev/ready';
/** Why a gate is open whose pod is still to be restored. */
export const OPEN_AHEAD = 'Restoring';
/** Key of a ConfigMap with the policy as properties text. */
export const PROPERTIES_KEY = 'cr-properties';
/** Name of the volume that holds the slot, and where it is mounted. */
export const SLOT_VOLUME = 'rekindle';
export const SLOT_MOUNT = '/rekindle';
/** The program in that volume that is PID 1. */
export const SLOT_PROGRAM = `${SLOT_MOUNT}/slot`;
/** Variable that the webhook gives slots of pods that park: `on-demand`. One that asks to park and cannot has none, and is an ordinary pod. */
export const MODE_VARIABLE = 'REKINDLE_MODE';
/** Where agents hear slots. */
export const AGENT_PORT = 7654;

/** Of {@link STATE_LABEL}. */
export type PodState = 'waiting' | 'seed' | 'live' | 'cold' | 'parked';
export type Mode = 'restore' | 'on-demand';

/** A workload's name in queues, snapshots and metrics: `NAMESPACE.NAME`. No namespace has a dot (RFC 1123 label). */
export function workloadName(namespace: string, name: string): string {
  return `${namespace}.${name}`;
}

/** The reverse of {@link workloadName}; undefined for a name that is not of a cluster. */
export function parseWorkloadName(name: string): { readonly namespace: string; readonly name: string } | undefined {
  const dot = name.indexOf('.');
  return dot < 1 || dot === name.length - 1 ? undefined : { namespace: name.slice(0, dot), name: name.slice(dot + 1) };
}

/** What of a pod says whose it is. */
export type OwnedPod = {
  readonly metadata?: {
    readonly name?: string;
    readonly generateName?: string;
    readonly labels?: Readonly<Record<string, string>>;
    readonly ownerReferences?: readonly { readonly kind: string; readonly name: string; readonly controller?: boolean }[];
  };
};

/**
 * Who the pod's workload is: its controller, for a ReplicaSet of a Deployment that Deployment (whose name is the ReplicaSet's without the template's
 * hash, https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#pod-template-hash-label), for a pod of nobody's the pod itself.
 */
export function ownerOf({ metadata = {} }: OwnedPod): { readonly kind: string; readonly name: string } {
  const controller = metadata.ownerReferences?.find((owner) => owner.controller === true);
  if (controller === undefined) return { kind: 'Pod', name: metadata.name ?? metadata.generateName?.replace(/-$/, '') ?? '' };
  const hash = metadata.labels?.['pod-template-hash'];
  if (controller.kind === 'ReplicaSet' && hash !== undefined && controller.name.endsWith(`-${hash}`))
    return { kind: 'Deployment', name: controller.name.slice(0, -hash.length - 1) };
  return { kind: controller.kind, name: controller.name };
}
