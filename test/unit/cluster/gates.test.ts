import { describe, expect, test } from 'vitest';
import { decideGate, Gates, isUntold } from '../../../src/cluster/gates.ts';
import { PODS, type Pod } from '../../../src/cluster/kinds.ts';
import { RekindleError } from '../../../src/lib/errors.ts';
import { silentLog } from '../../../src/lib/log.ts';
import { FakeCluster } from '../../fixtures/fake-cluster.ts';
import { aPod, injected } from './webhook/builders.ts';

const START = Date.UTC(2030, 0, 1);
const at = (seconds: number) => START + seconds * 1000;

type Facts = {
  readonly readyAt?: number;
  readonly gate?: 'True' | 'False';
  readonly node?: string;
  readonly properties?: string;
  readonly name?: string;
};

/** A slot on a node, whose containers are ready since `readyAt` seconds. */
function aGated({ readyAt, gate, node = 'n1', properties = '', name = 'web-1' }: Facts): Pod {
  const { pod } = injected(aPod(), { properties });
  const condition = (type: string, status: string) => ({ type, status, lastTransitionTime: new Date(at(readyAt ?? 0)) });
  return {
    ...pod,
    metadata: { ...pod.metadata, name },
    spec: { ...pod.spec, containers: pod.spec?.containers ?? [], nodeName: node },
    status: {
      conditions: [
        condition('ContainersReady', readyAt === undefined ? 'False' : 'True'),
        ...(gate === undefined ? [] : [condition('rekindle.dev/ready', gate)]),
      ],
    },
  };
}

describe('a gate', () => {
  test.each<[string, Facts, number | undefined, number, object]>([
    ['is left to its agent within the deadline', { readyAt: 10 }, undefined, 15, { againMs: 25_000 }],
    ['is opened after the deadline', { readyAt: 10 }, undefined, 40, { open: { reason: 'DeadlinePassed' } }],
    ['has the deadline of its policy', { readyAt: 10, properties: 'cr.checkpoint.gateDeadlineSeconds=5' }, undefined, 15, { open: {} }],
    ['is left while its containers are not ready', {}, 0, 100, { againMs: Infinity }],
    ['that is open is left', { readyAt: 10, gate: 'True' }, 0, 100, { againMs: Infinity }],
    ['that is shut by its agent is opened after the deadline', { readyAt: 10, gate: 'False' }, undefined, 40, { open: {} }],
    ['waits a little for an agent that has just gone', { readyAt: 10 }, 9, 12, { againMs: 2_000 }],
    ['does not wait for an agent that is away', { readyAt: 10 }, 2, 12, { open: { reason: 'AgentAway' } }],
  ])('%s', (_, facts, awaySince, seconds, decision) => {
    const decided = decideGate(aGated(facts), awaySince === undefined ? undefined : at(awaySince), at(seconds));

    expect(decided).toMatchObject(decision);
  });

  test('that is shut, or was opened ahead of a restore, is of a pod of which it is still to be told what became', () => {
    const opened = (reason: string): Pod => {
      const pod = aGated({ readyAt: 1, gate: 'True' });
      return { ...pod, status: { conditions: pod.status?.conditions?.map((condition) => ({ ...condition, reason })) ?? [] } };
    };

    expect([aGated({}), opened('Restoring'), opened('Restored'), opened('ColdStarted')].map(isUntold)).toEqual([true, true, false, false]);
  });

  test('that was opened ahead is left to its agent, and told about where none is', () => {
    const pod = aGated({ readyAt: 10, gate: 'True' });
    const ahead = { ...pod, status: { conditions: pod.status?.conditions?.map((one) => ({ ...one, reason: 'Restoring' })) ?? [] } };

    expect(decideGate(ahead, undefined, at(99))).toEqual({ againMs: Infinity });
    expect(decideGate(ahead, at(2), at(12))).toMatchObject({ open: { reason: 'AgentAway' } });
  });

  test('of others is none of ours, nor is that of a pod that ends', () => {
    const pod = aGated({ readyAt: 0 });

    expect(decideGate({ ...pod, spec: { containers: [], readinessGates: [{ conditionType: 'lb/ready' }] } }, 0, at(99))).toEqual({
      againMs: Infinity,
    });
    expect(decideGate({ ...pod, metadata: { ...pod.metadata, deletionTimestamp: new Date(at(1)) } }, 0, at(99))).toEqual({
      againMs: Infinity,
    });
  });

  test('of a pod whose description nobody can read is opened after 30 s', () => {
    const pod = aGated({ readyAt: 0 });
    const garbled = { ...pod, metadata: { ...pod.metadata, annotations: { 'rekindle.dev/workload': '{' } } };

    expect(decideGate(garbled, undefined, at(29))).toEqual({ againMs: 1_000 });
    expect(decideGate(garbled, undefined, at(30))).toMatchObject({ open: {} });
  });
});

describe('the keeper of gates', () => {
  const signal = () => AbortSignal.timeout(5_000);
  const agent = (node: string, ready: string): Pod => ({
    spec: { containers: [], nodeName: node },
    status: { conditions: [{ type: 'Ready', status: ready }] },
  });
  const followed = (pods: readonly Pod[], connected = true) => ({ items: () => pods, connected });

  async function rig(pods: readonly Pod[], agents: readonly Pod[], connected = true) {
    const cluster = new FakeCluster();
    for (const pod of pods) await cluster.create(PODS, pod, signal());
    let now = at(11);
    const clock = { now: () => now, sleep: async () => undefined };
    const there = await cluster.list(PODS, {}, signal());
    const gates = new Gates({ cluster, clock, log: silentLog, pods: followed(there, connected), agents: followed(agents) });
    const gateOf = async (name: string) => {
      const pod = await cluster.get(PODS, { name, namespace: 'shop' }, signal());
      const condition = pod?.status?.conditions?.find(({ type }) => type === 'rekindle.dev/ready');
      return { gate: condition?.reason, state: pod?.metadata?.labels?.['rekindle.dev/state'] };
    };
    return { cluster, gates, gateOf, later: (seconds: number) => (now = at(seconds)) };
  }

  test('opens those on nodes without a live agent, and says that they serve', async () => {
    const pods = [aGated({ readyAt: 10, name: 'alone', node: 'n1' }), aGated({ readyAt: 10, name: 'tended', node: 'n2' })];
    const { gates, gateOf, later } = await rig(pods, [agent('n1', 'False'), agent('n2', 'True')]);

    await gates.reconcile(signal());
    later(17);
    await gates.reconcile(signal());

    expect(await gateOf('alone')).toEqual({ gate: 'AgentAway', state: 'live' });
    expect(await gateOf('tended')).toEqual({ gate: undefined, state: 'waiting' });
  });

  test('opens those that are late, and leaves what they are to their agent', async () => {
    const { gates, gateOf, later } = await rig([aGated({ readyAt: 10 })], [agent('n1', 'True')]);

    later(41);
    await gates.reconcile(signal());

    expect(await gateOf('web-1')).toEqual({ gate: 'DeadlinePassed', state: 'waiting' });
  });

  test('does nothing by what it knew before the API server was away', async () => {
    const { gates, cluster, later } = await rig([aGated({ readyAt: 10 })], [], false);

    later(100);
    await gates.reconcile(signal());

    expect(cluster.deeds.filter((deed) => deed.startsWith('patch'))).toEqual([]);
  });

  test('leaves a pod that has taken the name since', async () => {
    const { gates, cluster, gateOf, later } = await rig([aGated({ readyAt: 10 })], []);
    await cluster.remove(PODS, { name: 'web-1', namespace: 'shop' }, signal());
    await cluster.create(PODS, aGated({ readyAt: 10 }), signal());

    await gates.reconcile(signal());
    later(41);
    await gates.reconcile(signal());

    expect(await gateOf('web-1')).toEqual({ gate: undefined, state: 'waiting' });
  });

  test('opens the others although one may not be opened, and looks again soon', async () => {
    const pods = Array.from({ length: 40 }, (_, i) => aGated({ readyAt: 10, name: `web-${i}` }));
    const { gates, gateOf, later, cluster } = await rig(pods, [agent('n1', 'True')]);
    const patch = cluster.patch.bind(cluster);
    cluster.patch = async (kind, where, ...rest) => {
      if (Number(where.name.slice(4)) < 20) throw new RekindleError('cluster_unavailable', 'the namespace is being terminated');
      return patch(kind, where, ...rest);
    };

    later(41);
    const { requeueAfterMs } = await gates.reconcile(signal());

    expect(await gateOf('web-39')).toMatchObject({ gate: 'DeadlinePassed' });
    expect(await gateOf('web-0')).toMatchObject({ gate: undefined });
    expect(requeueAfterMs).toBeLessThanOrEqual(1_000);
  });
});
