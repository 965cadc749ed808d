import { createHmac } from 'node:crypto';
import { isIP } from 'node:net';
import { afterRestoreOf, randomChecksOf, readinessOf, warmupOf } from './normalise.ts';
import type { WorkloadSpec } from './workload.ts';

/** One mount of the container, without where it comes from: that differs per machine. */
export type MountFact = {
  readonly at: string;
  /** `private`: its content travels with a snapshot. `shared`: anything else. */
  readonly kind: 'private' | 'shared';
  readonly fileSystem: string;
  /** Per-mount options of mountinfo (`ro`, `nosuid`, …), in any order. */
  readonly options: readonly string[];
};

/** The policy as far as it decides what is in a snapshot, and whether one may be published. */
export type PolicyFacts = ReturnType<typeof policyFactsOf>;

/** All that must be equal for a snapshot to fit. Lists are sets: their order does not count, except in `argv` and the policy. */
export type SpecFacts = {
  readonly namespace: string;
  /** Two workloads that happen to be equal keep snapshots of their own: retention and commands go by name. */
  readonly workload: string;
  readonly serviceAccount: string;
  /** Digest of the image's config, or `host`. */
  readonly imageDigest: string;
  readonly argv: readonly string[];
  readonly workdir: string;
  /** The slot's own environment, see {@link withoutPerPodNames}. */
  readonly env: Readonly<Record<string, string>>;
  /** Digest of what each mounted ConfigMap or Secret (or configuration file of this machine) holds, by path in the container; of data what it is called. */
  readonly configDigests: Readonly<Record<string, string>>;
  readonly mounts: readonly MountFact[];
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
  /** Each set as the hexadecimal number of /proc/PID/status (`CapEff`, …), or sorted names: whatever the caller always uses. */
  readonly capabilities: Readonly<Record<string, string>>;
  readonly noNewPrivileges: boolean;
  readonly seccomp: string;
  /** LSM label of the process; empty where there is none. */
  readonly lsmLabel: string;
  readonly readOnlyRoot: boolean;
  readonly sysctls: Readonly<Record<string, string>>;
  /** Runtimes size heaps and thread pools by these; undefined for no limit. */
  readonly memoryBytes?: number;
  readonly cpus?: number;
  readonly pids?: number;
  readonly policy: PolicyFacts;
};

/**
 * HMAC-SHA256, in hexadecimal, over the facts as canonical JSON. Keyed because environment and configuration hold secrets: without the key
 * nobody can try out values against a hash that stands in labels and logs.
 */
export function specHash(key: Uint8Array, facts: SpecFacts): string {
  const set = <T extends string | number>(list: readonly T[]) => [...new Set(list.map(String))].sort();
  const mounts = facts.mounts.map((mount) => canonical({ ...mount, options: set(mount.options) })).sort();
  return createHmac('sha256', key)
    .update(canonical({ ...facts, mounts, groups: set(facts.groups) }))
    .digest('hex');
}

/** See {@link PolicyFacts}: neither deadlines nor retention nor what only a restore does. */
export function policyFactsOf(spec: Pick<WorkloadSpec, 'container' | 'checkpoint' | 'restore'>) {
  return {
    readiness: readinessOf(spec),
    warmup: warmupOf(spec),
    after: afterRestoreOf(spec),
    random: randomChecksOf(spec),
    verify: spec.checkpoint.verify,
    allowSharedRandom: spec.checkpoint.allowSharedRandom,
  };
}

/** Set per pod by us (`REKINDLE_AGENT` names the node) and by runtimes. */
const PER_POD = new Set([
  'HOSTNAME',
  'REKINDLE_AGENT',
  'REKINDLE_HOST_IP',
  'REKINDLE_POD_UID',
  'REKINDLE_CONTAINER',
  'REKINDLE_RESTORE_MS',
  'REKINDLE_WAIT_MS',
]);

/**
 * The environment without what differs between pods of one template: ours, HOSTNAME, the given names, and Kubernetes' service links
 * (which depend on the services that existed when the pod was made). A link is recognised by its whole family agreeing with each other, so
 * that a `DB_PORT` or `DB_SERVICE_HOST` of the user's own stays in the hash.
 * Names: https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
 */
export function withoutPerPodNames(env: Readonly<Record<string, string>>, instanceEnvNames: readonly string[]): Record<string, string> {
  const services = Object.keys(env).flatMap((name) =>
    name.endsWith('_SERVICE_HOST') && isServiceLink(env, name.slice(0, -13)) ? [name.slice(0, -13)] : [],
  );
  const dropped = (name: string) =>
    PER_POD.has(name) || instanceEnvNames.includes(name) || services.some((service) => belongsTo(service, name));
  return Object.fromEntries(Object.entries(env).filter(([name]) => !dropped(name)));
}

function isServiceLink(env: Readonly<Record<string, string>>, service: string): boolean {
  const host = env[`${service}_SERVICE_HOST`] ?? '';
  const port = env[`${service}_SERVICE_PORT`] ?? '';
  const address = `${isIP(host) === 6 ? `[${host}]` : host}:${port}`;
  return isIP(host) !== 0 && ['tcp', 'udp', 'sctp'].some((protocol) => env[`${service}_PORT`] === `${protocol}://${address}`);
}

function belongsTo(service: string, name: string): boolean {
  if (!name.startsWith(`${service}_`)) return false;
  return /^(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$/.test(
    name.slice(service.length + 1),
  );
}

/** JSON with sorted keys and without what is undefined: equal values give equal text. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (_key, member: unknown) =>
    typeof member === 'object' && member !== null && !Array.isArray(member)
      ? Object.fromEntries(Object.entries(member).sort(([a], [b]) => (a < b ? -1 : 1)))
      : member,
  );
}
