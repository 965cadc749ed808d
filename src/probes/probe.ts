import type { Clock } from '../lib/clock.ts';
import { RekindleError } from '../lib/errors.ts';
import type { NormalProbe, ProbeCheck } from '../workloads/normalise.ts';
import { checkGrpc } from './grpc.ts';
import { callHttp, describeCall } from './http.ts';
import { commandFailure, inWords, isFinal, type Outcome, openConnection, type ProbeTarget, timeIsUp, within } from './target.ts';

/** A probe asks whether, not what: more of a body than kubelet reads is of no use. */
const MAX_PROBE_BODY_BYTES = 10 * 1024;

export type WaitOptions = {
  readonly clock: Clock;
  /** When to give up whatever the thresholds say; counted from the call. */
  readonly deadlineMs?: number;
  /**
   * Instead of the probe's own timing: attempts every so many milliseconds, no initial delay, ready at the first success, and only the deadline
   * ends it (the probe's own `failureThreshold` × `periodMs` if none is given). For finding the first answer after a restore.
   */
  readonly everyMs?: number;
};

export type Readiness = { readonly attempts: number; readonly durationMs: number };

/**
 * Waits until the probe has succeeded as often in a row as it wants, with the semantics of Kubernetes probes: initial delay, a first attempt at
 * once, then one per period. Throws `not_ready`, with the last failure in words, after `failureThreshold` failures in a row or at the deadline;
 * a container that is gone is the target's own error. An abort rejects with the signal's reason.
 */
export async function waitReady(probe: NormalProbe, target: ProbeTarget, options: WaitOptions, signal: AbortSignal): Promise<Readiness> {
  const { clock } = options;
  const timing = timingOf(probe, options);
  const startedAt = clock.now();
  const endsAt = startedAt + timing.deadlineMs;
  const tally = { attempts: 0, good: 0, bad: 0, why: 'no attempt was made' };

  const sleep = async (ms: number) => (ms > 0 ? await clock.sleep(ms, signal) : signal.throwIfAborted());

  await sleep(Math.min(timing.initialDelayMs, timing.deadlineMs));
  while (clock.now() < endsAt) {
    const attemptAt = clock.now();
    const outcome = await checkOnce({ ...probe, timeoutMs: Math.min(probe.timeoutMs, endsAt - attemptAt) }, target, clock, signal);
    tally.attempts += 1;
    if (outcome.ok) {
      tally.good += 1;
      tally.bad = 0;
      if (tally.good >= timing.successThreshold) return { attempts: tally.attempts, durationMs: clock.now() - startedAt };
    } else {
      tally.good = 0;
      tally.bad += 1;
      tally.why = outcome.why;
      if (tally.bad >= timing.failureThreshold) break;
    }
    // As kubelet: the period runs from the start of one attempt to the start of the next.
    await sleep(Math.min(attemptAt + timing.periodMs, endsAt) - clock.now());
  }
  const seconds = ((clock.now() - startedAt) / 1_000).toFixed(1);
  throw new RekindleError('not_ready', `not ready after ${seconds} s and ${tally.attempts} attempts; the last failure was: ${tally.why}`, {
    retryable: true,
  });
}

/** One attempt, at most the probe's timeout long. Throws only for a container that is gone, and on abort. */
export async function checkOnce(
  probe: ProbeCheck & { readonly timeoutMs: number },
  target: ProbeTarget,
  clock: Clock,
  signal: AbortSignal,
): Promise<Outcome> {
  const asked = describe(probe);
  try {
    const outcome = await within(clock, probe.timeoutMs, signal, (inner) => ask(probe, target, inner));
    if (timeIsUp(outcome)) return { ok: false, why: `${asked} gave no answer within ${Math.ceil(probe.timeoutMs)} ms` };
    return outcome.ok || probe.kind === 'command' ? outcome : { ok: false, why: `${asked} answered ${outcome.why}` };
  } catch (error) {
    if (signal.aborted || isFinal(error)) throw error;
    return { ok: false, why: `${asked}: ${inWords(error)}` };
  }
}

async function ask(probe: ProbeCheck & { readonly timeoutMs: number }, target: ProbeTarget, signal: AbortSignal): Promise<Outcome> {
  switch (probe.kind) {
    case 'command': {
      const { status, output } = await target.exec(['/bin/sh', '-c', probe.command], { timeoutMs: probe.timeoutMs, signal });
      return status === 0 ? { ok: true } : { ok: false, why: commandFailure(status, output) };
    }
    case 'http': {
      const { status } = await callHttp(target, { ...probe, method: 'GET' }, MAX_PROBE_BODY_BYTES, signal);
      return status >= 200 && status < 400 ? { ok: true } : { ok: false, why: String(status) };
    }
    case 'tcp': {
      await using _connection = await openConnection(target, probe.port, signal);
      return { ok: true };
    }
    case 'grpc':
      return await checkGrpc(target, probe.port, probe.service, signal);
  }
}

function describe(probe: ProbeCheck): string {
  switch (probe.kind) {
    case 'command':
      return 'command';
    case 'http':
      return describeCall({ ...probe, method: 'GET' });
    case 'tcp':
      return `TCP port ${probe.port}`;
    case 'grpc':
      return `gRPC health of ${probe.service === '' ? 'the server' : probe.service} on port ${probe.port}`;
  }
}

function timingOf(probe: NormalProbe, { deadlineMs, everyMs }: WaitOptions) {
  if (everyMs === undefined) return { ...probe, deadlineMs: deadlineMs ?? Number.POSITIVE_INFINITY };
  const ownDeadlineMs = probe.failureThreshold * probe.periodMs;
  return {
    initialDelayMs: 0,
    periodMs: everyMs,
    successThreshold: 1,
    failureThreshold: Number.POSITIVE_INFINITY,
    deadlineMs: deadlineMs ?? ownDeadlineMs,
  };
}
