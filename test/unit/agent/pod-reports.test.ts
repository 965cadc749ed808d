import { expect, test, vi } from 'vitest';
import type { AgentEvent, InstanceState } from '../../../src/agent/events.ts';
import { PodReports } from '../../../src/agent/pod-reports.ts';
import { EVENTS, PODS } from '../../../src/cluster/kinds.ts';
import { type Clock, monotonicClock as clock } from '../../../src/lib/clock.ts';
import { RekindleError } from '../../../src/lib/errors.ts';
import { silentLog } from '../../../src/lib/log.ts';
import { GATE, START_ANNOTATION, STATE_LABEL } from '../../../src/workloads/kubernetes.ts';
import { FakeCluster } from '../../fixtures/fake-cluster.ts';

const signal = new AbortController().signal;
const timing = { decidedMs: 5, filesMs: 3, criuMs: 30, restoredMs: 50, readyMs: 62.6 };
const live: InstanceState = { at: 'live', snapshot: 'a'.repeat(64), timing };

/** Seconds pass only when a test says so. */
let passedMs = 0;
const setClock: Clock = { ...clock, now: () => passedMs };

async function aPod() {
  const cluster = new FakeCluster();
  const made = await cluster.create(PODS, { metadata: { name: 'web-1', namespace: 'shop' }, spec: { containers: [] } }, signal);
  const uid = made.metadata?.uid ?? '';
  const reports = new PodReports({ cluster, log: silentLog, clock: setClock, node: 'node1', wake: () => undefined });
  const say = (state: InstanceState, of = uid) =>
    reports.onEvent({ type: 'instance', uid: of, name: 'web-1', workload: 'shop.web', state } satisfies AgentEvent);
  const look = async () => {
    const pod = await cluster.get(PODS, { name: 'web-1', namespace: 'shop' }, signal);
    const events = await cluster.list(EVENTS, { namespace: 'shop' }, signal);
    return {
      label: pod?.metadata?.labels?.[STATE_LABEL],
      start: pod?.metadata?.annotations?.[START_ANNOTATION],
      gate: pod?.status?.conditions?.find(({ type }) => type === GATE),
      events: events.map(({ reason, message }) => `${reason}: ${message}`),
    };
  };
  return { cluster, reports, say, look, uid };
}

test('a restored pod has its gate opened, and how long it took is told', async () => {
  const { reports, say, look } = await aPod();

  say(live);
  await reports.reconcile(signal);

  expect(await look()).toMatchObject({
    label: 'live',
    start: 'restored in 63 ms',
    gate: { status: 'True', reason: 'Restored' },
    events: ['Restored: Restored in 63 ms from snapshot aaaaaaaaaaaa'],
  });
});

test('one that will be restored has its gate opened before its containers are made, and nothing else told', async () => {
  const { reports, say, look } = await aPod();

  say({ at: 'expected', snapshot: 'a'.repeat(64) });
  await reports.reconcile(signal);
  const before = await look();
  say({ at: 'restoring', snapshot: 'a'.repeat(64) });
  say(live);
  await reports.reconcile(signal);

  expect(before).toMatchObject({ label: undefined, start: undefined, gate: { status: 'True', reason: 'Restoring' }, events: [] });
  expect(await look()).toMatchObject({ label: 'live', gate: { status: 'True', reason: 'Restored' } });
});

test('one of which nothing fits after all is held again, whatever is still to be told, unless it is ready already', async () => {
  const { cluster, reports, say, look, uid } = await aPod();
  const at = { namespace: 'shop', name: 'web-1' };
  say({ at: 'expected', snapshot: 'a'.repeat(64) });
  await reports.reconcile(signal);
  say({ at: 'expected', snapshot: 'b'.repeat(64) });

  expect(await reports.holdBack(uid, at, signal)).toBe(true);
  await reports.reconcile(signal);
  expect(await look()).toMatchObject({ gate: { status: 'False', reason: 'Held' } });

  const ready = { status: { conditions: [{ type: 'ContainersReady', status: 'True' }] } };
  await cluster.patch(PODS, { ...at, subresource: 'status' }, ready, 'strategic', signal);
  expect(await reports.holdBack(uid, at, signal)).toBe(false);
});

test('a seed is held until it has been dumped', async () => {
  const { reports, say, look } = await aPod();

  say({ at: 'seed', step: 'waiting for readiness' });
  await reports.reconcile(signal);
  const before = await look();
  say({ at: 'seed', step: 'checkpointing' });
  say({ at: 'seed', step: 'writing it down' });
  await reports.reconcile(signal);

  expect(before).toMatchObject({ label: 'seed', gate: undefined, events: [expect.stringContaining('Seed: ')] });
  expect(await look()).toMatchObject({ label: 'live', gate: { status: 'True', reason: 'Checkpointed' } });
});

test('a cold start opens the gate with its reason; a failed restore is a warning', async () => {
  const { cluster, reports, say, look } = await aPod();

  say({ at: 'cold', why: 'failed', reason: 'the restore failed: no memory', code: 'restore_failed' });
  await reports.reconcile(signal);

  expect(await look()).toMatchObject({
    start: 'cold: the restore failed: no memory',
    gate: { status: 'True', reason: 'ColdStarted', message: 'the restore failed: no memory' },
    events: ['ColdStarted: the restore failed: no memory'],
  });
  expect((await cluster.list(EVENTS, {}, signal)).map(({ type }) => type)).toEqual(['Warning']);
});

test('a seed of which no snapshot could be made serves, and a warning says why', async () => {
  const { reports, say, look } = await aPod();

  say({ at: 'cold', why: 'seed', reason: 'the first of its kind, but no snapshot could be made: io_uring', code: 'dump_refused' });
  await reports.reconcile(signal);

  expect(await look()).toMatchObject({
    label: 'live',
    gate: { status: 'True' },
    events: [expect.stringMatching(/^CheckpointFailed: .*io_uring$/)],
  });
});

test('what cannot be told while the API server is away is told afterwards: the last state, and every event', async () => {
  const { cluster, reports, say, look } = await aPod();
  cluster.up = false;

  say({ at: 'cold', why: 'no_snapshot', reason: 'there is none yet' });
  say(live);
  const { requeueAfterMs } = await reports.reconcile(signal);
  cluster.up = true;
  passedMs += requeueAfterMs;
  await reports.reconcile(signal);

  expect(requeueAfterMs).toBeLessThan(10_000);
  expect(await look()).toMatchObject({ start: 'restored in 63 ms', gate: { reason: 'Restored' } });
  expect((await look()).events.map((one) => one.split(':')[0])).toEqual(['ColdStarted', 'Restored']);
});

test('another pod that took the name is left alone, and so are instances of no cluster', async () => {
  const { cluster, reports, say, look } = await aPod();

  say(live, '00000000-0000-4000-8000-000000000000');
  reports.onEvent({ type: 'instance', uid: 'x', name: 'web-1', workload: 'web', state: live });
  await reports.reconcile(signal);

  expect(await look()).toMatchObject({ label: undefined, gate: undefined });
  expect(cluster.deeds.filter((deed) => deed.startsWith('patch'))).toEqual([]);
});

test('what the API server will not hear of one pod holds up no other, and is given up after a few times', async () => {
  const { cluster, look } = await aPod();
  let refused = 0;
  const strict: Pick<FakeCluster, 'patch' | 'create'> = {
    patch: (...args) => cluster.patch(...args),
    create: (kind, object, until) => {
      if (object.metadata?.namespace !== 'gone') return cluster.create(kind, object, until);
      refused += 1;
      throw new RekindleError('cluster_unavailable', 'the namespace is being terminated');
    },
  };
  const reports = new PodReports({ cluster: strict, log: silentLog, clock: setClock, node: 'node1', wake: () => undefined });
  const tell = (uid: string, workload: string) => reports.onEvent({ type: 'instance', uid, name: 'web-1', workload, state: live });
  const [pod] = await cluster.list(PODS, {}, signal);

  tell('of-gone', 'gone.web');
  tell(pod?.metadata?.uid ?? '', 'shop.web');
  const passes: number[] = [];
  for (let i = 0; i < 6; i += 1) {
    passes.push((await reports.reconcile(signal)).requeueAfterMs);
    passedMs += 1_000;
  }

  expect((await look()).gate).toMatchObject({ reason: 'Restored' });
  expect(refused).toBe(5);
  expect(passes.at(-1)).toBe(Number.POSITIVE_INFINITY);
});

test.each<[number, string, () => Promise<never>]>([
  [40, 'cannot be told about', () => Promise.reject(new RekindleError('cluster_unavailable', 'a webhook failed', { retryable: true }))],
  // As many as are told at the same time, but one.
  [15, 'the API server never answers about', () => new Promise(() => undefined)],
])('%i pods that %s hold up no other', async (many, _, answer) => {
  const { cluster, look, uid } = await aPod();
  const some: Pick<FakeCluster, 'patch' | 'create'> = {
    patch: (kind, at, ...rest) => (at.namespace === 'stuck' ? answer() : cluster.patch(kind, at, ...rest)),
    create: (...args) => cluster.create(...args),
  };
  const reports = new PodReports({ cluster: some, log: silentLog, clock: setClock, node: 'node1', wake: () => undefined });
  const tell = (of: string, workload: string) => reports.onEvent({ type: 'instance', uid: of, name: 'web-1', workload, state: live });

  for (let i = 0; i < many; i += 1) tell(`stuck-${i}`, 'stuck.web');
  tell(uid, 'shop.web');
  for (let i = 0; i < 4; i += 1) await reports.reconcile(signal);

  expect((await look()).gate).toMatchObject({ reason: 'Restored' });
});

test('what is said while the API server hears of something earlier is told next', async () => {
  const { cluster, look } = await aPod();
  const [pod] = await cluster.list(PODS, {}, signal);
  const uid = pod?.metadata?.uid ?? '';
  let meanwhile: (() => void) | undefined;
  const wake = vi.fn();
  const slow: Pick<FakeCluster, 'patch' | 'create'> = {
    patch: async (...args) => {
      meanwhile?.();
      meanwhile = undefined;
      return cluster.patch(...args);
    },
    create: (...args) => cluster.create(...args),
  };
  const reports = new PodReports({ cluster: slow, log: silentLog, clock, node: 'node1', wake });
  const tell = (state: InstanceState) => reports.onEvent({ type: 'instance', uid, name: 'web-1', workload: 'shop.web', state });

  meanwhile = () => tell({ at: 'seed', step: 'writing it down' });
  tell({ at: 'seed', step: 'waiting for readiness' });
  await reports.reconcile(signal);
  // Twice for what was said, once because there is more.
  expect(wake).toHaveBeenCalledTimes(3);
  await reports.reconcile(signal);

  expect(await look()).toMatchObject({ label: 'live', gate: { status: 'True', reason: 'Checkpointed' } });
});

test('a pod that somebody else writes at the same moment is told about again', async () => {
  const { cluster, look } = await aPod();
  const [pod] = await cluster.list(PODS, {}, signal);
  let conflicts = 1;
  const busy: Pick<FakeCluster, 'patch' | 'create'> = {
    patch: async (...args) => {
      if (conflicts-- > 0) throw new RekindleError('conflict', 'the object has been modified', { retryable: true });
      return cluster.patch(...args);
    },
    create: (...args) => cluster.create(...args),
  };
  const reports = new PodReports({ cluster: busy, log: silentLog, clock: setClock, node: 'node1', wake: () => undefined });

  reports.onEvent({ type: 'instance', uid: pod?.metadata?.uid ?? '', name: 'web-1', workload: 'shop.web', state: live });
  await reports.reconcile(signal);
  passedMs += 1_000;
  await reports.reconcile(signal);

  expect((await look()).gate).toMatchObject({ status: 'True', reason: 'Restored' });
});
