import { randomUUID } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { hostname } from 'node:os';
import type { AgentListener } from '../agent/events.ts';
import { nodeFacts, nodeTruth } from '../agent/node-truth.ts';
import { PeerServer } from '../agent/peer-server.ts';
import { ServiceSecret } from '../agent/service-secret.ts';
import { untilAborted } from '../lib/abort.ts';
import { monotonicClock, systemClock } from '../lib/clock.ts';
import { RekindleError } from '../lib/errors.ts';
import { runLoop } from '../lib/loop.ts';
import type { Metrics } from '../lib/metrics.ts';
import { JobQueues } from '../queue/job-queue.ts';
import { JobWorker } from '../queue/job-worker.ts';
import { connectRedis } from '../queue/redis.ts';
import { claimSeed } from '../queue/seed-claim.ts';
import { openSharedView } from '../queue/shared-view.ts';
import type { View } from '../queue/truth.ts';
import type { ContainerMaker } from '../workloads/host.ts';
import { type AgentPlace, openAgent } from './agent-engine.ts';
import { type Context, type JsonOption, print, say } from './context.ts';
import { openEngine, openLocalPlace } from './engine.ts';
import type { Listen } from './listen.ts';
import { countEvents, countJobs, openMetrics, viewFacts } from './role-metrics.ts';
import { openRoleServer } from './role-server.ts';

export type AgentCommand = JsonOption & {
  /** As in REDIS_URL; undefined: no service, only this machine's own containers. */
  readonly redis?: string | undefined;
  /** This node's name in the service. Default: the machine's host name. */
  readonly node?: string | undefined;
  /** Where other agents fetch snapshots: `host:port`. Default: a free port of loopback. */
  readonly peerListen?: string | undefined;
  readonly maxInstances?: number | undefined;
  /** Where health and metrics are; undefined: nowhere. */
  readonly listen?: Listen | undefined;
  /** A Kubernetes node: its pods instead of containers of our own. */
  readonly cluster?: boolean | undefined;
  /** With `cluster`: the last agent of its node, see `retire`; `keepSnapshots`: which leaves them there. */
  readonly retire?: boolean | undefined;
  readonly keepSnapshots?: boolean | undefined;
  /** How long jobs that run may take to end once the agent is told to. */
  readonly drainMs?: number | undefined;
};

const MAX_INSTANCES = 500;
/** Of an agent of a cluster, where other agents fetch snapshots. */
const PEER_PORT = 7655;
const HEALTH_PORT = 7656;
/** Longer than a restore may take by default. */
const DRAIN_MS = 15_000;

/** `rekindle agent`: the role, in the foreground until it is told to end. Live instances go on serving, and say hello again to the next agent. */
export async function runAgent(context: Context, command: AgentCommand): Promise<void> {
  if (command.retire) return (await import('./retire.ts')).retire(context, command);
  if (command.cluster && command.redis === undefined) throw new RekindleError('usage', 'an agent of a cluster needs REDIS_URL');
  const { hostIp } = context.config;
  const listen = command.listen ?? (command.cluster && hostIp !== undefined ? { host: hostIp, port: HEALTH_PORT } : undefined);
  if (command.redis !== undefined) return runNode(context, { ...command, listen, redis: command.redis });
  const { config, log, signal } = context;
  const metrics = openMetrics('agent');
  let started = false;
  await using _server = await openHealth(context, command, metrics, () => (started ? undefined : 'this agent is starting'));
  await using engine = await openEngine(config, { log, signal, listener: listenerOf(command, metrics), onPass: metrics.passed });
  started = true;
  say(`agent: serves the slots of this machine at ${engine.host.agentSocket}`);
  await untilAborted(signal);
  say('agent: ending; live instances go on');
}

/**
 * An agent that is a node of a service. Told to end, in this order:
 *  1. its truth says that it is leaving: nothing more is asked of it;
 *  2. the worker takes no more jobs; those that run have `drainMs` to end, restores above all;
 *  3. other agents can fetch nothing more; the engine stops as `openEngine` says; live instances go on serving;
 *  4. health and metrics, the shared view, then Redis. The truth is not taken back but left to its time to live: gateways go on sending requests to what is live,
 *     and the next agent of this node tells it anew.
 */
async function runNode(context: Context, command: AgentCommand & { readonly redis: string }): Promise<void> {
  const { config, log, signal } = context;
  const {
    peerListen = command.cluster ? `${config.hostIp}:${PEER_PORT}` : '127.0.0.1:0',
    maxInstances = MAX_INSTANCES,
    drainMs = DRAIN_MS,
  } = command;
  const node = command.node ?? config.node ?? hostname();
  // Disposed in the reverse order.
  await using redis = connectRedis({ url: command.redis, log });
  await using view = openSharedView({ redis, log, clock: monotonicClock });
  const metrics = openMetrics('agent');
  metrics.followRedis(() => redis.up);
  metrics.followView(() => viewFacts(view.view));
  let started = false;
  await using _server = await openHealth(context, command, metrics, () => {
    // Gates of a node of a cluster are opened when its agent is not ready, and without Redis it serves its slots all the same.
    if (!view.connected && !command.cluster) return 'Redis does not answer';
    return started ? undefined : 'this agent is starting';
  });
  await mkdir(config.stateDir, { recursive: true, mode: 0o700 });
  const secret = await ServiceSecret.open(
    { redis, stateDir: config.stateDir, log: log.child({ component: 'agent' }), clock: systemClock },
    signal,
  );
  const { specKey, peerToken } = secret;
  const onPull = metrics.pulled.bind(metrics);
  let machineClass = '';
  const claim = (specHash: string) => claimSeed({ redis, clock: monotonicClock }, { machineClass, specHash });
  const service = { specKey, peerToken, view: () => view.view, onPull, claimSeed: claim };
  await using queues = new JobQueues({ redis, log });
  await using place: AgentPlace<ContainerMaker> = command.cluster
    ? await (await import('./cluster-place.ts')).openClusterPlace(context, { node, view, onPass: metrics.passed })
    : await openLocalPlace(context);
  const told = listenerOf(command, metrics);
  const listener: AgentListener = (event) => {
    told(event);
    place.onEvent?.(event);
    // Where the next pods will want it, before they come; without a cluster the scaler asks for that.
    if (event.type === 'snapshot' && command.cluster)
      pullElsewhere(queues, view.view, { node, workload: event.workload, digest: event.digest });
  };
  await using engine = await openAgent(config, place, { log, signal, listener, onPass: metrics.passed, service });
  const { store, machine, agent } = engine;
  await using peers = await PeerServer.open({ store, log, token: peerToken, listen: peerListen, image: place.image });
  const facts = await nodeFacts({ name: node, agent: randomUUID(), machine, maxInstances });
  machineClass = facts.machineClass;
  let leaving = false;
  const teller = view.tellNode(() => {
    const said = nodeTruth(facts, { leaving, peer: peers.url }, engine.told);
    return place.truth?.(said) ?? said;
  });
  engine.onChange(() => teller.now());
  place.onChange?.(() => teller.now());
  place.expect?.(agent.expects.bind(agent));
  secret.onChange(() => agent.pool.rehash());
  let described = view.view.workloads;
  const stopFollowing = view.onChange(() => {
    if (view.view.workloads === described) return;
    described = view.view.workloads;
    agent.pool.compare();
    teller.now();
  });
  const ended = new AbortController();
  const agreeing = runLoop(secret, { log, clock: systemClock, onPass: metrics.passed }, ended.signal);
  const worker = JobWorker.start({
    ...{ node, redis, log, clock: systemClock, ...countJobs(metrics) },
    process: (job, until, progress) => agent.pool.do(job, until, progress),
  });
  started = true;
  say(`agent: node ${node} serves its slots at ${place.says}, and gives snapshots at ${peers.url}`);
  await untilAborted(signal);
  say('agent: ending; live instances go on');
  leaving = true;
  teller.now();
  agent.pool.leave();
  await worker.close(drainMs);
  stopFollowing();
  ended.abort();
  await agreeing.done;
}

/** The other nodes of its class that have not got it. A job that is lost only means that the snapshot comes when it is wanted. */
function pullElsewhere(queues: JobQueues, { nodes }: View, made: { node: string; workload: string; digest: string }): void {
  const { node: from, workload, digest } = made;
  const own = nodes.get(from)?.said.machineClass;
  for (const [node, { said }] of nodes) {
    if (node === from || said.leaving || (own !== undefined && said.machineClass !== own)) continue;
    if (!said.snapshots.some((one) => one.digest === digest)) void queues.add(node, { name: 'pull', data: { workload, digest, from } });
  }
}

async function openHealth(
  { log, signal }: Context,
  { listen }: AgentCommand,
  { registry }: Metrics,
  whyNot: () => string | undefined,
): Promise<AsyncDisposable | undefined> {
  if (listen === undefined) return undefined;
  const whyNotReady = () => (signal.aborted ? 'this agent is ending' : whyNot());
  const server = await openRoleServer({ registry, whyNotReady, log }, listen);
  say(`agent: health and metrics at ${server.url}`);
  return server;
}

function listenerOf({ json }: JsonOption, metrics: Metrics): AgentListener {
  const count = countEvents(metrics);
  return (event) => {
    count(event);
    if (json) print(JSON.stringify(event));
  };
}
