import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { Restorer } from '../../src/agent/restorer.ts';
import { RestoreHelpers } from '../../src/checkpoint/restore-helpers.ts';
import type { CheckpointTools } from '../../src/checkpoint/tools.ts';
import { openMachine } from '../../src/commands/engine.ts';
import { systemClock } from '../../src/lib/clock.ts';
import { spawnDuplex } from '../../src/lib/exec.ts';
import { silentLog } from '../../src/lib/log.ts';
import { newNonce } from '../../src/slots/prove.ts';
import type { SlotConnection } from '../../src/slots/slot-connection.ts';
import { SlotServer } from '../../src/slots/slot-server.ts';
import type { TestEngine } from '../../test/fixtures/engine.ts';
import { largePages } from '../lib/large-pages.ts';
import { childrenOf, processMemory } from '../lib/memory.ts';
import { median } from '../lib/stats.ts';
import { service } from './service.ts';

const CLONES = 20;
const BURSTS = 3;

export type Burst = {
  readonly seconds: number;
  readonly perSecondPerCore: number;
  readonly clones: number;
  readonly privateBytes: number;
  readonly pssBytes: number;
};

/**
 * Restores into containers that stand ready, all at once, and the median of a few such bursts: the rate of restores alone, which an agent's of containers being made would not show.
 * The engine's agent is stopped for it, and its place taken.
 */
export async function burst(engine: TestEngine, tools: CheckpointTools, digest: string): Promise<Burst> {
  const workload = service({ mergeMemory: false });
  await engine.engine[Symbol.asyncDispose]();
  const { host, store } = await openMachine(engine.config, silentLog);
  const found = await store.get(digest);
  const signal = AbortSignal.timeout(120_000);
  const waiting = new Map<string, SlotConnection>();
  const hold = async (connection: SlotConnection): Promise<void> => {
    // A slot that was asked for its proof waits for a decision.
    await connection.prove(newNonce(), signal);
    waiting.set(connection.hello.uid, connection);
  };
  await using server = new SlotServer({
    unixPath: host.agentSocket,
    onConnection: (connection) => void hold(connection),
    clock: systemClock,
    log: silentLog,
  });
  await server.listen();
  await using large = largePages();
  await using helpers = new RestoreHelpers({ helper: tools.helper, spares: availableParallelism() });
  helpers.prepare();
  const restorer = new Restorer({
    host,
    tools: { ...tools, helpers },
    largePages: large,
    clock: systemClock,
    dial: { spawnDuplex, connect: join(engine.config.buildDir, 'agent/connect') },
    workDir: join(engine.config.runDir, 'work'),
    concurrency: availableParallelism(),
  });
  const connected = async (uid: string): Promise<SlotConnection> => {
    for (;;) {
      const connection = waiting.get(uid);
      if (connection !== undefined) return connection;
      await systemClock.sleep(5, signal);
    }
  };
  const once = async (name: string) => {
    const slots = [];
    for (let i = 0; i < CLONES; i++) slots.push(await host.create(workload, { name: `${name}-${i}`, signal }));
    const connections = await Promise.all(slots.map(({ uid }) => connected(uid)));
    const started = performance.now();
    await Promise.all(
      slots.map(async (slot, i) => {
        const connection = connections[i];
        if (connection === undefined) throw new Error(`${slot.name} said no hello`);
        await restorer.restore(slot, connection, found, signal);
        await restorer.enliven(slot, connection, signal);
      }),
    );
    const seconds = (performance.now() - started) / 1000;
    const [application] = await childrenOf(slots[0]?.pid ?? 0);
    const memory = await processMemory(application ?? 0);
    await Promise.all(slots.map(({ uid }) => host.remove(uid, { graceMs: 0 })));
    return { seconds, ...memory };
  };
  const bursts: Awaited<ReturnType<typeof once>>[] = [];
  for (let i = 0; i < BURSTS; i++) bursts.push(await once(`burst-${i}`));
  const of = (what: 'seconds' | 'privateBytes' | 'pssBytes') => median(bursts.map((one) => one[what]));
  const seconds = of('seconds');
  const perSecondPerCore = CLONES / seconds / availableParallelism();
  return { clones: CLONES, seconds, perSecondPerCore, privateBytes: of('privateBytes'), pssBytes: of('pssBytes') };
}
