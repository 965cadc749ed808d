import type { Clock } from '../lib/clock.ts';
import { RekindleError } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';
import type { Controller } from '../lib/loop.ts';
import { parseDescription } from '../workloads/description.ts';
import { GATE, OPEN_AHEAD, START_ANNOTATION, STATE_LABEL, WORKLOAD_ANNOTATION } from '../workloads/kubernetes.ts';
import type { Cluster, Followed } from './cluster.ts';
import { PODS, type Pod } from './kinds.ts';

/** For pods whose policy does not say. */
export const GATE_DEADLINE_MS = 30_000;
/** How long an agent may be un-Ready, as in a rolling update, before its node's pods do not wait for it any more. */
const AGENT_AWAY_MS = 5_000;
const LOOK_EVERY_MS = 1_000;
/** Patches at the same time. */
const PARALLEL = 16;

type Opening = { readonly reason: 'AgentAway' | 'DeadlinePassed'; readonly message: string };
/** Whether only rekindle's gate keeps a pod from being ready, or will. */
export function isGateShut({ spec, status, metadata }: Pod): boolean {
  const hasGate = spec?.readinessGates?.some(({ conditionType }) => conditionType === GATE) ?? false;
  const isOpen = status?.conditions?.some(({ type, status: is }) => type === GATE && is === 'True') ?? false;
  return hasGate && !isOpen && metadata?.deletionTimestamp === undefined;
}

/** Our condition of a pod, for a strategic patch of its status. Kubernetes' times have whole seconds. */
export function gateCondition(
  status: 'True' | 'False',
  { reason, message }: { readonly reason: string; readonly message: string },
  nowMs: number,
) {
  const lastTransitionTime = new Date(nowMs).toISOString().replace(/\.\d+Z$/, 'Z');
  return { type: GATE, status, reason, message, lastTransitionTime };
}

/** Whether what became of a pod with our gate is still to be told: it is shut, or was opened ahead of that. */
export function isUntold(pod: Pod): boolean {
  return isGateShut(pod) || (pod.status?.conditions?.some(({ type, reason }) => type === GATE && reason === OPEN_AHEAD) ?? false);
}

/** Why a gate is to be opened now; or in how many milliseconds to look again; `Infinity`: at the next change. */
export type GateDecision = { readonly open: Opening } | { readonly againMs: number };

const NEVER: GateDecision = { againMs: Number.POSITIVE_INFINITY };

/**
 * What becomes of a pod's gate without its agent. Counted from when its containers were ready, since that is when only the gate holds it. `agentAwaySinceMs`:
 * since when no agent of its node has been there; undefined: one is.
 */
export function decideGate(pod: Pod, agentAwaySinceMs: number | undefined, nowMs: number): GateDecision {
  const { spec, status, metadata } = pod;
  if (!spec?.readinessGates?.some(({ conditionType }) => conditionType === GATE) || metadata?.deletionTimestamp !== undefined) return NEVER;
  const conditions = new Map(status?.conditions?.map((condition) => [condition.type, condition]));
  const gate = conditions.get(GATE);
  const isAhead = gate?.reason === OPEN_AHEAD;
  if (gate?.status === 'True' && !isAhead) return NEVER;
  const ready = conditions.get('ContainersReady');
  if (ready?.status !== 'True') return NEVER;
  const readySinceMs = ready.lastTransitionTime === undefined ? nowMs : new Date(ready.lastTransitionTime).getTime();
  const deadlineMs = gateDeadlineMs(pod);
  // Of one that was opened ahead only its agent tells what became of it: it holds nobody up.
  const dueMs = isAhead ? Number.POSITIVE_INFINITY : readySinceMs + deadlineMs - nowMs;
  const awayMs = agentAwaySinceMs === undefined ? Number.POSITIVE_INFINITY : agentAwaySinceMs + AGENT_AWAY_MS - nowMs;
  if (awayMs <= 0) return { open: { reason: 'AgentAway', message: `no agent of rekindle runs on ${spec.nodeName}` } };
  if (dueMs <= 0) return { open: { reason: 'DeadlinePassed', message: `its agent did not decide within ${deadlineMs / 1000} s` } };
  return { againMs: Math.min(dueMs, awayMs) };
}

/** As the policy says; a description that somebody else wrote holds nobody up. */
function gateDeadlineMs({ metadata }: Pod): number {
  try {
    const { checkpoint } = parseDescription(metadata?.annotations?.[WORKLOAD_ANNOTATION] ?? '', 'the pod');
    return checkpoint.gateDeadlineSeconds === undefined ? GATE_DEADLINE_MS : checkpoint.gateDeadlineSeconds * 1000;
  } catch {
    return GATE_DEADLINE_MS;
  }
}

export type GatesDeps = {
  readonly cluster: Pick<Cluster, 'patch'>;
  /** Opted-in pods of all namespaces. */
  readonly pods: Pick<Followed<Pod>, 'items' | 'connected'>;
  /** The agents' own pods. */
  readonly agents: Pick<Followed<Pod>, 'items' | 'connected'>;
  /** Of the wall: Kubernetes says when conditions changed. */
  readonly clock: Clock;
  readonly log: Log;
};

/** Opens gates that nobody else opens in time. Any number of replicas may. */
export class Gates implements Controller {
  readonly name = 'gates';
  readonly #deps: GatesDeps;
  /** Since when a node has had no agent, as this process saw it. */
  readonly #away = new Map<string, number>();
  /** Pods of which it was logged that their gates cannot be opened. */
  readonly #shut = new Set<string>();

  constructor(deps: GatesDeps) {
    this.#deps = deps;
  }

  async reconcile(signal: AbortSignal): Promise<{ requeueAfterMs: number }> {
    const { pods, agents, clock } = this.#deps;
    // What is known may be old: an agent may have come since.
    if (!pods.connected || !agents.connected) return { requeueAfterMs: LOOK_EVERY_MS };
    const now = clock.now();
    this.#lookForAgents(now);
    const due: { readonly pod: Pod; readonly open: Opening }[] = [];
    let requeueAfterMs = Number.POSITIVE_INFINITY;
    for (const pod of pods.items()) {
      const node = pod.spec?.nodeName;
      if (node === undefined) continue;
      const decision = decideGate(pod, this.#away.get(node), now);
      if ('open' in decision) due.push({ pod, open: decision.open });
      else requeueAfterMs = Math.min(requeueAfterMs, decision.againMs);
    }
    for (let at = 0; at < due.length; at += PARALLEL)
      await Promise.all(due.slice(at, at + PARALLEL).map(({ pod, open }) => this.#open(pod, open, signal)));
    for (const uid of this.#shut) if (!due.some(({ pod }) => pod.metadata?.uid === uid)) this.#shut.delete(uid);
    // What was opened is heard of as a change; that an agent goes is found by looking.
    return { requeueAfterMs: Math.min(requeueAfterMs, LOOK_EVERY_MS) };
  }

  #lookForAgents(now: number): void {
    const { pods, agents } = this.#deps;
    const present = new Set(agents.items().flatMap((agent) => (isReady(agent) && agent.spec?.nodeName ? [agent.spec.nodeName] : [])));
    const nodes = new Set(pods.items().flatMap(({ spec }) => spec?.nodeName ?? []));
    for (const node of nodes) {
      if (present.has(node)) this.#away.delete(node);
      else if (!this.#away.has(node)) this.#away.set(node, now);
    }
    for (const node of this.#away.keys()) if (!nodes.has(node)) this.#away.delete(node);
  }

  async #open(pod: Pod, { reason, message }: Opening, signal: AbortSignal): Promise<void> {
    const { cluster, clock, log } = this.#deps;
    const { name = '', namespace = '', uid = '' } = pod.metadata ?? {};
    const patch = {
      // With the uid, a pod that has taken the name meanwhile is left alone.
      metadata: { uid, ...(reason === 'AgentAway' ? startedAlone(message) : {}) },
      status: { conditions: [gateCondition('True', { reason, message }, clock.now())] },
    };
    try {
      const patched = await cluster.patch(PODS, { name, namespace, subresource: 'status' }, patch, 'strategic', signal);
      if (patched !== undefined) log.warn({ pod: `${namespace}/${name}`, reason }, 'gate opened');
    } catch (err) {
      signal.throwIfAborted();
      // One that cannot be opened holds up no other, now or by a back-off: it is tried again at the next look.
      if (this.#shut.has(uid) || (err instanceof RekindleError && err.code === 'conflict')) return;
      this.#shut.add(uid);
      log.warn({ err, pod: `${namespace}/${name}` }, 'gate could not be opened');
    }
  }
}

/** A slot that finds no agent starts its application by itself; nobody else tells that it serves. */
function startedAlone(message: string) {
  return { labels: { [STATE_LABEL]: 'live' }, annotations: { [START_ANNOTATION]: `cold: ${message}` } };
}

function isReady({ status, metadata }: Pod): boolean {
  return (
    metadata?.deletionTimestamp === undefined &&
    (status?.conditions?.some(({ type, status: is }) => type === 'Ready' && is === 'True') ?? false)
  );
}
