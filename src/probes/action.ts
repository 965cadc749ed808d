import { createHash } from 'node:crypto';
import type { Clock } from '../lib/clock.ts';
import { RekindleError } from '../lib/errors.ts';
import type { NormalAction } from '../workloads/normalise.ts';
import { callHttp, describeCall, type HttpAnswer } from './http.ts';
import { commandFailure, inWords, isFinal, type ProbeTarget, timeIsUp, within } from './target.ts';

/** Read so that the application does the work of sending it; a stream without end is cut off here. */
const MAX_ACTION_BODY_BYTES = 64 * 1024 * 1024;

/** What an action gave back: all bodies in the order of their requests, or the command's output. `sha256` is hexadecimal. */
export type ActionOutput = { readonly sha256: string; readonly sizeBytes: number };

export type ActionOptions = {
  readonly clock: Clock;
  /** What these actions are, for messages: `warm-up`, `after-restore hook`, … */
  readonly label: string;
};

/** `done` counts requests and commands; `outputs` has one entry per action, in order. */
export type ActionsResult = { readonly done: number; readonly durationMs: number; readonly outputs: readonly ActionOutput[] };

/**
 * Does the actions one after the other. Throws `not_ready` with what failed at the first failure (a status of 400 or more, a command that does
 * not end with 0, the action's time is up); the rest is not done. A container that is gone is the target's own error.
 */
export async function runActions(
  actions: readonly NormalAction[],
  target: ProbeTarget,
  options: ActionOptions,
  signal: AbortSignal,
): Promise<ActionsResult> {
  const startedAt = options.clock.now();
  const outputs: ActionOutput[] = [];
  let done = 0;
  for (const [index, action] of actions.entries()) {
    const failed = (why: string, cause?: unknown) =>
      new RekindleError('not_ready', `${options.label}${actions.length > 1 ? ` ${index + 1} of ${actions.length}` : ''} failed: ${why}`, {
        cause,
      });
    try {
      const output = await within(options.clock, action.timeoutMs, signal, (inner) => run(action, target, inner));
      if (timeIsUp(output)) throw failed(`${describe(action)} was not done within ${action.timeoutMs} ms`);
      outputs.push(output);
      done += action.kind === 'requests' ? action.count : 1;
    } catch (error) {
      if (signal.aborted || isFinal(error) || (error instanceof RekindleError && error.code === 'not_ready')) throw error;
      throw failed(error instanceof Failure ? error.message : `${describe(action)}: ${inWords(error)}`, error);
    }
  }
  return { done, durationMs: options.clock.now() - startedAt, outputs };
}

/** The application's own failure, already in words. */
class Failure extends Error {}

async function run(action: NormalAction, target: ProbeTarget, signal: AbortSignal): Promise<ActionOutput> {
  if (action.kind === 'requests') return await sendAll(action, target, signal);
  const { status, output } = await target.exec(['/bin/sh', '-c', action.command], { timeoutMs: action.timeoutMs, signal });
  if (status !== 0) throw new Failure(commandFailure(status, output));
  return { sha256: createHash('sha256').update(output).digest('hex'), sizeBytes: Buffer.byteLength(output) };
}

/** `concurrency` senders take the next request each; the first failure stops them all. */
async function sendAll(
  { request, count, concurrency }: NormalAction & { kind: 'requests' },
  target: ProbeTarget,
  signal: AbortSignal,
): Promise<ActionOutput> {
  const answers: HttpAnswer[] = [];
  let next = 0;
  let stopped = false;
  const sender = async () => {
    while (next < count && !stopped) {
      const index = next++;
      const answer = await callHttp(target, request, MAX_ACTION_BODY_BYTES, signal);
      if (answer.status >= 400)
        throw new Failure(`${describeCall(request)} answered ${answer.status}${count > 1 ? ` (request ${index + 1} of ${count})` : ''}`);
      answers[index] = answer;
    }
  };
  try {
    await Promise.all(Array.from({ length: Math.min(concurrency, count) }, sender));
  } finally {
    stopped = true;
  }
  const hash = createHash('sha256');
  for (const answer of answers) hash.update(answer.sha256);
  return { sha256: hash.digest('hex'), sizeBytes: answers.reduce((sum, answer) => sum + answer.sizeBytes, 0) };
}

function describe(action: NormalAction): string {
  if (action.kind === 'command') return 'command';
  return `${describeCall(action.request)}${action.count > 1 ? ` (${action.count} times)` : ''}`;
}
