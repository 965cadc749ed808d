import { ConnectionCounter, nodeAddresses } from '../cluster/connections.ts';
import type { Clock } from '../lib/clock.ts';
import type { Controller } from '../lib/loop.ts';
import type { PodTruth } from '../queue/truth.ts';
import type { Container, Host } from '../workloads/host.ts';
import { isSlot, waits } from './container-process.ts';
import type { AgentEvent, InstanceState } from './events.ts';

export type NodePodsDeps = {
  readonly host: Pick<Host, 'list'>;
  readonly clock: Clock;
  /** Whose connections do not count: the gateways'. */
  readonly gateways: () => ReadonlySet<string>;
  /** Called once for a pod that started cold and that nobody told about: its agent ended meanwhile, or did not hear it in time. */
  readonly unseen: (container: Container, reason: string) => void;
  /** Called when something that is told has changed. */
  readonly changed: () => void;
};

type Known = {
  container: Container;
  state: PodTruth['state'];
  sinceMs: number;
  ready: boolean;
  start?: PodTruth['start'];
  snapshot?: string;
  connections?: number | undefined;
  /** At the last look process 1 was the application, and nobody had said why. */
  alone?: boolean;
};

/** Process 1 is the application: it started before this agent did, or without any. */
const UNSEEN = 'no agent saw how it started';
const LOOK_EVERY_MS = 1_000;
/** What was said of a pod is heard before the pod is found, by so much at most. */
const SAID_KEPT_MS = 10_000;

/** The ordinary pods of this node (those that never park), with what became of them, and who is connected to these and to those that park. */
export class NodePods implements Controller {
  readonly name = 'node-pods';
  readonly #deps: NodePodsDeps;
  readonly #pods = new Map<string, Known>();
  readonly #said = new Map<string, Partial<Known>>();
  readonly #counter = new ConnectionCounter({ node: nodeAddresses });
  #connections: ReadonlyMap<string, number> = new Map();

  constructor(deps: NodePodsDeps) {
    this.#deps = deps;
  }

  truth(): PodTruth[] {
    const now = this.#deps.clock.now();
    return [...this.#pods].map(([uid, { container, state, sinceMs, ready, start, snapshot, connections }]) => {
      const [address] = container.addresses;
      return {
        uid,
        name: container.name,
        workload: container.workload.name,
        state,
        ageMs: Math.max(0, now - sinceMs),
        ready,
        ...(address === undefined ? {} : { address }),
        ...(snapshot === undefined ? {} : { snapshot }),
        ...(start === undefined ? {} : { start }),
        ...(connections === undefined ? {} : { connections }),
      };
    });
  }

  /** Of any pod, by uid; undefined while they could not be counted. */
  connections(uid: string): number | undefined {
    return this.#connections.get(uid);
  }

  /** For the agent's events. */
  readonly onEvent = (event: AgentEvent): void => {
    if (event.type !== 'instance') return;
    const said = partOf(event.state);
    if (said === undefined) return;
    const sinceMs = this.#deps.clock.now();
    const known = this.#pods.get(event.uid);
    if (known === undefined) this.#said.set(event.uid, { ...said, sinceMs });
    else Object.assign(known, said, { sinceMs });
    this.#deps.changed();
  };

  async reconcile(): Promise<{ readonly requeueAfterMs: number }> {
    const { host, clock, gateways, unseen } = this.#deps;
    const all = (await host.list()).filter(({ addresses }) => addresses.length > 0);
    const containers = all.filter(({ pool }) => pool === undefined);
    const there = new Set(containers.map(({ uid }) => uid));
    for (const uid of this.#pods.keys()) if (!there.has(uid)) this.#pods.delete(uid);
    for (const container of containers) {
      const fresh: Known = { container, state: 'waiting', sinceMs: clock.now(), ready: false };
      const known = this.#pods.get(container.uid) ?? Object.assign(fresh, this.#said.get(container.uid));
      this.#pods.set(container.uid, known);
      known.container = container;
      // Twice in a row: a container that is just being made is no slot yet either, nor is a seed that has only just been told to start.
      const alone = known.state === 'waiting' && !isSlot(container.pid);
      if (alone && known.alone) {
        Object.assign(known, { state: 'cold', ready: true, start: { how: 'cold', reason: UNSEEN } });
        unseen(container, UNSEEN);
      }
      known.alone = alone;
    }
    const old = clock.now() - SAID_KEPT_MS;
    for (const [uid, { sinceMs = 0 }] of this.#said) if (there.has(uid) || sinceMs < old) this.#said.delete(uid);
    // Who is connected to a slot that is parked is a probe. The kernel looks through all connections of the machine for those of one pod.
    const parked = new Set(all.flatMap(({ uid, pid, pool }) => (pool !== undefined && waits(pid) ? [uid] : [])));
    const counted = await this.#counter.look(
      all.flatMap(({ uid, pid, workload }) => (parked.has(uid) ? [] : [{ uid, pid, ports: workload.container.ports }])),
      gateways(),
    );
    this.#connections = new Map([...counted, ...[...parked].map((uid): [string, number] => [uid, 0])]);
    for (const [uid, pod] of this.#pods) pod.connections = this.#connections.get(uid);
    return { requeueAfterMs: LOOK_EVERY_MS };
  }
}

function partOf(state: InstanceState): Partial<Known> | undefined {
  switch (state.at) {
    case 'live': {
      const { readyMs, restoredMs } = state.timing;
      return { state: 'live', ready: true, snapshot: state.snapshot, start: { how: 'restore', ms: readyMs ?? restoredMs } };
    }
    case 'back':
      return { state: 'live', ready: true, start: { how: 'restore' } };
    case 'cold':
      return { state: 'cold', ready: true, start: { how: 'cold', reason: state.reason } };
    case 'seed':
      return { state: 'seed', ready: state.step !== 'waiting for readiness', start: { how: 'cold' } };
    // It waits, as before: nobody need hear of it while it is being restored.
    case 'restoring':
    case 'expected':
    case 'ended':
    case 'parked':
      return undefined;
  }
}
