import { randomUUID } from 'node:crypto';
import { Access } from '../cluster/access.ts';
import { ApiServiceKeeper } from '../cluster/api-service.ts';
import { keepCertificates } from '../cluster/certificates.ts';
import type { FrontProxy } from '../cluster/front-proxy.ts';
import { Kube } from '../cluster/kube.ts';
import { orAborted } from '../lib/abort.ts';
import { monotonicClock, systemClock } from '../lib/clock.ts';
import { type Loop, runLoop } from '../lib/loop.ts';
import { JobQueues } from '../queue/job-queue.ts';
import { Leader } from '../queue/leader.ts';
import { connectRedis } from '../queue/redis.ts';
import { openSharedView } from '../queue/shared-view.ts';
import { ClusterPods, countedPods } from '../scaler/cluster-pods.ts';
import { openExternalMetrics } from '../scaler/external-metrics.ts';
import { openKedaScaler } from '../scaler/keda.ts';
import { Loads } from '../scaler/loads.ts';
import { GROUP, VERSION } from '../scaler/metrics-api.ts';
import { Resizing } from '../scaler/resizing.ts';
import { Scaler } from '../scaler/scaler.ts';
import { type Context, type JsonOption, print, say } from './context.ts';
import type { Listen } from './listen.ts';
import { openMetrics, viewFacts } from './role-metrics.ts';
import { openRoleServer } from './role-server.ts';

export type ClusterScalerOptions = JsonOption & {
  /** Of Redis, see `parseRedisUrl`. */
  readonly redis: string;
  /** Where health and metrics are. */
  readonly listen?: Listen | undefined;
  /** Where the API server asks for external metrics, and KEDA for its own. */
  readonly metricsListen?: Listen | undefined;
  readonly kedaListen?: Listen | undefined;
};

const everywhere = (port: number): Listen => ({ host: '0.0.0.0', port });
const HEALTH = everywhere(7080);
const METRICS = everywhere(7444);
const KEDA = everywhere(7445);
/** The Service of the scalers, and the Secret with the certificate that they share. */
const SERVICE = 'rekindle-scaler';
const SECRET = 'rekindle-metrics-tls';

/**
 * `rekindle scaler --cluster`: the role in Kubernetes. Workloads are what the cluster's pods describe. Any number may run: each serves metrics, one leads.
 *
 * Order of stopping: (1) `/readyz` says so, (2) and the servers of metrics close: their clients ask the other replica. (3) The loops end after the pass that
 * runs. (4) What was told is taken back, except the workloads, and the lease is given back. (5) Queues, health, view, Redis.
 */
export async function runClusterScaler({ config, log, signal }: Context, options: ClusterScalerOptions): Promise<void> {
  const clock = monotonicClock;
  await using stack = new AsyncDisposableStack();
  const ended = new AbortController();
  const redis = stack.use(connectRedis({ url: options.redis, log }));
  const view = stack.use(openSharedView({ redis, log, clock }));
  const metrics = openMetrics('scaler');
  metrics.followRedis(() => redis.up);
  metrics.followView(() => viewFacts(view.view));
  let starting: string | undefined = 'the API server has not told the pods yet';
  const whyNotReady = () =>
    signal.aborted ? 'this scaler is ending' : (starting ?? (view.connected ? undefined : 'Redis does not answer'));
  const health = stack.use(await openRoleServer({ registry: metrics.registry, whyNotReady, log }, options.listen ?? HEALTH));
  say(`scaler: health and metrics at ${health.url}`);

  const kube = Kube.open({ clock: systemClock, log: log.child({ component: 'cluster' }) });
  const pods = new ClusterPods({ cluster: kube, log }, ended.signal);
  stack.defer(() => ended.abort());
  await orAborted(pods.synced, signal);

  const queues = stack.use(new JobQueues({ redis, log }));
  const loops: Loop[] = [];
  const leader = stack.use(new Leader({ redis, log, clock, onChange: () => wake() }));
  const wake = () => {
    for (const loop of loops) loop.wake();
  };
  metrics.followLeader(() => leader.leads);
  const deps = { view, leader, log, clock };
  const resizing = new Resizing({ ...deps, cluster: kube, pods }, ended.signal);
  const scaler = stack.use(
    new Scaler({
      ...deps,
      id: randomUUID(),
      queues,
      workloads: () => pods.workloads,
      full: () => resizing.full,
      onPlan: (ms, actions) => {
        const words = actions.map((action) => action.do);
        metrics.planned(ms / 1000, words);
      },
    }),
  );
  loops.push(runLoop(scaler, { log, clock, onPass: metrics.passed }, signal));
  loops.push(runLoop(resizing, { log, clock, onPass: metrics.passed }, signal));
  stack.defer(view.onChange(wake));
  stack.defer(pods.onChange(wake));

  const loads = new Loads({ view, pods: () => countedPods(pods), clock });
  const look = runLoop(loads, { log, clock, onPass: metrics.passed }, ended.signal);
  starting = 'there is no certificate yet';
  const namespace = config.namespace ?? kube.namespace;
  const names = [`${SERVICE}.${namespace}.svc`, `${SERVICE}.${namespace}.svc.cluster.local`];
  const certificates = await keepCertificates(
    { cluster: kube, clock: systemClock, log },
    { namespace, secretName: SECRET, names },
    ended.signal,
  );
  const access = new Access({ cluster: kube, clock });
  const external = stack.use(
    await openExternalMetrics({ loads, access, log, now: systemClock.now }, certificates.current(), options.metricsListen ?? METRICS),
  );
  const keda = stack.use(await openKedaScaler({ loads, log, clock }, options.kedaListen ?? KEDA));
  let proxy: FrontProxy | undefined;
  const use = () => external.use(certificates.current(), proxy);
  const keeper = new ApiServiceKeeper(
    {
      cluster: kube,
      caBundle: certificates.caBundle,
      onProxy: (known) => {
        if (JSON.stringify(known) === JSON.stringify(proxy)) return;
        proxy = known;
        use();
      },
      log,
    },
    { name: `${VERSION}.${GROUP}`, service: { namespace, name: SERVICE } },
  );
  const keeping = runLoop(keeper, { log, clock: systemClock, onPass: metrics.passed }, ended.signal);
  stack.defer(
    certificates.onChange(() => {
      use();
      keeping.wake();
    }),
  );
  starting = undefined;

  const url = `${external.url}/apis/${GROUP}/${VERSION}`;
  if (options.json) print(JSON.stringify({ workloads: pods.workloads.map(({ name }) => name), redis: redis.name }));
  say(`scaler: external metrics at ${url}, KEDA's at port ${keda.port}; jobs go through ${redis.name}`);
  await Promise.all(loops.map(({ done }) => done));
  say('scaler: ending; instances stay as they are');
  ended.abort();
  await Promise.all([look.done, keeping.done, certificates.done]);
}
