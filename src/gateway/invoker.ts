import { type IncomingMessage, ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import type { SharedView } from '../queue/truth.ts';
import type { Answer } from './answer.ts';
import { Crowd } from './crowd.ts';
import type { Outgoing } from './exchange.ts';
import { nothingHeard } from './explain.ts';
import type { Failure } from './failure.ts';
import type { Guard } from './guard.ts';
import { requestHead } from './headers.ts';
import { HttpAnswer, sendFailure } from './http-answer.ts';
import { Invocation, type InvocationDeps } from './invocation.ts';
import { parseTarget } from './target.ts';

/** How long a request waits for the first word of what workloads there are. */
const WORKLOADS_MS = 3_000;

export type InvokerDeps = Omit<InvocationDeps, 'onOver'> & { readonly guard: Guard; readonly namespaced: boolean };

/** `ANY /invoke/{workload}/{path}`, and the same for the page's burst. Knows every request that is under way. */
export class Invoker {
  readonly #deps: InvokerDeps;
  readonly #running = new Crowd<Invocation>();
  readonly #invocationDeps: InvocationDeps;
  /** Set once the gateway ends: answers then ask clients to connect to somebody else. */
  #closing = false;
  #whenIdle: (() => void) | undefined;

  constructor(deps: InvokerDeps) {
    this.#deps = deps;
    this.#invocationDeps = {
      ...deps,
      onOver: (one) => {
        this.#running.remove(one);
        if (this.#running.size === 0) this.#whenIdle?.();
      },
    };
  }

  get running(): number {
    return this.#running.size;
  }

  /** One request of a client of ours. */
  handle(request: IncomingMessage, response: ServerResponse): void {
    if (this.#closing) response.shouldKeepAlive = false;
    this.#start(request, response, undefined);
  }

  /** A request that wants to change the protocol. Until that happens it is answered as any other, on a connection that then ends. */
  upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    socket.on('error', () => socket.destroy());
    if (head.length > 0) socket.unshift(head);
    const response = new ServerResponse(request);
    response.shouldKeepAlive = false;
    response.assignSocket(socket as Parameters<ServerResponse['assignSocket']>[0]);
    response.on('finish', () => socket.end());
    this.#start(request, response, request.headers.upgrade);
  }

  /** Sends one, for whoever counts answers. `onOver` of the answer tells when. */
  send(workload: string, outgoing: Outgoing, answer: Answer): Invocation {
    const one = new Invocation(this.#invocationDeps, { workload, arrivedAtMs: this.#deps.nowMs(), outgoing }, answer);
    this.#running.add(one);
    one.begin();
    return one;
  }

  /** Waits until the last request has its answer, at most so long; those that still run are then ended. */
  async drain(ms: number): Promise<void> {
    this.#closing = true;
    if (this.#running.size > 0) {
      const { promise, resolve } = Promise.withResolvers<void>();
      const timer = setTimeout(resolve, ms);
      this.#whenIdle = resolve;
      await promise;
      clearTimeout(timer);
    }
    const ending: Failure = { code: 'not_ready', message: 'this gateway is ending: send the request again', retryAfterSeconds: 1 };
    for (const one of this.#running.all()) one.stop(ending);
  }

  /** Of all that run, those that hold their connection for as long as both sides like. */
  closeUpgraded(reason: string): void {
    for (const one of this.#running.all()) if (one.isUpgraded) one.close(reason);
  }

  #start(request: IncomingMessage, response: ServerResponse, upgrade: string | undefined): void {
    const arrivedAtMs = this.#deps.nowMs();
    const refusal = this.#deps.guard.refusal(request);
    const target = refusal === undefined ? parseTarget(request.url ?? '', this.#deps) : undefined;
    if (target === undefined) {
      sendFailure(
        request,
        response,
        refusal ?? { code: 'not_found', message: `say which workload: /invoke/${this.#deps.namespaced ? 'NAMESPACE/' : ''}WORKLOAD/PATH` },
      );
      return;
    }
    const client = { address: request.socket.remoteAddress ?? 'unknown', proto: 'http' as const, httpVersion: request.httpVersion };
    const head = requestHead(request.rawHeaders, { client, ownAuthorization: this.#deps.guard.authorization });
    const outgoing: Outgoing = {
      method: request.method ?? 'GET',
      path: target.path,
      head,
      body: request,
      trailers: () => request.rawTrailers,
      ...(upgrade === undefined ? {} : { upgrade }),
    };
    const answer = new HttpAnswer(request, response);
    const one = new Invocation(this.#invocationDeps, { workload: target.workload, arrivedAtMs, outgoing }, answer);
    this.#running.add(one);
    answer.listen(one);
    if (this.#deps.view.view.workloads !== undefined) one.begin();
    else void this.#beginWhenKnown(one);
  }

  async #beginWhenKnown(one: Invocation): Promise<void> {
    const { view } = this.#deps;
    if (await workloadsKnown(view, WORKLOADS_MS)) one.begin();
    else one.stop(nothingHeard(view));
  }
}

/** Resolves with true as soon as the view has workloads, with false when it has none in time. */
function workloadsKnown(view: SharedView, ms: number): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const timer = setTimeout(() => resolve(false), ms);
  const end = view.onChange(() => {
    if (view.view.workloads !== undefined) resolve(true);
  });
  return promise.finally(() => {
    clearTimeout(timer);
    end();
  });
}
