import { getHeapSpaceStatistics, setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import type { WorkloadSpec } from '../../src/workloads/workload.ts';
import type { TestEngine } from '../../test/fixtures/engine.ts';
import { type Census, census } from '../lib/leftovers.ts';

export type Soaked = {
  readonly before: Census;
  readonly after: Census;
  /** Since the first tenth of the rounds, in which V8 makes its heap as large as this work wants it. */
  readonly rssGrowthBytes: number;
  /** What each round of the second half left in the heap after garbage was collected. The first half fills what is bounded: timers of a minute, caches. */
  readonly keptBytesPerRound: number;
  readonly readyMs: readonly number[];
};

/** Rounds before the first count: what is opened once, and kept, is open by then. */
const FIRST = 5;
/** Spare helpers, each with its pipes, are made a moment after a restore. */
const SPARES_MADE_MS = 500;

/** Restores one clone after the other, each removed before the next, and counts what there is before and after. Throws when one starts cold. */
export async function soak(engine: TestEngine, workload: WorkloadSpec, rounds: number, onRound?: (round: number) => void): Promise<Soaked> {
  const uids = new Set<string>();
  const readyMs: number[] = [];
  const round = async (name: string): Promise<void> => {
    const { container, state } = await engine.start(workload, name);
    uids.add(container.uid);
    await engine.engine.host.remove(container.uid, { graceMs: 0 });
    if (state.at !== 'live') throw new Error(`${name} was not restored: ${state.reason}`);
    readyMs.push(state.timing.readyMs ?? state.timing.restoredMs);
    // What the engine tells of itself is the listener's to keep; a soak's does not.
    engine.events.length = 0;
  };
  await engine.seed(workload, 'soak-seed');
  for (let i = 0; i < FIRST; i++) await round(`soak-first-${i}`);
  readyMs.length = 0;
  await new Promise((resolve) => setTimeout(resolve, SPARES_MADE_MS));
  const before = await settledCensus(engine, uids);
  const tenth = Math.floor(rounds / 10);
  let rss = 0;
  const half = Math.floor(rounds / 2);
  let heapAtHalf = 0;
  for (let i = 0; i < rounds; i++) {
    if (i === tenth) {
      await liveHeapBytes();
      rss = process.memoryUsage().rss;
    }
    if (i === half) heapAtHalf = await liveHeapBytes();
    await round(`soak-${i}`);
    onRound?.(i);
  }
  const keptBytesPerRound = ((await liveHeapBytes()) - heapAtHalf) / (rounds - half);
  // Before counting, which takes memory of its own.
  const rssGrowthBytes = process.memoryUsage().rss - rss;
  await new Promise((resolve) => setTimeout(resolve, SPARES_MADE_MS));
  const after = await settledCensus(engine, uids, before);
  return { before, after, rssGrowthBytes, keptBytesPerRound, readyMs };
}

/** What V8 compiles while the program runs, and throws away again. */
const COMPILED = ['code_space', 'code_large_object_space', 'trusted_space', 'trusted_large_object_space'];

/** The heap without garbage and without code; some garbage takes a turn of the event loop to become that. */
async function liveHeapBytes(): Promise<number> {
  setFlagsFromString('--expose-gc');
  const collect: unknown = runInNewContext('gc');
  if (typeof collect !== 'function') throw new Error('this Node has no gc');
  for (let i = 0; i < 4; i++) {
    collect();
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return getHeapSpaceStatistics().reduce((sum, space) => sum + (COMPILED.includes(space.space_name) ? 0 : space.space_used_size), 0);
}

/** The lowest of each within three seconds: the kernel takes a network down, and sockets are closed, a moment after the container has gone. */
async function settledCensus(engine: TestEngine, uids: ReadonlySet<string>, wanted?: Census): Promise<Census> {
  const until = performance.now() + 3_000;
  let lowest = await census(engine.config, uids);
  while (performance.now() < until) {
    if (wanted !== undefined && keysOf(wanted).every((key) => lowest[key] <= wanted[key])) return lowest;
    await new Promise((resolve) => setTimeout(resolve, 200));
    const now = await census(engine.config, uids);
    const least = lowest;
    lowest = { ...now, ...Object.fromEntries(keysOf(now).map((key) => [key, Math.min(now[key], least[key])])) };
  }
  return lowest;
}

export const keysOf = (of: Census): (keyof Census)[] => Object.keys(of).filter((key): key is keyof Census => key in of);
