import { SLOT_MOUNT, SLOT_VOLUME } from '../../workloads/kubernetes.ts';
import type { PodContainer, PodSpec } from '../kinds.ts';

const INSTALLER = 'rekindle-slot';
/** The image's own user, said here because the pod may say another, or that there must be one. */
const NOBODY = 65532;
/** Requests and limits are equal, so that the pod keeps its QoS class, and both are given, so that it fits a namespace with quotas. */
const SMALL = { cpu: '50m', memory: '32Mi' };

export type SlotFiles = {
  /** OCI reference of the slot's image. */
  readonly slotImage: string;
  /** Whether the cluster takes volumes of the kind `image`; else an init container copies the files. */
  readonly imageVolumes: boolean;
};

/** The pod with the volume that holds the slot, and, where that needs it, the init container that fills it. Safe to repeat. */
export function withSlotVolume(spec: PodSpec, { slotImage, imageVolumes }: SlotFiles): PodSpec {
  const there = spec.volumes?.some(({ name }) => name === SLOT_VOLUME) ?? false;
  if (there) return spec;
  const volumes = spec.volumes ?? [];
  if (imageVolumes)
    return { ...spec, volumes: [...volumes, { name: SLOT_VOLUME, image: { reference: slotImage, pullPolicy: 'IfNotPresent' } }] };
  return {
    ...spec,
    volumes: [...volumes, { name: SLOT_VOLUME, emptyDir: {} }],
    initContainers: [installer(slotImage), ...(spec.initContainers ?? [])],
  };
}

/** The container with that volume mounted. Safe to repeat. */
export function withSlotMount(container: PodContainer): PodContainer {
  const mounts = container.volumeMounts ?? [];
  if (mounts.some(({ name }) => name === SLOT_VOLUME)) return container;
  return { ...container, volumeMounts: [...mounts, { name: SLOT_VOLUME, mountPath: SLOT_MOUNT, readOnly: true }] };
}

/** Fits the pod security level `restricted`. */
function installer(image: string): PodContainer {
  return {
    name: INSTALLER,
    image,
    imagePullPolicy: 'IfNotPresent',
    command: ['/slot', '--install', SLOT_MOUNT],
    resources: { requests: SMALL, limits: SMALL },
    volumeMounts: [{ name: SLOT_VOLUME, mountPath: SLOT_MOUNT }],
    securityContext: {
      allowPrivilegeEscalation: false,
      capabilities: { drop: ['ALL'] },
      readOnlyRootFilesystem: true,
      runAsNonRoot: true,
      runAsUser: NOBODY,
      runAsGroup: NOBODY,
      seccompProfile: { type: 'RuntimeDefault' },
    },
  };
}
