import type { Duplex } from 'node:stream';
import type { Clock } from '../lib/clock.ts';
import { errno, RekindleError } from '../lib/errors.ts';

/**
 * The container that is asked. Both methods reject soon after their signal aborts. A container that is gone is `not_found` or
 * `container_failed`: then nothing is tried again. Every other error means only that this attempt failed.
 */
export type ProbeTarget = {
  /** Runs a command with the container's rights; output is stdout and stderr. */
  exec(
    command: readonly string[],
    options: { timeoutMs: number; signal: AbortSignal },
  ): Promise<{ readonly status: number; readonly output: string }>;
  /** A connection to a port on the container's loopback or address: a trial container is reachable only from inside its network. */
  connect(port: number, signal: AbortSignal): Promise<Duplex>;
};

/** One attempt's result; `why` is a sentence without its full stop. */
export type Outcome = { readonly ok: true } | { readonly ok: false; readonly why: string };

/** A connection that is destroyed at the end of the scope, and at once when the signal aborts. */
export type Connection = AsyncDisposable & { readonly stream: Duplex };

export async function openConnection(target: ProbeTarget, port: number, signal: AbortSignal): Promise<Connection> {
  const stream = await target.connect(port, signal);
  // Whoever uses the stream hears its errors; after that nobody does, and an error without a listener would end the process.
  stream.on('error', () => {});
  const destroy = () => stream.destroy();
  // It may have come too late: then nobody else closes it.
  if (signal.aborted) destroy();
  signal.throwIfAborted();
  signal.addEventListener('abort', destroy, { once: true });
  return {
    stream,
    async [Symbol.asyncDispose]() {
      signal.removeEventListener('abort', destroy);
      destroy();
    },
  };
}

const TIME_UP = Symbol('time up');

/**
 * Runs `work` for at most `ms`, by the clock. Its signal aborts when the time is up (the result is then {@link timeIsUp}) or with `signal`
 * (then this rejects with its reason), and we do not wait for work that ignores it.
 */
export async function within<T>(
  clock: Clock,
  ms: number,
  signal: AbortSignal,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T | typeof TIME_UP> {
  signal.throwIfAborted();
  const inner = new AbortController();
  const stopTimer = new AbortController();
  const forward = () => inner.abort(signal.reason);
  signal.addEventListener('abort', forward, { once: true });
  const aborted = new Promise<never>((_resolve, reject) => {
    inner.signal.addEventListener('abort', () => (signal.aborted ? reject(signal.reason) : undefined), { once: true });
  });
  const timer = clock.sleep(ms, stopTimer.signal).then(
    (): typeof TIME_UP => TIME_UP,
    // Only we stop it, after the race.
    (): typeof TIME_UP => TIME_UP,
  );
  try {
    return await Promise.race([work(inner.signal), timer, aborted]);
  } finally {
    signal.removeEventListener('abort', forward);
    stopTimer.abort();
    inner.abort(new Error('over'));
  }
}

export function timeIsUp(value: unknown): value is typeof TIME_UP {
  return value === TIME_UP;
}

/** Errors after which no attempt can succeed. */
export function isFinal(error: unknown): boolean {
  return error instanceof RekindleError && (error.code === 'not_found' || error.code === 'container_failed');
}

const WORDS: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'connection refused',
  ECONNRESET: 'connection reset',
  EPIPE: 'connection closed early',
  EHOSTUNREACH: 'no route to the container',
  ENETUNREACH: 'no route to the container',
  ETIMEDOUT: 'connection timed out',
};

/** A failed attempt's error in a few words. */
export function inWords(error: unknown): string {
  // A name with several addresses gives one error per address.
  const first: unknown = error instanceof AggregateError ? error.errors[0] : error;
  return WORDS[errno(first) ?? ''] ?? (first instanceof Error ? first.message : String(first));
}

/** `command ended with 1: last line of output`. */
export function commandFailure(status: number, output: string): string {
  const last = output.trimEnd().split('\n').at(-1)?.trim().slice(0, 200) ?? '';
  return `command ended with ${status}${last === '' ? '' : `: ${last}`}`;
}
