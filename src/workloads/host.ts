import type { WorkloadSpec } from './workload.ts';

/** One mount that the host gave the container, besides the root filesystem, /proc and what is below /proc. */
export type HostVolume = {
  /** Absolute path in the container. */
  readonly at: string;
  /** `private`: an empty volume of this container alone, whose content travels with a snapshot. `shared`: anything else. */
  readonly kind: 'private' | 'shared';
  /** What it holds differs per container (tokens, names): that does not tell two apart. */
  readonly perInstance?: true;
  /** What it holds may be on another machine, whatever its filesystem: who reads it may have to wait. */
  readonly elsewhere?: true;
  /** Which one it is, where somebody says that: of a claim or an export its name. Says the same on every machine. */
  readonly identity?: string;
  /** Whose group a private one is from its start on, where it is anybody's (`fsGroup` of a pod). */
  readonly group?: number;
};

/** What a container of a pool is, beyond being a container. Kept with it, so that an agent started anew knows it. */
export type PoolMembership = {
  /** Of the workload's description that it was made from. */
  readonly revision: string;
  /** How often it was started over to be parked again: tells the lives of one slot apart. */
  readonly parks: number;
  /** The snapshot of its own that holds its state, while it is suspended. */
  readonly suspended?: string;
  /** How the application that runs in this life came to be, once it was ready. */
  readonly started?: { readonly how: 'restore' | 'cold'; readonly ms: number; readonly snapshot?: string; readonly reason?: string };
};

/** Of a container of a pod: what two must share to be clones of each other, beyond what their slots show; and what is its own. */
export type PodFacts = {
  readonly namespace: string;
  readonly serviceAccount: string;
  /** Its name in the pod. */
  readonly container: string;
  /** The whole security context of pod and container. */
  readonly security: string;
  readonly sysctls: Readonly<Record<string, string>>;
  /** Of the pod template that it was made from, where its owner says one. */
  readonly revision: string;
  /** Whether nobody is sent to it before we say so: our gate is shut. */
  readonly held: boolean;
};

/** A container whose PID 1 is the slot (or was, before it became the application). */
export type Container = {
  /** Unique per container and never reused; `hello` carries it as POD_UID. */
  readonly uid: string;
  /** The container's own name and host name. */
  readonly name: string;
  readonly workload: WorkloadSpec;
  /** PID of the container's PID 1 as this process sees it. */
  readonly pid: number;
  /** How often the container was started before: 0 for a first start. */
  readonly restarts: number;
  /** The addresses the container has in its network, IPv4 first. Empty for a trial container, see {@link Host.dial}. */
  readonly addresses: readonly string[];
  /** Digest of the image's config (`sha256:…`), or `host` for `rootfs: host`. */
  readonly imageDigest: string;
  readonly volumes: readonly HostVolume[];
  readonly createdAtMs: number;
  /** Of a pool: parked, woken and parked again as jobs say. Undefined for one that somebody made by hand. */
  readonly pool?: PoolMembership;
  /** Of a pod of a cluster. */
  readonly pod?: PodFacts;
};

export type ExecOutcome = { readonly status: number; readonly output: string };

/**
 * Where containers run: this machine (`local/`) or a Kubernetes node (`cluster/`). Both pass `test/conformance/host`.
 * Every method may be repeated. A container that is not there (any more) is `undefined` or an error `not_found`; nothing here retries.
 */
export interface Host {
  /** The container with this uid, or undefined. */
  find(uid: string): Promise<Container | undefined>;
  /** Whether somebody ends this container for good, or has: a restore into it that failed says nothing of its snapshot. */
  isLeaving(uid: string): Promise<boolean>;
  /** Every container of rekindle's on this machine. */
  list(): Promise<readonly Container[]>;
  /** Runs a command with exactly the container's rights, in its namespaces. Output is stdout and stderr, at most 64 KiB of it. */
  exec(container: Container, command: readonly string[], options: { timeoutMs: number; signal: AbortSignal }): Promise<ExecOutcome>;
}

/** What the local host can do beyond: it makes the containers itself. */
export interface ContainerMaker extends Host {
  /**
   * Creates and starts one container of the workload whose PID 1 is `slot`, and returns once its PID is known. `trial` containers have a
   * network of their own without a way out and copies of their volumes; `like` is the seed that the trial is for. `uid` (a UUID) names it; by default it gets a new one.
   */
  create(
    workload: WorkloadSpec,
    options: { uid?: string; name?: string; trial?: boolean; like?: Container; pool?: { readonly revision: string }; signal: AbortSignal },
  ): Promise<Container>;
  /** Starts a container that ended again: same name, address and volumes, a fresh root filesystem, `restarts` one more. */
  restart(container: Container, signal: AbortSignal): Promise<Container>;
  /** As {@link restart}, but as if it had never run: private volumes are empty again, `restarts` is 0, and a pool's container counts one more of `parks`. */
  startOver(container: Container, signal: AbortSignal): Promise<Container>;
  /** Writes down what a pool's container is now. Throws `not_found`. */
  setPool(uid: string, pool: PoolMembership): Promise<Container>;
  /** Containers of pools that are suspended and whose PID 1 is gone: they wait for {@link startOver}. */
  resting(): Promise<readonly Container[]>;
  /** Ends what runs in a container: a signal to PID 1, and after `graceMs` the end of everything. Resolves with its exit status. */
  end(container: Container, options: { readonly graceMs: number; readonly signal: AbortSignal }): Promise<number>;
  /** Sends a signal to PID 1, waits `graceMs`, then kills, and removes everything the container had. No error if it is gone. */
  remove(uid: string, options?: { graceMs?: number }): Promise<void>;
  /** Resolves with the container's exit status once it has ended. */
  wait(container: Container, signal: AbortSignal): Promise<number>;
  /** The file that holds the container's output so far: CRI log lines (`TIME stdout|stderr F|P TEXT`). */
  logFile(container: Container): string;
}
