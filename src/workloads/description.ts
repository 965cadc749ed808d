import { Value } from 'typebox/value';
import { RekindleError } from '../lib/errors.ts';
import { type Problem, problemsOf } from './check.ts';
import { brokenAnywhere } from './rules.ts';
import { Workload, type WorkloadDescription } from './workload.ts';

/** Kubernetes takes 256 KiB of annotations per object; what we write has a few hundred bytes, and a policy's commands. */
const MAX_BYTES = 64 * 1024;

/** The text of a pod's annotation `rekindle.dev/workload`. Throws `config_invalid` where agents would not take it. */
export function formatDescription(description: WorkloadDescription): string {
  const text = JSON.stringify(description);
  if (Buffer.byteLength(text) > MAX_BYTES)
    throw new RekindleError(
      'config_invalid',
      `the description of its workload has more than ${MAX_BYTES} bytes: shorten the policy's commands`,
    );
  return text;
}

/** Descriptions that were read last, which all pods of a workload share: of this whole process, as what a text means depends on nothing else. */
const READ_LAST = 256;
/** Whoever may make pods can write longer ones, as many as they like. */
const READ_CHARS = 8 * 1024;
const read = new Map<string, WorkloadDescription>();

/** The reverse of {@link formatDescription}, for a text of anybody's: throws `config_invalid`; `where` names the pod. The same object for the same text. */
export function parseDescription(text: string, where: string): WorkloadDescription {
  const description = read.get(text) ?? parse(text, where);
  if (text.length > READ_CHARS) return description;
  read.delete(text);
  read.set(text, description);
  const [oldest] = read.keys();
  if (read.size > READ_LAST && oldest !== undefined) read.delete(oldest);
  return description;
}

function parse(text: string, where: string): WorkloadDescription {
  const wrong = (says: string, cause?: unknown) =>
    new RekindleError('config_invalid', `the description of its workload in ${where} ${says}: it is not what the webhook wrote`, { cause });
  if (Buffer.byteLength(text) > MAX_BYTES) throw wrong(`has more than ${MAX_BYTES} bytes`);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw wrong('is not JSON', error);
  }
  const refuse = ([problem]: readonly Problem[]) => {
    if (problem !== undefined) throw wrong(`has ${problem.path.join('.')}, which ${problem.says}`);
  };
  refuse(problemsOf(Workload, value));
  const full = Value.Default(Workload, value);
  if (!Value.Check(Workload, full)) throw wrong('does not fit its schema');
  refuse(brokenAnywhere(full));
  return full;
}
