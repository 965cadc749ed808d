import type { Duplex } from 'node:stream';
import type { SharedView } from '../queue/truth.ts';
import type { PoolSettings } from '../workloads/workload.ts';
import type { Admission } from './admission.ts';
import type { Answer, AnswerEvents } from './answer.ts';
import type { Connections } from './connections.ts';
import type { Member } from './crowd.ts';
import type { Exchange, ExchangeEvents, Outgoing } from './exchange.ts';
import { lineFull, unknownWorkload, waitedTooLong } from './explain.ts';
import { connectionProblem, type Failure, statusOf } from './failure.ts';
import { answerHead, type RawHeaders, upgradeHead } from './headers.ts';
import type { Instance } from './instances.ts';
import type { GatewayMetrics } from './metrics.ts';
import type { Problems } from './problems.ts';
import type { Ticket } from './waiting.ts';

export type InvocationDeps = {
  readonly view: SharedView;
  readonly admission: Admission;
  readonly connections: Connections;
  readonly problems: Problems;
  readonly metrics: GatewayMetrics;
  readonly nowMs: () => number;
  /** Once, when nothing of it is left. */
  readonly onOver: (invocation: Invocation) => void;
};

/** RFC 9110 9.2.2: what such a request does, it does once however often it is sent. */
const IDEMPOTENT = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE', 'PUT', 'DELETE']);
/** After so many instances that died of it, the request may be the reason. */
const MAX_SENDS = 3;

type Stage = 'new' | 'waiting' | 'sent' | 'answering' | 'over';

/**
 * One request, from its arrival to the end of its answer. It is sent to one instance at a time, and to another only when nothing had been sent, or
 * when it is idempotent, without a body, and no answer had begun.
 */
export class Invocation implements Member, Ticket, ExchangeEvents, AnswerEvents {
  readonly workload: string;
  readonly arrivedAtMs: number;
  /** In the crowd of all that run. */
  place = 0;
  readonly #deps: InvocationDeps;
  readonly #outgoing: Outgoing;
  readonly #answer: Answer;
  #stage: Stage = 'new';
  #pool: PoolSettings | undefined;
  #deadline: NodeJS.Timeout | undefined;
  #instance: Instance | undefined;
  #exchange: Exchange | undefined;
  #waited = false;
  #grantedAtMs = 0;
  #sends = 0;
  #touched = false;
  #status = 0;

  constructor(
    deps: InvocationDeps,
    request: { readonly workload: string; readonly arrivedAtMs: number; readonly outgoing: Outgoing },
    answer: Answer,
  ) {
    this.#deps = deps;
    this.workload = request.workload;
    this.arrivedAtMs = request.arrivedAtMs;
    this.#outgoing = request.outgoing;
    this.#answer = answer;
  }

  /** To be called once, when the workloads are known. */
  begin(): void {
    if (this.#isOver()) return;
    const { view, admission } = this.#deps;
    const pool = view.view.workloads?.get(this.workload)?.spec.pool;
    if (pool === undefined) {
      this.#refuse(unknownWorkload(this.workload, view.view));
      return;
    }
    this.#pool = pool;
    const left = pool.deadlineSeconds * 1000 - (this.#deps.nowMs() - this.arrivedAtMs);
    this.#deadline = setTimeout(this.#late, left);
    this.#stage = 'waiting';
    if (!admission.enter(this, pool.maxWaiting)) {
      this.#deps.metrics.waited(this.workload, 'full', 0);
      this.#refuse(lineFull(this.workload, pool.maxWaiting, this.#situation()));
    } else if (this.#instance === undefined && !this.#isOver()) this.#waited = true;
  }

  granted(instance: Instance): void {
    this.#stage = 'sent';
    this.#instance = instance;
    this.#touched = false;
    this.#grantedAtMs = this.#deps.nowMs();
    if (this.#waited) this.#deps.metrics.waited(this.workload, 'served', (this.#grantedAtMs - this.arrivedAtMs) / 1000);
    try {
      this.#exchange = this.#deps.connections.send(instance, this.#outgoing, this);
    } catch (error) {
      // What the client wrote cannot be sent on.
      this.#refuse({ code: 'usage', message: `this request cannot be passed on: ${connectionProblem(error)}` });
    }
  }

  /** The workload was taken away while this waited for it. */
  removed(): void {
    if (this.#stage !== 'waiting') return;
    this.#deps.admission.leave(this);
    this.#refuse(unknownWorkload(this.workload, this.#deps.view.view));
  }

  /** The gateway ends, or has nothing to wait for. */
  stop(failure: Failure): void {
    if (this.#stage === 'waiting') this.#deps.admission.leave(this);
    if (this.#stage === 'answering') this.#cut();
    else this.#refuse(failure);
  }

  /** Client and application talk in another protocol. */
  get isUpgraded(): boolean {
    return this.#status === 101 && !this.#isOver();
  }

  /** Ends such a talk. */
  close(reason: string): void {
    this.#answer.close(reason);
    this.#exchange?.abort();
  }

  sent(): void {
    this.#touched = true;
    this.#sends += 1;
  }

  information(status: number, headers: RawHeaders): void {
    this.#answer.information(status, answerHead(headers, () => false).headers);
  }

  head(status: number, message: string, raw: RawHeaders): void {
    clearTimeout(this.#deadline);
    const { headers, length } = answerHead(raw, (known) => this.#answer.chunked(known));
    this.#addOwn(headers);
    try {
      this.#answer.head(status, message, headers, length);
    } catch (error) {
      this.#applicationFailed(`its answer cannot be passed on: ${connectionProblem(error)}`);
      return;
    }
    this.#status = status;
    this.#stage = 'answering';
  }

  data(chunk: Buffer): boolean {
    return this.#isOver() || this.#answer.data(chunk);
  }

  end(trailers: RawHeaders): void {
    if (this.#isOver()) return;
    this.#answer.end(trailers);
    this.#finish();
  }

  upgraded(message: string, raw: RawHeaders, socket: Duplex, head: Buffer): void {
    clearTimeout(this.#deadline);
    const headers = upgradeHead(raw);
    this.#addOwn(headers);
    this.#status = 101;
    this.#stage = 'answering';
    // From here on the two talk to each other; the instance is in use until they part.
    this.#exchange = { resume: () => undefined, abort: () => socket.destroy() };
    socket.once('close', () => this.#isOver() || this.#finish());
    this.#answer.upgraded(message, headers, socket, head);
  }

  failed(error: unknown): void {
    if (this.#isOver()) return;
    const instance = this.#instance;
    if (this.#stage === 'answering') {
      this.#note(connectionProblem(error));
      this.#cut();
      return;
    }
    if (instance === undefined) return;
    if (isRefusedByClient(error)) {
      this.#refuse({ code: 'usage', message: `this request cannot be passed on: ${connectionProblem(error)}` });
      return;
    }
    if (this.#touched) {
      const { method, head } = this.#outgoing;
      const safe = IDEMPOTENT.has(method) && head.body === 'none' && this.#outgoing.upgrade === undefined;
      if (!safe || this.#sends >= MAX_SENDS) {
        this.#applicationFailed(connectionProblem(error));
        return;
      }
    }
    this.#note(connectionProblem(error));
    this.#deps.metrics.sentAgain(this.workload);
    this.#stage = 'waiting';
    this.#waited = true;
    this.#instance = undefined;
    this.#exchange = undefined;
    this.#deps.admission.again(this, instance);
  }

  resumed(): void {
    this.#exchange?.resume();
  }

  gone(): void {
    if (this.#isOver()) return;
    if (this.#stage === 'waiting') {
      this.#deps.admission.leave(this);
      this.#deps.metrics.waited(this.workload, 'gone', this.#ageMs() / 1000);
    }
    this.#exchange?.abort();
    this.#status = 0;
    this.#finish();
  }

  readonly #late = (): void => {
    const seconds = this.#pool?.deadlineSeconds ?? 0;
    if (this.#stage === 'waiting') {
      this.#deps.admission.leave(this);
      this.#deps.metrics.waited(this.workload, 'deadline', this.#ageMs() / 1000);
      this.#refuse(waitedTooLong(this.workload, seconds, this.#situation()));
      return;
    }
    const text = `${this.#instance} has not begun to answer within ${seconds} s (pool.deadlineSeconds)`;
    this.#note(`has not begun to answer within ${seconds} s`);
    this.#refuse({ code: 'timeout', message: text });
  };

  #applicationFailed(what: string): void {
    this.#note(what);
    this.#refuse({ code: 'container_failed', message: `${this.workload} failed (${this.#instance}): ${what}` });
  }

  #note(what: string): void {
    const one = this.#instance;
    this.#deps.problems.note({ workload: this.workload, ...(one === undefined ? {} : { node: one.node }), text: `${one}: ${what}` });
  }

  #refuse(failure: Failure): void {
    if (this.#isOver()) return;
    this.#exchange?.abort();
    this.#status = statusOf(failure);
    const headers: string[] = [];
    this.#addOwn(headers);
    this.#answer.fail(failure, headers);
    this.#finish();
  }

  #cut(): void {
    this.#exchange?.abort();
    this.#answer.cut();
    this.#finish();
  }

  #finish(): void {
    const start = this.#start();
    this.#stage = 'over';
    clearTimeout(this.#deadline);
    const instance = this.#instance;
    this.#instance = undefined;
    if (this.#pool !== undefined) {
      this.#deps.metrics.answered({ workload: this.workload, start: start ?? 'none', status: this.#status }, this.#ageMs() / 1000);
    }
    if (instance !== undefined) this.#deps.admission.release(instance);
    this.#deps.onOver(this);
  }

  #isOver(): boolean {
    return this.#stage === 'over';
  }

  /** `warm` when the instance was ready before the request came, however long that had to wait for its turn. */
  #start(): 'warm' | 'restore' | 'cold' | undefined {
    const one = this.#instance;
    if (one === undefined) return undefined;
    return one.readyAtMs <= this.arrivedAtMs ? 'warm' : one.how;
  }

  #addOwn(headers: string[]): void {
    const one = this.#instance;
    const until = one === undefined ? this.#deps.nowMs() : this.#grantedAtMs;
    if (one !== undefined) headers.push('rekindle-start', this.#start() ?? 'warm', 'rekindle-instance', one.name);
    headers.push('rekindle-wait-ms', this.#waited ? String(Math.round(until - this.arrivedAtMs)) : '0');
  }

  #ageMs(): number {
    return this.#deps.nowMs() - this.arrivedAtMs;
  }

  #situation() {
    const { view, problems } = this.#deps;
    return { view: view.view, connected: view.connected, lastProblem: problems.last(this.workload)?.text };
  }
}

/** undici would not send it at all, to nobody: what the client wrote is not HTTP as it knows it. */
function isRefusedByClient(error: unknown): boolean {
  return error instanceof Error && 'code' in error && (error.code === 'UND_ERR_INVALID_ARG' || error.code === 'UND_ERR_NOT_SUPPORTED');
}
