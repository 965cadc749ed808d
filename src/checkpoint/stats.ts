import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseMessage, splitImage } from './protobuf.ts';

/** CRIU's own statistics of a dump (`stats-dump`, criu/images/stats.proto). */
export type DumpStats = {
  /** From the first stopped task to the last resumed one. */
  readonly freezeMs: number;
  readonly pagesScanned: number;
  readonly pagesWritten: number;
};

/** Reads `stats-dump` in CRIU's work directory. */
export async function readDumpStats(workDir: string): Promise<DumpStats> {
  const entry = splitImage(await readFile(join(workDir, 'stats-dump'))).entries[0] ?? Buffer.alloc(0);
  const dump = parseMessage(entry).find(({ number }) => number === 1)?.value;
  const numbers = new Map((Buffer.isBuffer(dump) ? parseMessage(dump) : []).map(({ number, value }) => [number, Number(value)]));
  const microseconds = (numbers.get(1) ?? 0) + (numbers.get(2) ?? 0);
  return {
    freezeMs: microseconds / 1000,
    pagesScanned: numbers.get(5) ?? 0,
    pagesWritten: (numbers.get(7) ?? 0) + (numbers.get(14) ?? 0),
  };
}
