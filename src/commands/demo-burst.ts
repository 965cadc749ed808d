import { writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { ApiPool } from '../gateway/schemas.ts';
import { untilAborted } from '../lib/abort.ts';
import { systemClock } from '../lib/clock.ts';
import { RekindleError } from '../lib/errors.ts';
import type { WorkloadSpec } from '../workloads/workload.ts';
import { age, type Context, say } from './context.ts';
import { type BurstFigures, quantile } from './figures.ts';
import { openService } from './local-service.ts';

/** The demo's second act: the samples as a service, each woken from zero by a burst. */

export type BurstOptions = {
  /** Wait for Enter before the bursts, and for Ctrl-C after them. */
  readonly stay: boolean;
  /** One cold start of the sample, as the first act measured it. */
  readonly coldMs: (name: string) => number;
  /** Told of the results while the service still runs. */
  readonly onEnd: (bursts: readonly BurstFigures[]) => void;
};

const REQUESTS = 60;
const INSTANCES = 6;
/** What the samples wait before they answer it. */
const PATH = '/work?ms=30';
const USUAL_PORT = 7070;
const PARKED_MS = 60_000;
const SETTLED_MS = 20_000;
const ANSWER_MS = 60_000;
const LOOK_EVERY_MS = 50;
const TELL_EVERY_MS = 1_000;

/**
 * Each instance takes one request at a time, so that the burst needs all there may be; all wait parked. They outlive the burst, to be counted, and
 * are seen to be parked again soon after: windows are short, since nothing ends while a burst goes on.
 */
const POOL = {
  ...{ max: INSTANCES, parked: INSTANCES, targetConcurrency: 1, maxConcurrency: 1 },
  ...{ idleSeconds: 10, stableWindowSeconds: 6, burstWindowSeconds: 3 },
};

/** Serves the samples from the snapshots in the state directory, and sends each a burst. */
export async function playBursts(context: Context, samples: readonly WorkloadSpec[], options: BurstOptions): Promise<BurstFigures[]> {
  const { config, signal } = context;
  const file = join(config.stateDir, 'rekindle.yaml');
  await writeFile(file, fileOf(samples));
  const port = await freePort();
  say('\nthe same as a service: starting redis, agent, scaler and gateway …');
  await using service = await openService(context, { file, listen: { host: '127.0.0.1', port }, nodes: 1 });
  say(`watch it at ${service.url}/ ; Ctrl-C ends`);
  const gateway = { url: service.url, token: config.token };
  await untilParked(gateway, samples, signal);
  if (options.stay) await enter('press Enter to send the bursts: ', signal);
  const bursts: BurstFigures[] = [];
  for (const { name } of samples) bursts.push(await burst(gateway, name, options.coldMs(name), signal));
  options.onEnd(bursts);
  if (options.stay) {
    say(`the service goes on at ${service.url}/ ; Ctrl-C ends it`);
    await untilAborted(signal);
  }
  say('ending the service …');
  return bursts;
}

/** A rekindle.yaml (JSON is YAML) with just these, in pools fit to show. */
function fileOf(samples: readonly WorkloadSpec[]): string {
  return JSON.stringify({ workloads: Object.fromEntries(samples.map(({ name, ...spec }) => [name, { ...spec, pool: POOL }])) });
}

type Gateway = { readonly url: string; readonly token: string | undefined };

function ask({ url, token }: Gateway, path: string, signal: AbortSignal): Promise<Response> {
  const headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
  return fetch(`${url}${path}`, { headers, signal });
}

async function poolsOf(gateway: Gateway, signal: AbortSignal): Promise<ApiPool[]> {
  const answer = await ask(gateway, '/api/pools', signal);
  if (!answer.ok) throw new RekindleError('internal', `the gateway answered ${answer.status} to GET /api/pools: ${await answer.text()}`);
  return (await answer.json()) as ApiPool[]; // what our own gateway's schema says
}

/** Zero instances, and every slot waits with a snapshot that fits. */
async function untilParked(gateway: Gateway, samples: readonly WorkloadSpec[], signal: AbortSignal): Promise<void> {
  const wanted = samples.length * INSTANCES;
  const startedAt = performance.now();
  let toldAt = startedAt;
  for (;;) {
    const slots = (await poolsOf(gateway, signal)).flatMap((pool) => (pool.phase === 'ready' ? pool.slots : []));
    const parked = slots.filter(({ state }) => state === 'parked').length;
    if (parked === wanted && slots.length === wanted) return say(`${parked} slots are parked: no instance runs`);
    if (performance.now() - startedAt > PARKED_MS)
      throw new RekindleError('timeout', `only ${parked} of ${wanted} slots were parked within ${age(PARKED_MS)}`);
    if (performance.now() - toldAt > TELL_EVERY_MS) {
      toldAt = performance.now();
      say(`${parked} of ${wanted} slots are parked …`);
    }
    await systemClock.sleep(LOOK_EVERY_MS, signal);
  }
}

async function burst(gateway: Gateway, name: string, coldMs: number, signal: AbortSignal): Promise<BurstFigures> {
  say(`${name}: ${REQUESTS} requests at once, and nobody there to answer …`);
  const startedAt = performance.now();
  const ends = await Promise.all(Array.from({ length: REQUESTS }, () => request(gateway, name, signal)));
  const times = ends.flatMap(({ problem, atMs }) => (problem === undefined ? [atMs - startedAt] : []));
  for (const problem of new Set(ends.flatMap((end) => end.problem ?? []))) say(`${name}: ${problem}`);
  const { restored, cold } = await instancesOf(gateway, name, signal);
  for (const why of cold) say(`${name}: an instance started cold: ${why}`);
  const figures = {
    name,
    requests: REQUESTS,
    answered: times.length,
    failed: REQUESTS - times.length,
    restored,
    cold: cold.length,
    firstMs: quantile(times, 0),
    allMs: quantile(times, 1),
    p50Ms: quantile(times, 0.5),
    p99Ms: quantile(times, 0.99),
    coldMs,
  };
  const all = `all ${figures.answered} after ${Math.round(figures.allMs)} ms`;
  say(`${name}: first answer after ${Math.round(figures.firstMs)} ms, ${all}; one cold start takes ${Math.round(coldMs)} ms`);
  return figures;
}

/** One request to its last byte; `problem` says what went wrong. */
async function request(gateway: Gateway, name: string, signal: AbortSignal): Promise<{ atMs: number; problem?: string }> {
  try {
    const answer = await ask(gateway, `/invoke/${name}${PATH}`, AbortSignal.any([signal, AbortSignal.timeout(ANSWER_MS)]));
    const text = await answer.text();
    const atMs = performance.now();
    return answer.ok ? { atMs } : { atMs, problem: `answered ${answer.status}: ${text}` };
  } catch (error) {
    signal.throwIfAborted();
    return { atMs: performance.now(), problem: `no answer: ${String(error)}` };
  }
}

/** How its instances have come to be, once none is on its way any more. */
async function instancesOf(gateway: Gateway, name: string, signal: AbortSignal): Promise<{ restored: number; cold: string[] }> {
  const until = performance.now() + SETTLED_MS;
  for (;;) {
    const slots = (await poolsOf(gateway, signal)).find(({ workload }) => workload === name)?.slots ?? [];
    const starts = slots.flatMap(({ state, start }) => (state === 'live' || state === 'cold' ? [start] : []));
    const restored = starts.filter((start) => start?.how === 'restore').length;
    const cold = starts.flatMap((start) => (start?.how === 'restore' ? [] : [start?.reason ?? 'no reason was told']));
    const failed = slots.flatMap(({ error }) => error ?? []);
    if (!slots.some(({ state }) => state === 'restoring') || performance.now() > until) return { restored, cold: [...cold, ...failed] };
    await systemClock.sleep(LOOK_EVERY_MS, signal);
  }
}

/** The usual one, so that a page that is open already shows the next demo too; else any. */
async function freePort(): Promise<number> {
  return (await portIfFree(USUAL_PORT)) ?? (await portIfFree(0)) ?? USUAL_PORT;
}

function portIfFree(port: number): Promise<number | undefined> {
  const server = createServer();
  return new Promise((resolve) => {
    server.once('error', () => resolve(undefined));
    server.listen(port, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' ? address?.port : undefined));
    });
  });
}

/** Also when there is nothing more to read. */
async function enter(prompt: string, signal: AbortSignal): Promise<void> {
  process.stderr.write(prompt);
  // As a terminal it would take Ctrl-C for itself.
  const lines = createInterface({ input: process.stdin, terminal: false });
  const close = () => lines.close();
  signal.addEventListener('abort', close, { once: true });
  await new Promise<void>((resolve) => {
    lines.once('line', close);
    lines.once('close', resolve);
    if (signal.aborted) close();
  });
  signal.removeEventListener('abort', close);
  signal.throwIfAborted();
}
