import { expect, test } from 'vitest';
import { NODES, PODS } from '../../../src/cluster/kinds.ts';
import { clusterText, onlyOf, readClusterStatus } from '../../../src/commands/status-cluster.ts';
import type { ApiPod } from '../../../src/gateway/schemas.ts';
import { FakeCluster } from '../../fixtures/fake-cluster.ts';
import { aNode, aPool } from '../../fixtures/fake-gateway.ts';

const signal = AbortSignal.timeout(60_000);
const API = '/api/v1/namespaces/rekindle/services/rekindle-gateway:http/proxy/api';

const aPod = (pod: Partial<ApiPod> = {}): ApiPod => ({
  uid: 'u',
  name: 'web-1',
  node: 'node1',
  state: 'live',
  ready: true,
  ageMs: 5_000,
  ...pod,
});

async function aCluster() {
  const cluster = new FakeCluster();
  const pods = [
    aPod({ start: { how: 'restore', ms: 61.4 }, connections: 2 }),
    aPod({ uid: 'v', name: 'web-2', state: 'cold', start: { how: 'cold', reason: 'no\nagent' } }),
  ];
  const slot = {
    uid: 's',
    name: 'park-1',
    node: 'node1',
    state: 'parked',
    ageMs: 1,
    ready: false,
    seed: false,
    draining: false,
    inFlight: 0,
  } as const;
  cluster.paths.set(`${API}/pools`, [
    aPool('shop.web', { mode: 'restore', pods, phase: 'refused', reason: 'it has a device' }),
    aPool('other.park', { mode: 'on-demand', slots: [slot], phase: 'none' }),
  ]);
  cluster.paths.set(`${API}/snapshots`, []);
  cluster.paths.set(`${API}/nodes`, [aNode('node1', { slots: 1, pods: 2 })]);
  for (const name of ['node1', 'node2']) await cluster.create(NODES, { metadata: { name } }, signal);
  const status = { conditions: [{ type: 'Ready', status: 'True' }] };
  const labels = { 'app.kubernetes.io/name': 'rekindle-agent' };
  await cluster.create(
    PODS,
    { metadata: { name: 'a1', namespace: 'rekindle', labels }, spec: { nodeName: 'node1', containers: [] }, status },
    signal,
  );
  return cluster;
}

test('workloads, pods with how they started and why, and nodes without an agent are told', async () => {
  const status = await readClusterStatus(await aCluster(), 'rekindle', signal);

  const lines = clusterText(status, 0).split('\n');

  expect(lines).toContainEqual(expect.stringMatching(/^shop\/web +restore +2 +1 +1 +0 +0 +0 +2 +refused: it has a device$/));
  expect(lines).toContainEqual(expect.stringMatching(/^other\/park +on-demand +1 +0 +0 +0 +1 /));
  expect(lines).toContainEqual(expect.stringMatching(/^shop\/web-1 +node1 +live, restored in 61 ms +5 s$/));
  expect(lines).toContainEqual(expect.stringMatching(/^shop\/web-2 +node1 +cold: no agent +5 s$/));
  expect(lines).toContainEqual(expect.stringMatching(/^node1 +ready +4 +3 /));
  expect(lines).toContainEqual(expect.stringMatching(/^node2 +none .*starts everything cold$/));
});

test('of many pods each reason is told once, with how many have it', async () => {
  const cluster = await aCluster();
  const pods = Array.from({ length: 30 }, (_, i) =>
    aPod({ uid: `u${i}`, state: 'cold', start: { how: 'cold', reason: 'no snapshot yet' } }),
  );
  cluster.paths.set(`${API}/pools`, [aPool('shop.web', { pods })]);

  const text = clusterText(await readClusterStatus(cluster, 'rekindle', signal), 0);

  expect(text).toMatch(/shop\/web +cold +30 +no snapshot yet/);
  expect(text).not.toContain('web-1');
});

test('of one namespace only what is in it is told, and every node', async () => {
  const status = onlyOf(await readClusterStatus(await aCluster(), 'rekindle', signal), 'shop');

  expect(status.pools.map(({ workload }) => workload)).toEqual(['shop.web']);
  expect(status.nodes).toHaveLength(2);
});

test('a cluster without rekindle is told as such, and how to install it', async () => {
  await expect(readClusterStatus(new FakeCluster(), 'rekindle', signal)).rejects.toMatchObject({
    code: 'not_found',
    message: expect.stringContaining('kubectl apply -k'),
  });
});
