import type { Cluster } from '../cluster/cluster.ts';
import { gateCondition } from '../cluster/gates.ts';
import { EVENTS, PODS } from '../cluster/kinds.ts';
import type { Clock } from '../lib/clock.ts';
import { RekindleError } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';
import type { Controller } from '../lib/loop.ts';
import { OPEN_AHEAD, type PodState, parseWorkloadName, START_ANNOTATION, STATE_LABEL } from '../workloads/kubernetes.ts';
import type { AgentEvent, InstanceState } from './events.ts';

export type PodReportsDeps = {
  readonly cluster: Pick<Cluster, 'patch' | 'create'>;
  readonly log: Log;
  readonly clock: Clock;
  /** This node's name, which events tell as their host. */
  readonly node: string;
  /** Asks for a pass of the loop that this is. */
  readonly wake: () => void;
};

/** What is to be told of a pod. What is undefined is left as it is. */
type Report = {
  readonly namespace: string;
  readonly name: string;
  readonly state?: PodState;
  /** How it came to be, for the annotation. */
  readonly start?: string;
  readonly gate?: { readonly reason: string; readonly message: string };
  readonly event?: { readonly type: 'Normal' | 'Warning'; readonly reason: string; readonly message: string };
  /** Already told: the condition, the event. */
  patched: boolean;
  /** How often the API server refused to hear it. */
  refusals: number;
};

/** What is to be told of one pod, oldest first; not before a time after it could not be told. */
type Waiting = { readonly reports: Report[]; notBeforeMs: number };

const RETRY_MS = 1_000;
/** What takes longer is not waited for by what is told of other pods. */
const SLOW_MS = 500;
const SENDING_MS = 5;
/** What is refused so often is not told: its namespace goes, or somebody's policy forbids it. A right may come a moment later. */
const MOST_REFUSALS = 5;
/** Pods told at the same time. */
const AT_ONCE = 16;
/** The API server's own limit (validateEvent of k8s.io/kubernetes/pkg/apis/core/validation). */
const MAX_MESSAGE_CHARS = 1024;

/**
 * Tells Kubernetes what becomes of this node's pods: opens the readiness gate once a pod is what it will be (a seed when it has been dumped), keeps its state
 * label and start annotation, and writes events. What could not be told is told later; of several things about one pod the last counts.
 */
export class PodReports implements Controller {
  readonly name = 'pod-reports';
  readonly #deps: PodReportsDeps;
  readonly #pending = new Map<string, Waiting>();
  readonly #sending = new Set<string>();

  constructor(deps: PodReportsDeps) {
    this.#deps = deps;
  }

  /** For the agent's events. Instances whose workload is not of a cluster are trials, and none of Kubernetes' business. */
  readonly onEvent = (event: AgentEvent): void => {
    if (event.type !== 'instance') return;
    const workload = parseWorkloadName(event.workload);
    const said = workload === undefined ? undefined : reportOf(event.state);
    if (workload === undefined || said === undefined) return;
    const waiting = this.#pending.get(event.uid) ?? { reports: [], notBeforeMs: 0 };
    waiting.reports.push({ ...said, namespace: workload.namespace, name: event.name, patched: false, refusals: 0 });
    this.#pending.set(event.uid, waiting);
    this.#deps.wake();
  };

  /**
   * Shuts the gate of a pod again that was opened ahead; whether it is shut, and the pod was not ready until then: nothing is in it yet, so it cannot become so
   * any more.
   */
  async holdBack(uid: string, at: { readonly namespace: string; readonly name: string }, signal: AbortSignal): Promise<boolean> {
    // What was told ahead must not be told after this.
    this.#pending.delete(uid);
    while (this.#sending.has(uid)) await this.#deps.clock.sleep(SENDING_MS, signal);
    const message = 'no snapshot fits it, though one was expected to: it is held until it has been checkpointed';
    const patch = { metadata: { uid }, status: { conditions: [gateCondition('False', { reason: 'Held', message }, Date.now())] } };
    const pod = await this.#deps.cluster.patch(PODS, { ...at, subresource: 'status' }, patch, 'strategic', signal);
    return pod !== undefined && !pod.status?.conditions?.some(({ type, status }) => type === 'ContainersReady' && status === 'True');
  }

  async reconcile(signal: AbortSignal): Promise<{ readonly requeueAfterMs: number }> {
    const { clock } = this.#deps;
    const now = clock.now();
    const due = this.#unsent().flatMap(([uid, waiting]) => (waiting.notBeforeMs <= now ? [{ uid, waiting }] : []));
    // What is told of one pod does not wait for what cannot be told of another, or takes long.
    const sent = Promise.all(due.slice(0, AT_ONCE - this.#sending.size).map(({ uid, waiting }) => this.#send(uid, waiting, signal)));
    const over = new AbortController();
    const slow = clock.sleep(SLOW_MS, AbortSignal.any([signal, over.signal])).catch(() => undefined);
    await Promise.race([sent, slow]).finally(() => over.abort());
    const next = Math.min(...this.#unsent().map(([, { notBeforeMs }]) => notBeforeMs));
    const isFull = this.#sending.size >= AT_ONCE;
    if (this.#sending.size > 0 && (isFull || next === Number.POSITIVE_INFINITY)) return { requeueAfterMs: RETRY_MS };
    return { requeueAfterMs: Math.max(0, next - clock.now()) };
  }

  #unsent(): [string, Waiting][] {
    return [...this.#pending].filter(([uid]) => !this.#sending.has(uid));
  }

  /** What cannot be told is to be tried again. */
  async #send(uid: string, pending: Waiting, signal: AbortSignal): Promise<void> {
    const { reports: waiting } = pending;
    // What is said from now on is for the next pass: its state is not in this patch.
    const told = [...waiting];
    this.#sending.add(uid);
    try {
      // The newest state, and every event.
      const last = told.at(-1);
      const gate = told.findLast((report) => report.gate !== undefined)?.gate;
      if (last !== undefined && !last.patched) {
        await this.#patch(uid, { ...last, ...(gate === undefined ? {} : { gate }) }, signal);
        last.patched = true;
      }
      for (const report of told) {
        if (report.event !== undefined) await this.#create(uid, report, report.event, signal);
        waiting.splice(waiting.indexOf(report), 1);
      }
      if (waiting.length === 0) this.#forget(uid, pending);
    } catch (err) {
      signal.throwIfAborted();
      const [oldest] = waiting;
      if (oldest !== undefined && !(err instanceof RekindleError && err.retryable)) oldest.refusals += 1;
      if (oldest === undefined || oldest.refusals < MOST_REFUSALS) {
        this.#deps.log.debug({ err, slot: uid }, 'pod could not be told about');
        pending.notBeforeMs = this.#deps.clock.now() + RETRY_MS;
        return;
      }
      this.#deps.log.warn({ err, slot: uid }, 'what became of a pod is not told');
      this.#forget(uid, pending);
    } finally {
      this.#sending.delete(uid);
      // What was said of it meanwhile, or had to wait for it, is next.
      if (this.#pending.size > 0) this.#deps.wake();
    }
  }

  /** Of a pod that is held back other things may have been said since. */
  #forget(uid: string, told: Waiting): void {
    if (this.#pending.get(uid) === told) this.#pending.delete(uid);
  }

  async #patch(uid: string, { namespace, name, state, start, gate }: Report, signal: AbortSignal): Promise<void> {
    const patch = {
      // With the uid, a pod that has taken the name meanwhile is left alone.
      metadata: {
        uid,
        ...(start === undefined ? {} : { annotations: { [START_ANNOTATION]: start } }),
        ...(state === undefined ? {} : { labels: { [STATE_LABEL]: state } }),
      },
      ...(gate === undefined ? {} : { status: { conditions: [gateCondition('True', gate, Date.now())] } }),
    };
    await this.#deps.cluster.patch(PODS, { name, namespace, subresource: 'status' }, patch, 'strategic', signal).catch((error: unknown) => {
      // Another pod has its name. Where somebody else writes all the time, the server gives up too: then it is tried again.
      if (!(error instanceof RekindleError && error.code === 'conflict' && !error.retryable)) throw error;
    });
  }

  async #create(
    uid: string,
    { namespace, name }: Report,
    { type, reason, message }: NonNullable<Report['event']>,
    signal: AbortSignal,
  ): Promise<void> {
    const now = new Date();
    await this.#deps.cluster.create(
      EVENTS,
      {
        metadata: { generateName: `${name.slice(0, 200)}.`, namespace } as { name?: string; namespace: string },
        involvedObject: { apiVersion: 'v1', kind: 'Pod', name, namespace, uid },
        type,
        reason,
        message: message.slice(0, MAX_MESSAGE_CHARS),
        firstTimestamp: now,
        lastTimestamp: now,
        count: 1,
        source: { component: 'rekindle', host: this.#deps.node },
        reportingComponent: 'rekindle.dev/agent',
        reportingInstance: this.#deps.node,
      },
      signal,
    );
  }
}

/** Undefined for what nobody needs to hear. */
function reportOf(state: InstanceState): Pick<Report, 'state' | 'start' | 'gate' | 'event'> | undefined {
  switch (state.at) {
    case 'restoring':
    case 'ended':
      return undefined;
    // The kubelet hears of a gate that opens only when it next looks at the pod, up to a second later; its own probe holds the pod as long as is right.
    case 'expected':
      return {
        gate: {
          reason: OPEN_AHEAD,
          message: `restored from snapshot ${state.snapshot.slice(0, 12)} as it starts; its own probe tells when it is ready`,
        },
      };
    case 'back':
      return { state: 'live', start: 'restored', gate: { reason: 'Restored', message: 'restored under an earlier agent' } };
    case 'parked':
      return { state: 'parked', start: 'parked', gate: { reason: 'Parked', message: 'no application runs; a request wakes one' } };
    case 'live': {
      const { readyMs, restoredMs } = state.timing;
      const ms = Math.round(readyMs ?? restoredMs);
      const message = `Restored in ${ms} ms from snapshot ${state.snapshot.slice(0, 12)}`;
      return {
        state: 'live',
        start: `restored in ${ms} ms`,
        gate: { reason: 'Restored', message },
        event: { type: 'Normal', reason: 'Restored', message },
      };
    }
    case 'cold': {
      const gate = { reason: 'ColdStarted', message: state.reason };
      const said = { state: 'live' as const, start: `cold: ${state.reason}`, gate };
      if (state.why !== 'seed') {
        const type = state.why === 'failed' ? 'Warning' : 'Normal';
        return { ...said, event: { type, reason: 'ColdStarted', message: state.reason } };
      }
      return state.code === undefined ? said : { ...said, event: { type: 'Warning', reason: 'CheckpointFailed', message: state.reason } };
    }
    case 'seed':
      return seedReport(state.step);
  }
}

function seedReport(step: Extract<InstanceState, { at: 'seed' }>['step']): Pick<Report, 'state' | 'start' | 'gate' | 'event'> | undefined {
  const start = 'seed: the first of its kind';
  if (step === 'waiting for readiness') {
    const message = 'the first of its kind: it starts cold and is checkpointed once its readiness checks pass';
    return { state: 'seed', start, event: { type: 'Normal', reason: 'Seed', message } };
  }
  // From here on it serves; before, it would have taken requests into every clone's memory.
  if (step === 'writing it down') return { state: 'live', start, gate: { reason: 'Checkpointed', message: 'checkpointed' } };
  return undefined;
}
