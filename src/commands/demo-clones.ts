import { readFile } from 'node:fs/promises';
import { lastWords } from '../agent/last-words.ts';
import { processTree } from '../checkpoint/process.ts';
import { RekindleError, toRekindleError } from '../lib/errors.ts';
import type { Container } from '../workloads/host.ts';
import type { WorkloadSpec } from '../workloads/workload.ts';
import { megabytes, say } from './context.ts';
import type { Engine } from './engine.ts';
import { type Outcome, quantile } from './figures.ts';
import type { EventLog } from './instances.ts';

/** The demo's first act: one sample cold, checkpointed, and clones of it. */

export type Stage = { readonly engine: Engine; readonly events: EventLog; readonly signal: AbortSignal };

/** One that fails is told, and counts as so many clones failed; the others still have their turn. */
export async function cloneOrFail(stage: Stage, workload: WorkloadSpec, clones: number): Promise<Outcome> {
  try {
    return await clone(stage, workload, clones);
  } catch (error) {
    if (stage.signal.aborted) throw error;
    const { message, code } = toRekindleError(error);
    say(`${workload.name}: failed: ${message} [${code}]`);
    const none = { coldMs: 0, snapshotBytes: 0, freezeMs: 0, restoreMsP50: 0, restoreMsP99: 0, timesFaster: 0 };
    return { figures: { name: workload.name, ...none, clones, failed: clones }, cloneBytes: 0 };
  }
}

/** One sample from cold to its clones. */
async function clone(stage: Stage, workload: WorkloadSpec, clones: number): Promise<Outcome> {
  const over = new AbortController();
  try {
    return await cloneUntil({ ...stage, signal: AbortSignal.any([stage.signal, over.signal]) }, workload, clones);
  } finally {
    // What still waits when one of them fails.
    over.abort();
  }
}

async function cloneUntil({ engine, events, signal }: Stage, workload: WorkloadSpec, clones: number): Promise<Outcome> {
  const { name } = workload;
  say(`${name}: starting cold …`);
  const seed = await engine.host.create(workload, { name: `${name}-seed`, signal });
  const helloAt = performance.now();
  const coldMs = (await Promise.race([firstAnswer(seed, signal), ended(engine, seed, signal)])) - helloAt;
  say(`${name}: first answer after ${Math.round(coldMs)} ms; warming up, checkpointing while it serves, verifying by a trial restore …`);
  const outcome = await events.checkpointed(name, signal);
  if (outcome.type === 'checkpoint-failed') throw new RekindleError(outcome.code, outcome.reason);
  for (const warning of outcome.warnings) say(`${name}: warning: ${warning}`);
  const before = await ask(seed);
  say(
    `${name}: snapshot of ${megabytes(outcome.totalBytes)}, it stood still for ${Math.round(outcome.freezeMs)} ms; restoring ${clones} clones …`,
  );
  const restored: { container: Container; ms: number }[] = [];
  const containers: Container[] = [seed];
  for (let i = 1; i <= clones; i++) {
    const container = await engine.host.create(workload, { name: `${name}-${i}`, signal });
    containers.push(container);
    const state = await events.settled(container.uid, signal);
    if (state.at === 'live') restored.push({ container, ms: state.timing.readyMs ?? state.timing.restoredMs });
    else say(`${name}-${i}: not restored: ${state.at === 'cold' ? state.reason : 'no snapshot fits'}`);
  }
  const wrong = (await Promise.all(restored.map(({ container }) => whatIsWrong(container, before)))).filter((what) => what !== undefined);
  for (const what of wrong) say(what);
  const times = restored.map(({ ms }) => ms);
  const cloneBytes = quantile(await Promise.all(restored.map(({ container }) => privateBytes(container))), 0.5);
  await Promise.all(containers.map(({ uid }) => engine.host.remove(uid)));
  const p50 = quantile(times, 0.5);
  say(`${name}: ${restored.length - wrong.length} of ${clones} answer under their own name and address with the seed's state`);
  const figures = {
    name,
    coldMs,
    snapshotBytes: outcome.totalBytes,
    freezeMs: outcome.freezeMs,
    restoreMsP50: p50,
    restoreMsP99: quantile(times, 0.99),
    timesFaster: p50 > 0 ? coldMs / p50 : 0,
    clones,
    failed: clones - restored.length + wrong.length,
  };
  return { figures, cloneBytes };
}

/** A clone must have its own host name, and in its memory what the seed had: when it started, and its warm-up. */
async function whatIsWrong(clone: Container, seed: Answer): Promise<string | undefined> {
  const answer = await ask(clone).catch((error: unknown) => String(error));
  if (typeof answer === 'string') return `${clone.name} does not answer: ${answer}`;
  if (answer.host !== clone.name) return `${clone.name} answers as ${answer.host}`;
  if (answer.startedAt !== seed.startedAt || answer.warmed !== seed.warmed)
    return `${clone.name} has not the seed's state: ${JSON.stringify(answer)}`;
  return undefined;
}

type Answer = { readonly host: string; readonly startedAt: number; readonly warmed: number };

async function ask(container: Container): Promise<Answer> {
  const answer = await fetch(`http://${container.addresses[0]}:8080/`, { signal: AbortSignal.timeout(5_000) });
  return (await answer.json()) as Answer; // the samples' contract; a wrong one shows in the comparison
}

/** When the first answer came. */
async function firstAnswer(container: Container, signal: AbortSignal): Promise<number> {
  for (;;) {
    signal.throwIfAborted();
    const ready = await fetch(`http://${container.addresses[0]}:8080/healthz`, { signal: AbortSignal.timeout(1_000) }).then(
      ({ ok }) => ok,
      () => false,
    );
    if (ready) return performance.now();
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

async function ended(engine: Engine, container: Container, signal: AbortSignal): Promise<never> {
  const status = await engine.host.wait(container, signal);
  const words = await lastWords(engine.host, container);
  throw new RekindleError('container_failed', `${container.name} ended with ${status} before its first answer${words}`);
}

/** What the clone's processes have in memory that nobody shares. */
async function privateBytes(container: Container): Promise<number> {
  let bytes = 0;
  for (const pid of processTree(container.pid)) {
    const text = await readFile(`/proc/${pid}/smaps_rollup`, 'utf8').catch(() => '');
    for (const [, kilobytes] of text.matchAll(/^Private_\w+:\s+(\d+) kB/gm)) bytes += Number(kilobytes) * 1024;
  }
  return bytes;
}
