import { Value } from 'typebox/value';
import { type OwnedPod, ownerOf } from '../../workloads/kubernetes.ts';
import { brokenAnywhere, portsAsked } from '../../workloads/rules.ts';
import { type PolicySpec, Workload, type WorkloadDescription } from '../../workloads/workload.ts';
import type { Pod, PodContainer } from '../kinds.ts';
import { parseQuantity } from '../quantity.ts';
import { instanceEnvOf, refersTo } from './environment.ts';
import { readinessOfContainer } from './probes.ts';

export type Described =
  | { readonly description: WorkloadDescription; readonly warnings: readonly string[] }
  /** What the policy says that this pod cannot do. */
  | { readonly reason: string };

const MIB = 2 ** 20;
/** What the schema takes as a limit. */
const LEAST_MIB = 8;

/** A suspended pod would lose its container, and with that what it was suspended with. */
const STATEFUL = 'cr.pool.stateful does nothing here: a pod that parks forgets, and the next request finds the snapshot as it was made';

/** All that agents and the scaler have to know of a pod's container: policy, checks, limits. Neither environment nor image, which the agent sees for itself. */
export function describeContainer(pod: Pod, container: PodContainer, policy: PolicySpec): Described {
  const { jobs, persistentVolumes, ...restore } = policy.restore;
  const own =
    policy.container.readiness === undefined ? readinessOfContainer(container) : { probe: policy.container.readiness, warnings: [] };
  const cold = restore.cold ?? coldReason(pod, container, { jobs, persistentVolumes });
  const given: unknown = {
    container: {
      instanceEnv: instanceEnvOf(container),
      ...security(pod, container),
      ...limits(container),
      volumes: privateVolumes(pod, container).map((at) => ({ at, private: 'disk' })),
      ports: (container.ports ?? []).flatMap(({ containerPort, protocol = 'TCP' }) => (protocol === 'TCP' ? [containerPort] : [])),
      ...(own.probe === undefined ? {} : { readiness: own.probe }),
      ...(policy.container.warmup === undefined ? {} : { warmup: policy.container.warmup }),
    },
    checkpoint: policy.checkpoint,
    restore: { ...restore, ...(cold === undefined ? {} : { cold }) },
    pool: { ...policy.pool, stateful: false },
  };
  const full = Value.Default(Workload, given);
  if (!Value.Check(Workload, full)) {
    const [error] = Value.Errors(Workload, full);
    return { reason: `its description does not fit: ${error?.instancePath} ${error?.message}` };
  }
  const description = withPorts(full);
  const [problem] = brokenAnywhere({ ...description, container: { ...description.container, instanceEnv: {} } });
  if (problem !== undefined) return { reason: `its policy does not fit it: ${problem.path.join('.')} ${problem.says}` };
  const stateless = policy.pool.stateful ? [STATEFUL] : [];
  return { description, warnings: [...own.warnings, ...stateless] };
}

/** Probes may ask ports that the container does not list, which says nothing in Kubernetes. */
function withPorts(description: WorkloadDescription): WorkloadDescription {
  const asked = portsAsked(description).map(([, port]) => port);
  const { pool } = description;
  const ports = [...new Set([...description.container.ports, ...asked, ...(pool.port === undefined ? [] : [pool.port])])];
  return { ...description, container: { ...description.container, ports } };
}

/** Why pods of this template always start cold; undefined if they may be restored. */
function coldReason(
  pod: Pod & OwnedPod,
  container: PodContainer,
  allowed: { readonly jobs: boolean; readonly persistentVolumes: boolean },
): string | undefined {
  const { kind, name } = ownerOf(pod);
  if (kind === 'Job' && !allowed.jobs)
    return `it is a pod of Job ${name}, whose work is not to be done twice: cr.restore.jobs=true allows clones`;
  const persistent = writablePersistent(pod, container);
  if (persistent !== undefined && !allowed.persistentVolumes)
    return `${persistent} is a writable persistent volume: cr.restore.persistentVolumes=true allows clones`;
  const instanceEnv = instanceEnvOf(container);
  const differing = [...(container.command ?? []), ...(container.args ?? [])]
    .map((text) => refersTo(text, instanceEnv))
    .find((found) => found);
  return differing === undefined ? undefined : `its arguments hold $(${differing}), which differs per pod`;
}

/** Volumes that begin and end with their pod, or cannot be written. */
const OF_THE_POD = ['emptyDir', 'configMap', 'secret', 'downwardAPI', 'projected', 'image', 'gitRepo'];

/** Where a volume that outlives the pod is mounted for writing. */
function writablePersistent({ spec }: Pod, { volumeMounts = [] }: PodContainer): string | undefined {
  const volumes = new Map(spec?.volumes?.map((volume) => [volume.name, volume]));
  return volumeMounts.find(({ name, readOnly = false }) => {
    const { name: _, ...volume } = volumes.get(name) ?? {};
    const [found] = Object.entries(volume) as [string, { readonly readOnly?: boolean }][];
    if (found === undefined || readOnly) return false;
    const [kind, source] = found;
    return !OF_THE_POD.includes(kind) && source.readOnly !== true;
  })?.mountPath;
}

/** Where the container has an emptyDir that nobody else in the pod has: what lies there travels with a snapshot. */
function privateVolumes({ spec }: Pod, { name: own, volumeMounts = [] }: PodContainer): string[] {
  const others = [...(spec?.containers ?? []), ...(spec?.initContainers ?? [])].filter(({ name }) => name !== own);
  const shared = new Set(others.flatMap((container) => container.volumeMounts ?? []).map(({ name }) => name));
  return (spec?.volumes ?? []).flatMap(({ name, emptyDir }) => {
    const mounts = volumeMounts.filter((mount) => mount.name === name);
    const [mount] = mounts;
    const whole = mounts.length === 1 && mount?.subPath === undefined && mount?.subPathExpr === undefined && !mount?.readOnly;
    return emptyDir !== undefined && whole && !shared.has(name) ? [mount?.mountPath.replace(/(?<=.)\/+$/, '') ?? ''] : [];
  });
}

function security({ spec }: Pod, { securityContext }: PodContainer) {
  const profile = securityContext?.seccompProfile ?? spec?.securityContext?.seccompProfile;
  return {
    readOnlyRoot: securityContext?.readOnlyRootFilesystem ?? false,
    noNewPrivileges: securityContext?.allowPrivilegeEscalation === false,
    seccomp: profile?.type === 'Unconfined' ? 'unconfined' : 'default',
  };
}

function limits({ resources }: PodContainer) {
  const memoryMiB = Math.floor((parseQuantity(resources?.limits?.memory) ?? 0) / MIB);
  const cpus = parseQuantity(resources?.limits?.cpu) ?? 0;
  return { ...(memoryMiB < LEAST_MIB ? {} : { memoryMiB }), ...(cpus > 0 ? { cpus } : {}) };
}
