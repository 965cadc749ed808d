import { createHash, randomUUID } from 'node:crypto';
import { monotonicClock } from '../lib/clock.ts';
import { toRekindleError } from '../lib/errors.ts';
import { runLoop } from '../lib/loop.ts';
import type { Action } from '../pool/actions.ts';
import { JobQueues } from '../queue/job-queue.ts';
import { Leader } from '../queue/leader.ts';
import { connectRedis } from '../queue/redis.ts';
import { openSharedView } from '../queue/shared-view.ts';
import type { WorkloadTruth } from '../queue/truth.ts';
import { Scaler } from '../scaler/scaler.ts';
import type { WorkloadSpec } from '../workloads/workload.ts';
import { type Context, type JsonOption, print, readWorkloads, say } from './context.ts';
import type { Listen } from './listen.ts';
import { openMetrics, viewFacts } from './role-metrics.ts';
import { openRoleServer } from './role-server.ts';

export type ScalerOptions = JsonOption & {
  /** rekindle.yaml. */
  readonly file: string;
  /** Of Redis, see `parseRedisUrl`. */
  readonly redis: string;
  /** Where health and metrics are; undefined: nowhere. */
  readonly listen?: Listen | undefined;
};

/**
 * `rekindle scaler`: the role, in the foreground until it is told to end. Any number may run: one leads. A SIGHUP has the file read again; one that
 * is wrong changes nothing, and the log says what is wrong. Throws `config_invalid` for a wrong file or URL at the start.
 *
 * Order of stopping: there is no endpoint and nothing to drain, since what was decided is in the queues. (3) The loop ends after the pass
 * that runs. (4) What was told is taken back, except the workloads, and the lease is given back, so that another leads at once. (5) Queues, health and metrics, view, Redis.
 */
export async function runScaler({ log, signal }: Context, { file, redis: url, listen, json }: ScalerOptions): Promise<void> {
  const clock = monotonicClock;
  let workloads = (await readWorkloads(file)).map(truthOf);
  await using stack = new AsyncDisposableStack();
  const redis = stack.use(connectRedis({ url, log }));
  const view = stack.use(openSharedView({ redis, log, clock }));
  const metrics = openMetrics('scaler');
  metrics.followRedis(() => redis.up);
  metrics.followView(() => viewFacts(view.view));
  if (listen !== undefined) {
    const whyNotReady = () => (signal.aborted ? 'this scaler is ending' : view.connected ? undefined : 'Redis does not answer');
    const server = stack.use(await openRoleServer({ registry: metrics.registry, whyNotReady, log }, listen));
    say(`scaler: health and metrics at ${server.url}`);
  }
  const queues = stack.use(new JobQueues({ redis, log }));
  const leader = stack.use(new Leader({ redis, log, clock, onChange: () => loop.wake() }));
  metrics.followLeader(() => leader.leads);
  const id = randomUUID();
  const onPlan = (ms: number, actions: readonly Action[]) => {
    const words = actions.map((action) => action.do);
    metrics.planned(ms / 1000, words);
  };
  const scaler = stack.use(new Scaler({ id, view, queues, leader, workloads: () => workloads, log, clock, onPlan }));
  const loop = runLoop(scaler, { log, clock, onPass: metrics.passed }, signal);
  stack.defer(view.onChange(() => loop.wake()));

  const reload = async () => {
    try {
      workloads = (await readWorkloads(file)).map(truthOf);
      log.info({ file, workloads: workloads.length }, 'file read again');
      loop.wake();
    } catch (error) {
      log.error({ file, problem: toRekindleError(error).message }, 'file is wrong: the workloads stay as they were');
    }
  };
  const onHangup = () => void reload();
  process.on('SIGHUP', onHangup);
  stack.defer(() => void process.off('SIGHUP', onHangup));

  if (json) print(JSON.stringify({ workloads: workloads.map(({ name }) => name), redis: redis.name }));
  say(`scaler: keeps ${workloads.map(({ name }) => name).join(', ')}; jobs go through ${redis.name}`);
  await loop.done;
  say('scaler: ending; instances stay as they are');
}

/** A workload as everybody should have it. Of the pool only what instances are made with makes another revision, since slots of an old one go. */
export function truthOf({ name, container, checkpoint, restore, pool }: WorkloadSpec): WorkloadTruth {
  const made = { container, checkpoint, restore, port: pool.port, stateful: pool.stateful };
  const revision = createHash('sha256').update(JSON.stringify(made)).digest('hex');
  return { name, revision, spec: { container, checkpoint, restore, pool } };
}
