import { NAMESPACES } from '../../../src/cluster/kinds.ts';
import { clusterConformance } from '../../conformance/cluster.ts';
import { FakeCluster } from '../../fixtures/fake-cluster.ts';

clusterConformance('the cluster in memory', async () => {
  const cluster = new FakeCluster();
  await cluster.create(NAMESPACES, { metadata: { name: 'conformance' } }, AbortSignal.timeout(1000));
  return { cluster, namespace: 'conformance', [Symbol.asyncDispose]: async () => undefined };
});
