import { readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import type { Container } from '../../src/workloads/host.ts';
import type { TestEngine } from '../../test/fixtures/engine.ts';
import { chargedBytes, mergingCpuSeconds } from '../lib/memory.ts';
import { service } from './service.ts';

const HALF = 10;
const SETTLE_TIMEOUT_MS = 90_000;

export type Merged = {
  /** Bytes that one more clone costs before anything is merged, and when no more is. */
  readonly eagerBytes: number;
  readonly marginalBytes: number;
  /** From the last clone being live until nothing more merged, and the kernel's processor time for it. */
  readonly settleSeconds: number;
  readonly cpuSeconds: number;
  readonly clones: number;
};

/** Clones of the service that share memory: what the second half of them costs once the first has settled. */
export async function mergeClones(engine: TestEngine): Promise<Merged> {
  const [workload, eager] = [service({ mergeMemory: true }), service({ mergeMemory: false })];
  const alone = await engine.clone(eager, 'eager');
  const eagerBytes = await chargedBytes(alone.pid);
  const clones: Container[] = [];
  const half = async () => {
    for (let i = 0; i < HALF; i++) clones.push(await engine.clone(workload, `merged-${clones.length}`));
    const started = performance.now();
    const cpu = await mergingCpuSeconds();
    const settledAt = await settled();
    const charged = await Promise.all(clones.map(({ pid }) => chargedBytes(pid)));
    return {
      bytes: charged.reduce((sum, bytes) => sum + bytes, 0),
      seconds: (settledAt - started) / 1000,
      cpu: (await mergingCpuSeconds()) - cpu,
    };
  };
  const first = await half();
  const second = await half();
  await Promise.all([alone, ...clones].map(({ uid }) => engine.engine.host.remove(uid, { graceMs: 0 })));
  return {
    eagerBytes,
    marginalBytes: (second.bytes - first.bytes) / HALF,
    settleSeconds: second.seconds,
    cpuSeconds: second.cpu,
    clones: clones.length,
  };
}

/** Waits until the agent has stopped the kernel's scans, because nothing more merges; resolves with when sharing last grew noticeably. */
async function settled(): Promise<number> {
  const until = performance.now() + SETTLE_TIMEOUT_MS;
  const read = async (name: string): Promise<number> => Number(await readFile(`/sys/kernel/mm/ksm/${name}`, 'utf8'));
  let [shared, grownAt] = [0, performance.now()];
  do {
    const now = await read('pages_sharing');
    if (now > shared * 1.01) [shared, grownAt] = [now, performance.now()];
    if (performance.now() > until) throw new Error('merging did not settle');
    await delay(100);
  } while ((await read('run')) !== 0);
  return grownAt;
}
