import { randomBytes } from 'node:crypto';
import { NAMESPACES } from '../../src/cluster/kinds.ts';
import { Kube } from '../../src/cluster/kube.ts';
import { systemClock } from '../../src/lib/clock.ts';
import { silentLog } from '../../src/lib/log.ts';
import { clusterConformance } from '../conformance/cluster.ts';
import { kubeconfig } from './fixture/cluster.ts';

clusterConformance('a real API server', async () => {
  const cluster = Kube.open({ clock: systemClock, log: silentLog }, kubeconfig);
  const name = `rekindle-test-${randomBytes(3).toString('hex')}`;
  const signal = () => AbortSignal.timeout(10_000);
  await cluster.create(NAMESPACES, { metadata: { name } }, signal());
  return { cluster, namespace: name, [Symbol.asyncDispose]: () => cluster.remove(NAMESPACES, { name }, signal()) };
});
