import { formatDescription, parseDescription } from '../../workloads/description.ts';
import {
  CONTAINER_ANNOTATION,
  GATE,
  MODE_ANNOTATION,
  type Mode,
  PROBE_PERIOD_ANNOTATION,
  REQUESTS_ANNOTATION,
  SLOT_PROGRAM,
  START_ANNOTATION,
  STATE_LABEL,
  WORKLOAD_ANNOTATION,
} from '../../workloads/kubernetes.ts';
import type { PolicySpec, WorkloadDescription } from '../../workloads/workload.ts';
import type { Pod, PodContainer, PodSpec } from '../kinds.ts';
import { describeContainer } from './describe.ts';
import { instanceEnvOf, slotEnvironment } from './environment.ts';
import { onDemandRefusal, onDemandWarnings, type Surroundings } from './on-demand.ts';
import { parkingProbes, readinessEverySecond, startupEverySecond } from './probes.ts';
import { chooseContainer, containerRefusal, podRefusal } from './refusals.ts';
import { type SlotFiles, withSlotMount, withSlotVolume } from './slot-volume.ts';

/** What an image says of the process that it is for. */
export type ImageConfig = { readonly entrypoint: readonly string[]; readonly cmd: readonly string[] };

export type Injection = {
  readonly pod: Pod;
  readonly policy: PolicySpec;
  /** Of the chosen container's image; undefined when nobody could say. Needed only where {@link imageOfInterest} names one. */
  readonly image: ImageConfig | undefined;
  readonly surroundings: Surroundings;
  readonly files: SlotFiles;
  /** Of Kubernetes 1. */
  readonly minorVersion: number;
};

export type Injected =
  | { readonly outcome: 'slot'; readonly pod: Pod; readonly warnings: readonly string[] }
  /** The pod stays as it was. */
  | { readonly outcome: 'left'; readonly reason: string };

const left = (reason: string): Injected => ({ outcome: 'left', reason });

/** An image as a pod names it, and when nodes pull it anew. */
export type AskedImage = { readonly reference: string; readonly pullPolicy: string | undefined };

/** The image whose entrypoint has to be known, since the pod does not say what its container runs; undefined if none has to. */
export function imageOfInterest(pod: Pod): AskedImage | undefined {
  const choice = chooseContainer(pod, CONTAINER_ANNOTATION);
  if ('reason' in choice || choice.container.command?.length) return undefined;
  const { image, imagePullPolicy } = choice.container;
  return image === undefined ? undefined : { reference: image, pullPolicy: imagePullPolicy };
}

/** What the pod's annotation says; anything else than `on-demand` is `restore`. */
export function modeOf(pod: Pod): Mode {
  return pod.metadata?.annotations?.[MODE_ANNOTATION] === 'on-demand' ? 'on-demand' : 'restore';
}

/**
 * Turns the chosen container of an opted-in pod into a slot that carries the container's own command, or says why not. What it wrote in an
 * earlier pass over the same pod it leaves, and adds what is missing (`reinvocationPolicy: IfNeeded`).
 */
export function inject({ pod, policy, image, surroundings, files, minorVersion }: Injection): Injected {
  if (pod.spec === undefined) return left('it has no spec');
  const choice = chooseContainer(pod, CONTAINER_ANNOTATION);
  if ('reason' in choice) return left(choice.reason);
  const { container, index } = choice;
  const refusal = podRefusal(pod, minorVersion) ?? containerRefusal(pod, container);
  if (refusal !== undefined) return left(refusal);
  if (container.command?.[0] === SLOT_PROGRAM) return again(pod, pod.spec, container, index, files);

  const command = slotCommand(container, image);
  if ('reason' in command) return left(command.reason);
  const described = describeContainer(pod, container, policy);
  if ('reason' in described) return left(described.reason);
  const { description } = described;
  const asked = modeOf(pod);
  const unparkable = asked === 'on-demand' ? onDemandRefusal(pod, container, surroundings, minorVersion) : undefined;
  const mode = unparkable === undefined ? asked : 'restore';
  const slot = withSlotMount({
    ...container,
    ...command,
    env: slotEnvironment(container, mode, description.restore.deadlineSeconds),
    ...withSeccomp(pod.spec, container),
    ...probesOf(pod, container, mode),
  });
  const warnings = [
    ...described.warnings,
    ...modeWarnings(pod, unparkable),
    ...(mode === 'on-demand' ? onDemandWarnings(pod, container, surroundings) : []),
    ...generalWarnings(pod, container, description),
  ];
  return { outcome: 'slot', pod: assembled(pod, pod.spec, slot, index, files, mode, description), warnings };
}

/** A pod that was here before: the command and the probes are as they should be, other webhooks may have changed everything else. */
function again(pod: Pod, spec: PodSpec, container: PodContainer, index: number, files: SlotFiles): Injected {
  const text = pod.metadata?.annotations?.[WORKLOAD_ANNOTATION];
  if (text === undefined)
    return left(`container ${container.name} runs ${SLOT_PROGRAM} already, without the annotation ${WORKLOAD_ANNOTATION}`);
  const before = parseDescription(text, 'the pod');
  const description = { ...before, container: { ...before.container, instanceEnv: instanceEnvOf(container) } };
  const mode = container.env?.some(({ name }) => name === 'REKINDLE_MODE') ? 'on-demand' : 'restore';
  const slot = withSlotMount({
    ...container,
    env: slotEnvironment(container, mode, description.restore.deadlineSeconds),
    ...withSeccomp(spec, container),
  });
  return { outcome: 'slot', pod: assembled(pod, spec, slot, index, files, mode, description), warnings: [] };
}

function assembled(
  pod: Pod,
  spec: PodSpec,
  slot: PodContainer,
  index: number,
  files: SlotFiles,
  mode: Mode,
  description: WorkloadDescription,
): Pod {
  const gates = spec.readinessGates ?? [];
  const gated = gates.some(({ conditionType }) => conditionType === GATE) ? gates : [...gates, { conditionType: GATE }];
  // A template may come from a pod that was written down: how that one started is not how this one did.
  const { [START_ANNOTATION]: _start, [REQUESTS_ANNOTATION]: _requests, ...annotations } = pod.metadata?.annotations ?? {};
  const requests = mode === 'on-demand' ? { [REQUESTS_ANNOTATION]: JSON.stringify(slot.resources?.requests ?? {}) } : {};
  return {
    ...pod,
    metadata: {
      ...pod.metadata,
      labels: { ...pod.metadata?.labels, [STATE_LABEL]: mode === 'on-demand' ? 'parked' : 'waiting' },
      annotations: { ...annotations, [WORKLOAD_ANNOTATION]: formatDescription(description), ...requests },
    },
    spec: withSlotVolume({ ...spec, readinessGates: gated, containers: spec.containers.with(index, slot) }, files),
  };
}

/** The slot with all that the container would have run. */
function slotCommand(
  container: PodContainer,
  image: ImageConfig | undefined,
): { command: string[]; args?: string[] } | { readonly reason: string } {
  if (container.command?.length) return { command: [SLOT_PROGRAM, ...container.command] };
  if (image === undefined)
    return {
      reason: `container ${container.name} names no command, and what its image ${container.image} runs could not be found out in time`,
    };
  const entrypoint = image.entrypoint.map(literally);
  // As runtimes do: arguments of the pod replace the image's.
  const args = container.args?.length ? container.args : image.cmd.map(literally);
  if (entrypoint.length + args.length === 0)
    return { reason: `neither container ${container.name} nor its image ${container.image} names a command` };
  return { command: [SLOT_PROGRAM, ...entrypoint], args };
}

/** Kubelet replaces `$(NAME)` and `$$` in a pod's command, but not in an image's. */
function literally(text: string): string {
  return text.replaceAll('$', '$$$$');
}

/** Without any profile Node ≥ 22 holds io_uring descriptors, which cannot be dumped. */
function withSeccomp({ securityContext }: PodSpec, container: PodContainer): Pick<PodContainer, 'securityContext'> {
  if (securityContext?.seccompProfile !== undefined || container.securityContext?.seccompProfile !== undefined) return {};
  return { securityContext: { ...container.securityContext, seccompProfile: { type: 'RuntimeDefault' } } };
}

function probesOf(pod: Pod, container: PodContainer, mode: Mode): Partial<PodContainer> {
  const probes = mode === 'on-demand' ? parkingProbes(container) : container;
  const { readinessProbe, startupProbe, livenessProbe } = probes;
  const keep = pod.metadata?.annotations?.[PROBE_PERIOD_ANNOTATION] === 'keep';
  return {
    ...(readinessProbe === undefined ? {} : { readinessProbe: keep ? readinessProbe : readinessEverySecond(readinessProbe) }),
    // Kubelet does not ask for readiness before this has succeeded.
    ...(startupProbe === undefined ? {} : { startupProbe: keep ? startupProbe : startupEverySecond(startupProbe) }),
    ...(livenessProbe === undefined ? {} : { livenessProbe }),
  };
}

function modeWarnings(pod: Pod, unparkable: string | undefined): string[] {
  const asked = pod.metadata?.annotations?.[MODE_ANNOTATION];
  if (unparkable !== undefined) return [`pods are restored but do not park: ${unparkable}`];
  if (asked === undefined || asked === 'restore' || asked === 'on-demand') return [];
  return [`annotation ${MODE_ANNOTATION} is ${asked}, which is neither restore nor on-demand: pods are restored`];
}

function generalWarnings({ spec }: Pod, container: PodContainer, { restore }: WorkloadDescription): string[] {
  const profile = container.securityContext?.seccompProfile ?? spec?.securityContext?.seccompProfile;
  const delay = Math.max(container.readinessProbe?.initialDelaySeconds ?? 0, container.startupProbe?.initialDelaySeconds ?? 0);
  return [
    ...(restore.cold === undefined ? [] : [`pods start cold: ${restore.cold}`]),
    ...(profile?.type === 'Unconfined' ? ['seccompProfile is Unconfined: Node from 22 on cannot be checkpointed then'] : []),
    ...(delay > 1 ? [`initialDelaySeconds holds restored pods un-Ready for ${delay} s too: a startupProbe does without`] : []),
  ];
}
