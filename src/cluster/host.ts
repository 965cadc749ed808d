import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { V1Container, V1Pod } from '@kubernetes/client-node';
import { Type } from 'typebox';
import { Value } from 'typebox/value';
import type { Clock } from '../lib/clock.ts';
import { RekindleError, toRekindleError } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';
import { parseDescription } from '../workloads/description.ts';
import type { Container, ContainerMaker, ExecOutcome, HostVolume, PodFacts, PoolMembership } from '../workloads/host.ts';
import { ENABLED_LABEL, MODE_VARIABLE, ownerOf, SLOT_MOUNT, WORKLOAD_ANNOTATION, workloadName } from '../workloads/kubernetes.ts';
import type { WorkloadSpec } from '../workloads/workload.ts';
import type { PodGroups } from './cgroups.ts';
import type { Cluster, Followed } from './cluster.ts';
import type { Cri, CriContainer } from './cri.ts';
import { isGateShut, isUntold } from './gates.ts';
import { PODS } from './kinds.ts';
import { isAlive, type Task, taskOf } from './task.ts';

/** Throw-away containers beside a pod's, see trial.ts. */
export type TrialMaker = {
  create(like: Container, signal: AbortSignal): Promise<Container>;
  find(uid: string): Container | undefined;
  list(): readonly Container[];
  /** As {@link Host.exec}. */
  exec(uid: string, command: readonly string[], options: { timeoutMs: number; signal: AbortSignal }): Promise<ExecOutcome>;
  /** No error for one that is gone. */
  remove(uid: string): Promise<void>;
};

/** A pod whose containers are still to be made. */
export type ComingPod = { readonly uid: string; readonly name: string; readonly workload: WorkloadSpec; readonly revision: string };

export type ClusterHostDeps = {
  readonly cluster: Cluster;
  readonly cri: Pick<Cri, 'containersOf' | 'container' | 'execSync'>;
  readonly trials: TrialMaker;
  /** Of the mounts of a pod's container, whose PID 1 this is, which travel; and why it may not be restored into: see volumes.ts. */
  readonly volumesOf: (pod: V1Pod, container: V1Container, pid: number, remote: Remote) => readonly HostVolume[];
  readonly whyFilled: (pod: V1Pod, container: V1Container, pid: number, remote: Remote) => string | undefined;
  /** Where in a process's mounts other machines are. */
  readonly remotePlaces: (pid: number) => Remote;
  /** The addresses of a process's network; throws when it is gone. */
  readonly addressesOf: (pid: number) => readonly string[];
  readonly groups: Pick<PodGroups, 'init' | 'processesOf'>;
  /** Called once for a pod that is held by our gate and that no agent can decide about, since it has no valid description; `reason` says what is wrong with it. */
  readonly undescribed: (pod: { readonly uid: string; readonly name: string; readonly workload: string }, reason: string) => void;
  /**
   * Asked once of a pod that is held by our gate, has a readiness probe of its own and has not begun to start: whether it will be restored. Of those for which
   * this is true the gate is being opened, see `PodFacts.held`.
   */
  readonly expects: (pod: ComingPod) => boolean;
  /** This node's name. */
  readonly node: string;
  /** Where the node's own files are. */
  readonly nodeRoot: string;
  /** Where it is written down, for the next agent, what slots that park are; on a tmpfs. */
  readonly poolDir: string;
  readonly clock: Clock;
  readonly log: Log;
};

/** A container's hello can be here before the news of its pod. */
const NEWS_MS = 500;
const ASK_EVERY_MS = 20;
/** Busy nodes' runtimes take their time, and every start depends on it. */
const RUNTIME_MS = 5_000;
/** What a container's status is said to be when its runtime no longer knows it. */
const UNKNOWN_STATUS = 137;
/** `PoolMembership`. */
const Pool = Type.Object({
  revision: Type.String(),
  parks: Type.Integer({ minimum: 0 }),
  started: Type.Optional(
    Type.Object({
      how: Type.Union([Type.Literal('restore'), Type.Literal('cold')]),
      ms: Type.Number(),
      snapshot: Type.Optional(Type.String()),
      reason: Type.Optional(Type.String()),
    }),
  ),
});
const SLOT = `${SLOT_MOUNT}/slot`;

/** A container, by the runtime's id, and its process 1. */
type Known = Container & { readonly id: string; readonly task: Task; readonly remote: Remote };
/** Mount points behind which other machines are. */
type Remote = readonly string[];
/** A container and its process 1. */
type Found = { readonly running: CriContainer; readonly pid: number };

/**
 * The opted-in containers of this Kubernetes node: pods are known from the API server, what runs from the node's container runtime. Their makers are the
 * kubelet and the user; only throw-away containers of trials are ours. While the API server is away the pods known before are there.
 */
export class ClusterHost implements ContainerMaker {
  readonly #deps: ClusterHostDeps;
  readonly #pods: Followed<V1Pod>;
  #byUid = new Map<string, V1Pod>();
  readonly #known = new Map<string, Known>();
  readonly #pools = new Map<string, PoolMembership>();
  readonly #complained = new Set<string>();
  /** By pod, its slot's container as the runtime made it last; it may have ended. */
  readonly #made = new Map<string, CriContainer>();
  /** Pods of which it was asked whether they will be restored, and the answer. */
  readonly #expected = new Map<string, boolean>();

  /** Follows the node's pods until the signal aborts. */
  constructor(deps: ClusterHostDeps, signal: AbortSignal) {
    this.#deps = deps;
    const where = { labels: `${ENABLED_LABEL}=true`, fields: `spec.nodeName=${deps.node}` };
    this.#pods = deps.cluster.follow(PODS, where, () => this.#index(), signal);
  }

  /** For whoever hears of the runtime's containers: one of this pod was made. What is known of it before its slot says hello need not be asked for then. */
  readonly onMade = (podUid: string): void => {
    const pod = this.#byUid.get(podUid);
    const spec = pod && slotContainerOf(pod);
    if (spec === undefined) return;
    this.#newest(podUid, spec.name, AbortSignal.timeout(RUNTIME_MS)).then(
      (container) => {
        if (container !== undefined && this.#byUid.has(podUid)) this.#made.set(podUid, container);
      },
      () => undefined,
    );
  };

  /** Resolves when the pods of this node are known. */
  get synced(): Promise<void> {
    return this.#pods.synced;
  }

  /** The pod as the API server last told it. */
  pod(uid: string): V1Pod | undefined {
    return this.#byUid.get(uid);
  }

  /** Whether it is still to be told what became of the pod, as the API server last had it. */
  isUntold(uid: string): boolean {
    const pod = this.#byUid.get(uid);
    return pod !== undefined && isUntold(pod);
  }

  async find(uid: string): Promise<Container | undefined> {
    const trial = this.#deps.trials.find(uid);
    if (trial !== undefined) return trial;
    const known = this.#known.get(uid);
    if (known !== undefined && isAlive(known.task)) return this.#withPool(known);
    const pod = await this.#newsOf(uid);
    return pod === undefined ? undefined : this.#look(pod);
  }

  async isLeaving(uid: string): Promise<boolean> {
    if (this.#deps.trials.find(uid) !== undefined) return false;
    const pod = this.#byUid.get(uid);
    return pod === undefined || pod.metadata?.deletionTimestamp !== undefined;
  }

  async list(): Promise<readonly Container[]> {
    const found = await Promise.all([...this.#byUid.values()].filter(mayRun).map((pod) => this.#findQuietly(pod.metadata?.uid ?? '')));
    return [...found.flatMap((one) => (one === undefined ? [] : [one])), ...this.#deps.trials.list()];
  }

  async exec(container: Container, command: readonly string[], options: { timeoutMs: number; signal: AbortSignal }): Promise<ExecOutcome> {
    const { cri, groups, trials } = this.#deps;
    if (trials.find(container.uid) !== undefined) return trials.exec(container.uid, command, options);
    const found = await this.find(container.uid);
    const id = this.#known.get(container.uid)?.id;
    if (found?.pid !== container.pid || id === undefined)
      throw new RekindleError('not_found', `there is no container ${container.name} any more`);
    return cri.execSync(id, command, { ...options, processes: () => groups.processesOf(container.pid) });
  }

  /** Only for trials: all others are the kubelet's to make. */
  async create(_workload: WorkloadSpec, options: Parameters<ContainerMaker['create']>[1]): Promise<Container> {
    if (options.trial !== true || options.like === undefined)
      throw new RekindleError('internal', 'only Kubernetes makes containers of pods');
    return this.#deps.trials.create(options.like, options.signal);
  }

  /** The kubelet makes the container anew once it has ended. */
  async restart(container: Container, signal: AbortSignal): Promise<Container> {
    for (;;) {
      const next = await this.find(container.uid);
      if (next !== undefined && next.pid !== container.pid) return next;
      if (this.#byUid.get(container.uid) === undefined) throw new RekindleError('not_found', `the pod of ${container.name} is gone`);
      await this.#deps.clock.sleep(ASK_EVERY_MS, signal);
    }
  }

  startOver(container: Container, signal: AbortSignal): Promise<Container> {
    return this.restart(container, signal);
  }

  async setPool(uid: string, pool: PoolMembership): Promise<Container> {
    this.#pools.set(uid, pool);
    await mkdir(this.#deps.poolDir, { recursive: true, mode: 0o700 });
    await writeFile(join(this.#deps.poolDir, uid), JSON.stringify(pool), { mode: 0o600 });
    const container = await this.find(uid);
    if (container === undefined) throw new RekindleError('not_found', `there is no container ${uid}`);
    return container;
  }

  async resting(): Promise<readonly Container[]> {
    return [];
  }

  async end(container: Container, { graceMs, signal }: { readonly graceMs: number; readonly signal: AbortSignal }): Promise<number> {
    const asked = new AbortController();
    const ended = this.wait(container, AbortSignal.any([signal, asked.signal]));
    const task = this.#taskOf(container);
    tell(task, graceMs > 0 ? 'SIGTERM' : 'SIGKILL');
    if (graceMs > 0) {
      const late = this.#deps.clock.sleep(graceMs, AbortSignal.any([signal, asked.signal])).then(
        () => tell(task, 'SIGKILL'),
        () => undefined,
      );
      void ended.finally(() => asked.abort()).catch(() => undefined);
      await Promise.race([ended, late]);
    }
    return ended;
  }

  /** A pod's container is ended, and made anew by the kubelet: the pod is its owner's to delete. */
  async remove(uid: string): Promise<void> {
    const { trials } = this.#deps;
    if (trials.find(uid) !== undefined) return trials.remove(uid);
    const container = this.#known.get(uid);
    if (container !== undefined) tell(container.task, 'SIGKILL');
  }

  async wait(container: Container, signal: AbortSignal): Promise<number> {
    const task = this.#taskOf(container);
    while (task !== undefined && isAlive(task)) await this.#deps.clock.sleep(ASK_EVERY_MS, signal);
    const id = this.#known.get(container.uid)?.id;
    if (id === undefined) return UNKNOWN_STATUS;
    // The runtime notices a moment later.
    const until = this.#deps.clock.now() + NEWS_MS;
    do {
      const status = await this.#deps.cri.container(id, signal);
      if (status === undefined) return UNKNOWN_STATUS;
      if (status.state === 'exited') return status.exitCode;
      await this.#deps.clock.sleep(ASK_EVERY_MS, signal);
    } while (this.#deps.clock.now() < until);
    return UNKNOWN_STATUS;
  }

  logFile(container: Container): string {
    const { metadata = {} } = this.#byUid.get(container.uid) ?? {};
    const name = `${metadata.namespace}_${metadata.name}_${container.uid}`;
    return join(this.#deps.nodeRoot, 'var/log/pods', name, container.pod?.container ?? '', `${container.restarts}.log`);
  }

  /** What an earlier agent wrote down of slots that are still there. */
  async adoptPools(): Promise<void> {
    const { poolDir, log } = this.#deps;
    for (const uid of await readdir(poolDir).catch(() => [])) {
      try {
        const pool: unknown = JSON.parse(await readFile(join(poolDir, uid), 'utf8'));
        if (this.#byUid.has(uid) && Value.Check(Pool, pool)) this.#pools.set(uid, pool);
        else await rm(join(poolDir, uid), { force: true });
      } catch (err) {
        log.warn({ err, slot: uid }, 'what was written down of a slot cannot be read');
      }
    }
  }

  #index(): void {
    this.#byUid = new Map(this.#pods.items().flatMap((pod) => (pod.metadata?.uid === undefined ? [] : [[pod.metadata.uid, pod]])));
    for (const uid of this.#known.keys()) {
      if (this.#byUid.has(uid)) continue;
      this.#known.delete(uid);
      if (this.#pools.delete(uid)) void rm(join(this.#deps.poolDir, uid), { force: true });
    }
    for (const uid of this.#complained) if (!this.#byUid.has(uid)) this.#complained.delete(uid);
    for (const uid of this.#made.keys()) if (!this.#byUid.has(uid)) this.#made.delete(uid);
    for (const uid of this.#expected.keys()) if (!this.#byUid.has(uid)) this.#expected.delete(uid);
    for (const pod of this.#byUid.values()) this.#expect(pod);
  }

  #expect(pod: V1Pod): void {
    const { uid = '', name = '' } = pod.metadata ?? {};
    if (this.#expected.has(uid)) return;
    const spec = slotContainerOf(pod);
    const tells = spec?.readinessProbe !== undefined && !parks(spec) && !hasStarted(pod) && isGateShut(pod);
    const workload = tells ? workloadOf(pod) : undefined;
    this.#expected.set(uid, workload !== undefined && this.#deps.expects({ uid, name, workload, revision: revisionOf(pod) }));
  }

  /** Once per pod that waits for us: nothing will come of that. Those that the webhook left alone wait for nobody. */
  #complain(pod: V1Pod, reason: string): void {
    const { uid = '', name = '', namespace } = pod.metadata ?? {};
    if (!isGateShut(pod) || this.#complained.has(uid)) return;
    this.#complained.add(uid);
    this.#deps.log.warn({ pod: name, namespace, reason }, 'pod cannot be restored into: it starts cold');
    this.#deps.undescribed({ uid, name, workload: nameOfWorkload(pod) }, reason);
  }

  /** What is wrong with one pod's container, or with how its runtime tells of it, must not hide the others. */
  async #findQuietly(uid: string): Promise<Container | undefined> {
    try {
      return await this.find(uid);
    } catch (err) {
      // The runtime itself is away.
      if (err instanceof RekindleError && err.code === 'machine_unsupported') throw err;
      if (!this.#complained.has(uid)) this.#deps.log.warn({ err, slot: uid }, 'container of a pod cannot be looked at');
      this.#complained.add(uid);
      return undefined;
    }
  }

  /** Its process 1, also while that ends and its pod is gone already. */
  #taskOf({ uid, pid }: Container): Task | undefined {
    const known = this.#known.get(uid);
    return known?.pid === pid ? known.task : taskOf(pid);
  }

  async #newsOf(uid: string): Promise<V1Pod | undefined> {
    const until = this.#deps.clock.now() + NEWS_MS;
    while (!this.#byUid.has(uid) && this.#pods.connected && /^[0-9a-f-]{36}$/.test(uid) && this.#deps.clock.now() < until)
      await this.#deps.clock.sleep(ASK_EVERY_MS);
    return this.#byUid.get(uid);
  }

  async #look(pod: V1Pod): Promise<Container | undefined> {
    const { volumesOf, whyFilled, addressesOf, remotePlaces } = this.#deps;
    const { uid = '', name = '', creationTimestamp } = pod.metadata ?? {};
    const spec = slotContainerOf(pod);
    const described = descriptionOf(pod);
    if ('problem' in described) this.#complain(pod, described.problem);
    if (spec === undefined || 'problem' in described) return undefined;
    const { workload } = described;
    const found = this.#atOnce(uid) ?? (await this.#asked(uid, spec.name));
    if (found === undefined) return undefined;
    const { running, pid } = found;
    const task = taskOf(pid);
    if (task === undefined) return undefined;
    let addresses: readonly string[];
    try {
      addresses = addressesOf(pid);
    } catch {
      // It has ended meanwhile.
      return undefined;
    }
    // Read once: a container that waits gets no other mounts, and those that park are looked at every second.
    const remote = remotePlaces(pid);
    const container: Known = {
      id: running.id,
      task,
      remote,
      uid,
      name,
      // A pod that parks is asked about again in each of its lives; one that was restarted has reason enough to start cold.
      workload: parks(spec) || running.restarts > 0 ? workload : unlessFilled(workload, whyFilled(pod, spec, pid, remote)),
      pid,
      restarts: running.restarts,
      addresses,
      imageDigest: running.imageId.includes(':') ? running.imageId : `sha256:${running.imageId}`,
      volumes: volumesOf(pod, spec, pid, remote),
      createdAtMs: creationTimestamp === undefined ? running.createdAtMs : new Date(creationTimestamp).getTime(),
      pod: { ...factsOf(pod, spec), held: isGateShut(pod) && this.#expected.get(uid) !== true },
    };
    this.#known.set(uid, container);
    return this.#withPool(container);
  }

  /** A restore waits, and the runtime takes milliseconds to answer: the container that was made last, if it is there still, with the process that its groups have. */
  #atOnce(podUid: string): Found | undefined {
    const running = this.#made.get(podUid);
    const pid = running && this.#deps.groups.init(podUid, running.id);
    return running === undefined || pid === undefined ? undefined : { running, pid };
  }

  async #asked(podUid: string, name: string): Promise<Found | undefined> {
    const { cri, groups } = this.#deps;
    const signal = AbortSignal.timeout(RUNTIME_MS);
    const running = await this.#newest(podUid, name, signal);
    const pid = running && (groups.init(podUid, running.id) ?? (await cri.container(running.id, signal))?.pid);
    return running === undefined || pid === undefined ? undefined : { running, pid };
  }

  /** The newest container of that name that has not ended, as the runtime has it. */
  async #newest(podUid: string, name: string, signal: AbortSignal): Promise<CriContainer | undefined> {
    const all = await this.#deps.cri.containersOf(podUid, signal);
    const there = all.filter((one) => one.name === name && one.state !== 'exited');
    return there.toSorted((a, b) => b.restarts - a.restarts || b.createdAtMs - a.createdAtMs)[0];
  }

  #withPool({ id: _id, task: _task, remote, ...container }: Known): Container {
    const pod = this.#byUid.get(container.uid);
    const spec = pod && slotContainerOf(pod);
    if (pod === undefined || spec === undefined || !parks(spec)) return container;
    const pool = this.#pools.get(container.uid) ?? { revision: container.pod?.revision ?? '', parks: 0 };
    return { ...container, workload: unlessFilled(container.workload, this.#deps.whyFilled(pod, spec, container.pid, remote)), pool };
  }
}

/** What the webhook made of it: a pod that asks to park may have been refused that. */
function parks({ env = [] }: V1Container): boolean {
  return env.some(({ name, value }) => name === MODE_VARIABLE && value === 'on-demand');
}

function unlessFilled(workload: WorkloadSpec, filled: string | undefined): WorkloadSpec {
  return filled === undefined ? workload : { ...workload, restore: { cold: filled, ...workload.restore } };
}

/** The container whose command the webhook put the slot before; undefined for a pod that it left alone. */
export function slotContainerOf(pod: V1Pod): V1Container | undefined {
  return pod.spec?.containers.find(({ command }) => command?.[0] === SLOT);
}

/** What the webhook wrote down; undefined when that is missing or no valid description. */
export function workloadOf(pod: V1Pod): WorkloadSpec | undefined {
  const described = descriptionOf(pod);
  return 'workload' in described ? described.workload : undefined;
}

/** The same, or what is wrong with it, in words. */
function descriptionOf(pod: V1Pod): { readonly workload: WorkloadSpec } | { readonly problem: string } {
  const text = pod.metadata?.annotations?.[WORKLOAD_ANNOTATION];
  if (text === undefined) return { problem: `it has no annotation ${WORKLOAD_ANNOTATION}` };
  try {
    return { workload: { ...parseDescription(text, 'the pod'), name: nameOfWorkload(pod) } };
  } catch (error) {
    return { problem: `its annotation ${WORKLOAD_ANNOTATION} is not valid: ${toRekindleError(error).message}` };
  }
}

function nameOfWorkload(pod: V1Pod): string {
  return workloadName(pod.metadata?.namespace ?? '', ownerOf(pod).name);
}

/** Beyond what is read from the slot itself, what two pods must share to be clones of each other. */
function factsOf(pod: V1Pod, container: V1Container): Omit<PodFacts, 'held'> {
  const { securityContext, serviceAccountName = 'default' } = pod.spec ?? {};
  const { sysctls, ...security } = securityContext ?? {};
  return {
    namespace: pod.metadata?.namespace ?? '',
    serviceAccount: serviceAccountName,
    container: container.name,
    security: JSON.stringify([security, container.securityContext ?? {}]),
    sysctls: Object.fromEntries((sysctls ?? []).map(({ name, value }) => [name, value])),
    revision: revisionOf(pod),
  };
}

/** Which template the pod was made from, as its controller labels it; agents tell the same of its slot. */
export function revisionOf({ metadata }: V1Pod): string {
  return metadata?.labels?.['pod-template-hash'] ?? metadata?.labels?.['controller-revision-hash'] ?? '';
}

function hasStarted({ status }: V1Pod): boolean {
  return status?.containerStatuses?.some(({ state, restartCount }) => state?.waiting === undefined || restartCount > 0) === true;
}

/** Pods of Jobs stay when they have ended. */
function mayRun({ status }: V1Pod): boolean {
  return status?.phase !== 'Succeeded' && status?.phase !== 'Failed';
}

function tell(task: Task | undefined, signal: NodeJS.Signals): void {
  try {
    if (task !== undefined && isAlive(task)) process.kill(task.pid, signal);
  } catch {
    // It has ended.
  }
}
