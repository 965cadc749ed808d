import { SLOT_MOUNT, SLOT_PROGRAM, SLOT_VOLUME } from '../../workloads/kubernetes.ts';
import type { Pod, PodContainer, PodSpec } from '../kinds.ts';

/** Oldest minor version of Kubernetes 1 that pods are restored on. */
const OLDEST_MINOR = 30;

/** Annotation of others' that names the container a person means (https://kubernetes.io/docs/reference/labels-annotations-taints/). */
const DEFAULT_CONTAINER = 'kubectl.kubernetes.io/default-container';

/** Why nothing of this pod can become a slot, in words that go on after "left as it was: "; undefined if something can. */
export function podRefusal(pod: Pod, minorVersion: number): string | undefined {
  const spec: Partial<PodSpec> = pod.spec ?? {};
  if (minorVersion < OLDEST_MINOR) return `Kubernetes 1.${minorVersion} is older than 1.${OLDEST_MINOR}`;
  if (pod.metadata?.annotations?.['kubernetes.io/config.mirror'] !== undefined) return 'it is the mirror of a static pod';
  if (spec.os?.name === 'windows') return 'it is a pod of Windows';
  if (spec.hostNetwork) return "hostNetwork is set: a clone's network would be the node's";
  if (spec.hostPID) return 'hostPID is set: its processes are not in a PID namespace of their own';
  if (spec.hostIPC) return "hostIPC is set: its shared memory would be the node's";
  if (spec.shareProcessNamespace) return 'shareProcessNamespace is set: the slot would not be PID 1 of its container';
  if (spec.hostUsers === false) return 'hostUsers is false: a restore into a user namespace of its own has no rights';
  if (spec.runtimeClassName !== undefined)
    return `runtimeClassName is ${spec.runtimeClassName}: only the node's usual runtime is known to work`;
  return undefined;
}

export type ContainerChoice = { readonly container: PodContainer; readonly index: number } | { readonly reason: string };

/** Which container becomes the slot: the one that is, the one that `annotation` names, the only one, or the one that kubectl would take. */
export function chooseContainer(pod: Pod, annotation: string): ContainerChoice {
  const containers = pod.spec?.containers ?? [];
  const annotations = pod.metadata?.annotations ?? {};
  const asked = annotations[annotation];
  // Of an earlier pass, since when another webhook may have added containers.
  const slot = containers.find(({ command }) => command?.[0] === SLOT_PROGRAM)?.name;
  const name = slot ?? asked ?? (containers.length === 1 ? containers[0]?.name : annotations[DEFAULT_CONTAINER]);
  const index = containers.findIndex((container) => container.name === name);
  const container = containers[index];
  if (container !== undefined) return { container, index };
  const names = containers.map((one) => one.name).join(', ');
  if (asked !== undefined) return { reason: `annotation ${annotation} names ${asked}, but its containers are ${names}` };
  return { reason: `it has several containers (${names}): name the one to restore by the annotation ${annotation}` };
}

/** Why this container cannot become a slot. */
export function containerRefusal(pod: Pod, container: PodContainer): string | undefined {
  const { securityContext = {}, volumeMounts = [] } = container;
  const of = (says: string) => `container ${container.name} ${says}`;
  if (securityContext.privileged) return of('is privileged: what a snapshot of it may touch has no limits');
  if (securityContext.procMount === 'Unmasked') return of('has procMount Unmasked');
  if (container.tty) return of('has a tty, which cannot be cloned');
  if (container.stdin) return of('has stdin, which cannot be cloned');
  const device = deviceOf(container);
  if (device !== undefined) return of(`uses the device ${device}, which cannot be cloned`);
  const propagating = volumeMounts.find(({ mountPropagation = 'None' }) => mountPropagation !== 'None');
  if (propagating !== undefined) return of(`mounts ${propagating.mountPath} with mountPropagation ${propagating.mountPropagation}`);
  return slotCollision(pod, container);
}

/** Paths and volumes that are the slot's; after an earlier pass over the same pod they are there. */
function slotCollision(pod: Pod, container: PodContainer): string | undefined {
  if (container.command?.[0] === SLOT_PROGRAM) return undefined;
  const taken = container.volumeMounts?.find(({ mountPath }) => isWithin(mountPath, SLOT_MOUNT));
  if (taken !== undefined) return `container ${container.name} mounts ${taken.mountPath}, but ${SLOT_MOUNT} is where the slot is`;
  const volume = pod.spec?.volumes?.some(({ name }) => name === SLOT_VOLUME) ?? false;
  return volume ? `its volume ${SLOT_VOLUME} has the name of the slot's: call it something else` : undefined;
}

function deviceOf({ volumeDevices = [], resources = {} }: PodContainer): string | undefined {
  if (volumeDevices[0] !== undefined) return volumeDevices[0].devicePath;
  if (resources.claims?.[0] !== undefined) return resources.claims[0].name;
  // Of device plugins, whose names have a domain: https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/#extended-resources
  return Object.keys({ ...resources.limits, ...resources.requests }).find(
    (name) => name.includes('/') && !name.startsWith('kubernetes.io/'),
  );
}

function isWithin(path: string, directory: string): boolean {
  return path === directory || path.startsWith(`${directory}/`);
}
