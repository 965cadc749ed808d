import { performance } from 'node:perf_hooks';
import type { Answer } from './answer.ts';
import type { Failure } from './failure.ts';
import type { Invoker } from './invoker.ts';
import type { BurstAnswer } from './schemas.ts';
import { newTraceparent } from './trace-context.ts';

export type Burst = { readonly workload: string; readonly requests: number; readonly path: string };

/** Sends so many GET requests at once, on the way that requests of clients take, and resolves when each has its answer. Ends them all on an abort. */
export async function sendBurst(invoker: Invoker, burst: Burst, signal: AbortSignal): Promise<BurstAnswer> {
  const outcomes = await Promise.all(Array.from({ length: burst.requests }, () => sendOne(invoker, burst, signal)));
  const times = outcomes.map(({ ms }) => ms).sort((a, b) => a - b);
  const rank = (q: number): number => times[Math.max(0, Math.ceil(q * times.length) - 1)] ?? 0;
  const answered = outcomes.filter(({ ok }) => ok).length;
  return { answered, failed: outcomes.length - answered, p50Ms: rank(0.5), p99Ms: rank(0.99), maxMs: rank(1) };
}

type Outcome = { readonly ok: boolean; readonly ms: number };

async function sendOne(invoker: Invoker, { workload, path }: Burst, signal: AbortSignal): Promise<Outcome> {
  const startMs = performance.now();
  const headers = ['host', 'localhost', 'user-agent', 'rekindle-burst', 'traceparent', newTraceparent()];
  const head = { headers, body: 'none', expectsContinue: false, trailers: false } as const;
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const one = invoker.send(workload, { method: 'GET', path, head }, new CountedAnswer(resolve));
  const onAbort = () => {
    one.gone();
    resolve(false);
  };
  signal.addEventListener('abort', onAbort, { once: true });
  if (signal.aborted) onAbort();
  const ok = await promise;
  signal.removeEventListener('abort', onAbort);
  return { ok, ms: Number((performance.now() - startMs).toFixed(1)) };
}

/** An answer that is only looked at for whether it came. A status of the application below 500 is one. */
class CountedAnswer implements Answer {
  readonly #over: (ok: boolean) => void;
  #ok = false;

  constructor(over: (ok: boolean) => void) {
    this.#over = over;
  }

  information(): void {}

  chunked(): boolean {
    return false;
  }

  head(status: number): void {
    this.#ok = status < 500;
  }

  data(): boolean {
    return true;
  }

  end(): void {
    this.#over(this.#ok);
  }

  cut(): void {
    this.#over(false);
  }

  fail(_: Failure): void {
    this.#over(false);
  }

  upgraded(): void {
    this.#over(false);
  }

  close(): void {}
}
