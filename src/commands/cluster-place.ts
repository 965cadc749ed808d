import { join } from 'node:path';
import { waits } from '../agent/container-process.ts';
import { NodePods } from '../agent/node-pods.ts';
import { PodReports } from '../agent/pod-reports.ts';
import { addressesOf } from '../checkpoint/addresses.ts';
import { remotePlaces } from '../checkpoint/mountinfo.ts';
import { PodGroups } from '../cluster/cgroups.ts';
import { Cri } from '../cluster/cri.ts';
import { hearOfContainers } from '../cluster/cri-news.ts';
import { ClusterHost } from '../cluster/host.ts';
import { Kube } from '../cluster/kube.ts';
import { TrialMaker } from '../cluster/trial.ts';
import { volumesOf, whyFilled } from '../cluster/volumes.ts';
import { monotonicClock, systemClock } from '../lib/clock.ts';
import { RekindleError } from '../lib/errors.ts';
import { exec } from '../lib/exec.ts';
import { type Loop, type LoopDeps, runLoop } from '../lib/loop.ts';
import { installSlotFiles } from '../local/slot-files.ts';
import type { SharedView } from '../queue/truth.ts';
import { SnapshotStore } from '../snapshots/store.ts';
import { AGENT_PORT } from '../workloads/kubernetes.ts';
import type { AgentPlace, Expectation } from './agent-engine.ts';
import type { Context } from './context.ts';
import { mountRunDir } from './engine.ts';

/** A process in the node's own namespaces, for one with the node's PIDs, and where the node's files are. */
const NODE_INIT = 1;
export const NODE_ROOT = `/proc/${NODE_INIT}/root`;
/** A slot waits for it. */
const HOLD_BACK_MS = 2_000;

/**
 * This Kubernetes node as the place of an agent: its opted-in pods, whose slots come by TCP to the node's address, and what is told to Kubernetes of them.
 * Throws `config_invalid` without the node's name and address, `machine_unsupported` without a container runtime.
 */
export async function openClusterPlace(
  { config, log, signal }: Context,
  options: { readonly node: string; readonly view: Pick<SharedView, 'view'>; readonly onPass: NonNullable<LoopDeps['onPass']> },
): Promise<AgentPlace<ClusterHost>> {
  const { hostIp, runDir, stateDir, buildDir } = config;
  if (hostIp === undefined)
    throw new RekindleError(
      'config_invalid',
      'an agent of a cluster needs REKINDLE_HOST_IP, the address at which pods reach their node (status.hostIP)',
    );
  await mountRunDir(runDir);
  const slotDir = join(runDir, 'slot');
  await installSlotFiles(join(buildDir, 'slot'), slotDir);
  await using stack = new AsyncDisposableStack();
  const kube = Kube.open({ clock: systemClock, log: log.child({ component: 'cluster' }) });
  const cri = stack.use(await Cri.open({ clock: monotonicClock, root: NODE_ROOT }));
  const ended = new AbortController();
  stack.defer(() => ended.abort());
  const trials = await TrialMaker.open({
    exec,
    clock: monotonicClock,
    log: log.child({ component: 'trials' }),
    cri,
    remotePlaces,
    nodeInit: NODE_INIT,
    mounter: join(buildDir, 'agent', 'trial-mounts'),
    // The one that made the seed: each masks /proc, and makes places for mounts, in its own way, and a trial must have no more rights.
    runtime: config.runtime ?? ((await cri.version(signal)).startsWith('cri-o') ? 'crun' : 'runc'),
    stateDir: join(stateDir, 'trials'),
    runDir: join(runDir, 'trials'),
    slotDir,
  });
  const groups = PodGroups.of(NODE_INIT, () => monotonicClock.now());
  let reporting: Loop | undefined;
  // Before there is an agent nobody knows.
  let expected: Expectation = () => undefined;
  const reports = new PodReports({
    cluster: kube,
    log: log.child({ component: 'pods' }),
    clock: monotonicClock,
    node: options.node,
    wake: () => reporting?.wake(),
  });
  const host = new ClusterHost(
    {
      cluster: kube,
      cri,
      trials,
      volumesOf,
      remotePlaces,
      // What an application has written says nothing.
      whyFilled: (pod, container, pid, remote) => (waits(pid) ? whyFilled(pod, container, pid, remote) : undefined),
      addressesOf,
      // Nobody else would open its gate before the deadline.
      undescribed: (pod, reason) =>
        reports.onEvent({ type: 'instance', ...pod, state: { at: 'cold', why: 'failed', reason, code: 'config_invalid' } }),
      expects: ({ uid, name, workload, revision }) => {
        const snapshot = expected({ workload, revision });
        if (snapshot === undefined) return false;
        reports.onEvent({ type: 'instance', uid, name, workload: workload.name, state: { at: 'expected', snapshot } });
        return true;
      },
      groups,
      node: options.node,
      nodeRoot: NODE_ROOT,
      poolDir: join(runDir, 'pools'),
      clock: monotonicClock,
      log: log.child({ component: 'cluster' }),
    },
    ended.signal,
  );
  await Promise.race([
    host.synced,
    new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason), { once: true })),
  ]);
  await host.adoptPools();
  const store = new SnapshotStore({
    dir: join(stateDir, 'snapshots'),
    log: log.child({ component: 'snapshots' }),
    clock: systemClock,
    exec,
  });

  let changed = () => {};
  const pods = new NodePods({
    host,
    clock: monotonicClock,
    gateways: () => gatewayAddresses(options.view),
    // A gate that is shut has nobody else to open it before the deadline.
    unseen: ({ uid, name, workload }, reason) => {
      if (host.isUntold(uid)) reports.onEvent({ type: 'instance', uid, name, workload: workload.name, state: { at: 'cold', reason } });
    },
    changed: () => changed(),
  });
  const loopDeps = { log, clock: systemClock, onPass: options.onPass };
  reporting = runLoop(reports, loopDeps, ended.signal);
  const hearing = hearOfContainers({ cri, clock: monotonicClock, log: log.child({ component: 'cluster' }) }, host.onMade, ended.signal);
  const counting = runLoop(pods, loopDeps, ended.signal);
  stack.defer(() => Promise.all([reporting?.done, counting.done, hearing]).then(() => undefined));
  stack.defer(() => ended.abort());
  const whole = stack.move();
  return {
    host,
    store,
    listen: { unixPath: join(slotDir, 'agent.sock'), tcp: { host: hostIp, port: AGENT_PORT } },
    hostRoot: NODE_ROOT,
    says: `tcp:${hostIp}:${AGENT_PORT}`,
    onEvent: (event) => {
      reports.onEvent(event);
      pods.onEvent(event);
    },
    truth: (told) => {
      const slots = told.slots.map((slot) => {
        const connections = pods.connections(slot.uid);
        return connections === undefined ? slot : { ...slot, connections };
      });
      return { ...told, slots, pods: pods.truth() };
    },
    image: (reference, until) => cri.image(reference, until),
    expect: (expectation) => {
      expected = expectation;
    },
    holdBack: async ({ uid, name, pod }, until) => {
      try {
        return await reports.holdBack(
          uid,
          { name, namespace: pod?.namespace ?? '' },
          AbortSignal.any([until, AbortSignal.timeout(HOLD_BACK_MS)]),
        );
      } catch (err) {
        until.throwIfAborted();
        log.info({ err, slot: uid }, 'gate could not be shut again');
        return false;
      }
    },
    onChange: (callback) => {
      changed = callback;
    },
    [Symbol.asyncDispose]: () => whole.disposeAsync(),
  };
}

function gatewayAddresses({ view }: Pick<SharedView, 'view'>): ReadonlySet<string> {
  // One that has only just started says no address yet.
  const urls = [...view.gateways.values()].flatMap(({ said }) => (URL.canParse(said.url) ? [new URL(said.url)] : []));
  return new Set(urls.map(({ hostname }) => hostname.replace(/^\[|\]$/g, '')));
}
