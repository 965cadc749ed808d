import { expect, test } from 'vitest';
import { ApiServiceKeeper } from '../../../src/cluster/api-service.ts';
import type { FrontProxy } from '../../../src/cluster/front-proxy.ts';
import { API_SERVICES, CONFIG_MAPS } from '../../../src/cluster/kinds.ts';
import { RekindleError } from '../../../src/lib/errors.ts';
import { silentLog as log } from '../../../src/lib/log.ts';
import { FakeCluster } from '../../fixtures/fake-cluster.ts';

const signal = new AbortController().signal;
const NAME = 'v1beta1.external.metrics.k8s.io';
const SPEC = { group: 'external.metrics.k8s.io', version: 'v1beta1', groupPriorityMinimum: 100, versionPriority: 100 };

async function rig(service: { name: string; namespace: string } | undefined) {
  const cluster = new FakeCluster();
  if (service !== undefined) await cluster.create(API_SERVICES, { metadata: { name: NAME }, spec: { ...SPEC, service } }, signal);
  const data = { 'requestheader-client-ca-file': 'FRONT', 'requestheader-allowed-names': '["front-proxy"]' };
  await cluster.create(CONFIG_MAPS, { metadata: { name: 'extension-apiserver-authentication', namespace: 'kube-system' }, data }, signal);
  const proxies: (FrontProxy | undefined)[] = [];
  const options = { name: NAME, service: { namespace: 'rekindle', name: 'rekindle-scaler' } };
  const keeper = new ApiServiceKeeper({ cluster, caBundle: () => 'CA', onProxy: (proxy) => proxies.push(proxy), log }, options);
  const look = async () => {
    await keeper.reconcile(signal);
    return (await cluster.get(API_SERVICES, { name: NAME }, signal))?.spec?.caBundle;
  };
  return { cluster, look, proxies };
}

test('an APIService of ours trusts our authority, and is told so once', async () => {
  const { cluster, look, proxies } = await rig({ name: 'rekindle-scaler', namespace: 'rekindle' });

  expect(await look()).toBe(Buffer.from('CA').toString('base64'));
  await look();

  expect(cluster.deeds.filter((deed) => deed.startsWith('patch'))).toHaveLength(1);
  expect(proxies[0]).toMatchObject({ ca: 'FRONT', allowedNames: ['front-proxy'] });
});

test.each([
  { name: 'keda-metrics', namespace: 'keda' },
  { name: 'rekindle-scaler', namespace: 'elsewhere' },
  undefined,
])("one of another's, or none, is left alone: %o", async (service) => {
  const { look, proxies } = await rig(service);

  expect(await look()).toBeUndefined();
  expect(proxies).toEqual([undefined]);
});

test('who may not look takes it as not installed, and tries again when the server is away', async () => {
  const { cluster, look, proxies } = await rig({ name: 'rekindle-scaler', namespace: 'rekindle' });
  const get = cluster.get.bind(cluster);
  cluster.get = async () => {
    throw new RekindleError('cluster_unavailable', 'forbidden');
  };
  await expect(look()).rejects.toThrow('forbidden');
  expect(proxies).toEqual([undefined]);

  cluster.get = get;
  cluster.up = false;
  await expect(look()).rejects.toThrow('does not answer');
});
