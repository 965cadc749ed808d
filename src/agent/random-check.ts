import { processTree } from '../checkpoint/process.ts';
import type { Exec } from '../lib/exec.ts';

/** 64 random bytes that a process drew from one of its sources, in hexadecimal. */
export type RandomDraw = { readonly source: string; readonly bytes: string };

/**
 * Makes each process of a throw-away clone draw 64 bytes from every random source inside it that can be reached from outside (OpenSSL's).
 * Never on an instance that serves: the process is stopped and made to call a function.
 */
export async function drawRandom(
  deps: { readonly exec: Exec; readonly randomProbe: string },
  pid: number,
  signal: AbortSignal,
): Promise<RandomDraw[]> {
  const pids = processTree(pid);
  const { stdout } = await deps.exec(deps.randomProbe, pids.map(String), { timeoutMs: 10_000, signal });
  return stdout.split('\n').flatMap((line) => {
    const draw = line === '' ? undefined : parseDraw(line);
    // The n-th process of one clone is the n-th of the other: both come from the same tree.
    return draw === undefined ? [] : [{ source: `${draw.source} of process ${pids.indexOf(draw.pid) + 1}`, bytes: draw.bytes }];
  });
}

/** The sources that gave two clones the same bytes. */
export function sharedRandom(one: readonly RandomDraw[], other: readonly RandomDraw[]): string[] {
  const theirs = new Map(other.map(({ source, bytes }) => [source, bytes]));
  return one.filter(({ source, bytes }) => theirs.get(source) === bytes).map(({ source }) => source);
}

function parseDraw(line: string): { pid: number; source: string; bytes: string } | undefined {
  const parsed: unknown = JSON.parse(line);
  if (typeof parsed !== 'object' || parsed === null) return undefined;
  const [pid, source, bytes]: unknown[] = ['pid', 'source', 'bytes'].map((key) => Reflect.get(parsed, key));
  return typeof pid === 'number' && typeof source === 'string' && typeof bytes === 'string' ? { pid, source, bytes } : undefined;
}
