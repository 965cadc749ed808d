import { Value } from 'typebox/value';
import { RekindleError } from '../lib/errors.ts';
import { problemsOf } from './check.ts';
import { Workload, type WorkloadDescription } from './workload.ts';

/** Kubernetes takes 256 KiB of annotations per object; what we write has a few hundred bytes, and a policy's commands. */
const MAX_BYTES = 64 * 1024;

/** The text of a pod's annotation `rekindle.dev/workload`. */
export function formatDescription(description: WorkloadDescription): string {
  return JSON.stringify(description);
}

/** The reverse of {@link formatDescription}, for a text of anybody's: throws `config_invalid`; `where` names the pod. */
export function parseDescription(text: string, where: string): WorkloadDescription {
  const wrong = (says: string, cause?: unknown) =>
    new RekindleError('config_invalid', `the description of its workload in ${where} ${says}: it is not what the webhook wrote`, { cause });
  if (Buffer.byteLength(text) > MAX_BYTES) throw wrong(`has more than ${MAX_BYTES} bytes`);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw wrong('is not JSON', error);
  }
  const [problem] = problemsOf(Workload, value);
  if (problem !== undefined) throw wrong(`has ${problem.path.join('.')}, which ${problem.says}`);
  const full = Value.Default(Workload, value);
  if (!Value.Check(Workload, full)) throw wrong('does not fit its schema');
  return full;
}
