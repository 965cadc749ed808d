import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type ExecResult, exec, mustExec } from '../../src/lib/exec.ts';
import { ask, firstAnswer } from '../lib/answer.ts';
import type { Sample } from './samples.ts';

/** Milliseconds from asking for an instance to its first answer; `fromHelloMs` leaves out the making of the container. */
export type Round = { readonly answerMs: number; readonly fromHelloMs?: number };

/** One way to get one more instance of a warmed application. Rounds of several are run in turn. */
export interface Contender extends AsyncDisposable {
  readonly name: string;
  /** Starts, warms and checkpoints the application. */
  prepare(): Promise<void>;
  /** One more instance, timed, and removed again. */
  round(): Promise<Round>;
}

export const ANSWER_TIMEOUT_MS = 60_000;

/** Where a process of the machine's own network answers. */
export const localUrl = (sample: Sample, path: string): string => `http://127.0.0.1:${sample.port}${path}`;

/** As `firstAnswer`, but rejects as soon as the program that is to bring the application there has failed. */
export function answerThrough(sample: Sample, program: Promise<ExecResult>, log?: string): Promise<number> {
  const failed = new AbortController();
  void program.then(
    async ({ status, stderr }) => {
      if (status === 0) return;
      const lines = log === undefined ? '' : await readFile(log, 'utf8').catch(String);
      failed.abort(new Error(`a restore of ${sample.name} ended with ${status}: ${stderr}${lines}`));
    },
    (error: unknown) => failed.abort(error),
  );
  return firstAnswer(localUrl(sample, '/healthz'), ANSWER_TIMEOUT_MS, failed.signal);
}

/** What the workload's readiness and warm-up do, for containers that are not ours. */
export async function warmUp(sample: Sample): Promise<void> {
  await firstAnswer(localUrl(sample, '/healthz'), ANSWER_TIMEOUT_MS);
  await ask(localUrl(sample, sample.warmPath), sample.warmCount);
}

/** What runc and podman tell criu by this annotation (a file of options): as we do, no firewall, and connections are closed rather than carried. */
export const CRIU_CONFIG = 'org.criu.config';

export async function writeCriuConfig(dir: string): Promise<string> {
  const file = join(dir, 'criu.conf');
  await writeFile(file, 'network-lock skip\ntcp-close\nskip-in-flight\n');
  return file;
}

/** The machine's root below an overlay that keeps what is written in memory, as a `rootfs: host` container has it. Prepare `upper` before. */
export async function mountRoot(dir: string): Promise<string> {
  const root = join(dir, 'root');
  await mkdir(root, { recursive: true });
  const options = `lowerdir=/,upperdir=${join(dir, 'fresh/upper')},workdir=${join(dir, 'fresh/work')}`;
  await mustExec(exec, 'mount', ['-t', 'overlay', '-o', options, 'overlay', root]);
  return root;
}

export async function makeUpper(dir: string): Promise<string> {
  const fresh = join(dir, 'fresh');
  await mkdir(fresh, { recursive: true });
  await mustExec(exec, 'mount', ['-t', 'tmpfs', '-o', 'mode=700', 'rekindle-load', fresh]);
  await Promise.all(['upper', 'work'].map((name) => mkdir(join(fresh, name), { mode: 0o755 })));
  return join(fresh, 'upper');
}

export async function unmountRoot(dir: string): Promise<void> {
  await exec('umount', ['--lazy', '--', join(dir, 'root'), join(dir, 'fresh')], { timeoutMs: 10_000 });
}
