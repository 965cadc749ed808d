import { X509Certificate } from 'node:crypto';
import { beforeEach, expect, test } from 'vitest';
import { type CertificateOptions, keepCertificates } from '../../../src/cluster/certificates.ts';
import { MUTATING_WEBHOOKS, SECRETS } from '../../../src/cluster/kinds.ts';
import { trustKeeper } from '../../../src/cluster/webhook/trust.ts';
import { silentLog } from '../../../src/lib/log.ts';
import { FakeCluster } from '../../fixtures/fake-cluster.ts';
import { until } from '../../fixtures/until.ts';

const HOUR = 3_600_000;
const AT = { namespace: 'rekindle', secretName: 'tls' };
const OPTIONS: CertificateOptions = {
  ...AT,
  names: ['webhook.rekindle.svc'],
  lifetimes: { authorityMs: 240 * HOUR, servingMs: 48 * HOUR, settleMs: HOUR },
};
const signal = () => AbortSignal.timeout(5_000);
let cluster: FakeCluster;
let now: number;
let stop: AbortController;

beforeEach(() => {
  cluster = new FakeCluster();
  now = Date.UTC(2030, 0, 1);
  stop = new AbortController();
  return () => stop.abort();
});

/** A loop that looks again every few milliseconds instead of every half minute. */
const clock = {
  now: () => now,
  sleep: (_: number, aborted?: AbortSignal) =>
    new Promise<void>((resolve, reject) => {
      setTimeout(resolve, 5);
      aborted?.addEventListener('abort', () => reject(aborted.reason), { once: true });
    }),
};
const keep = () => keepCertificates({ cluster, clock, log: silentLog }, OPTIONS, stop.signal);
const secret = () => cluster.get(SECRETS, { name: 'tls', namespace: 'rekindle' }, signal());

test('replicas that begin at once have one certificate', async () => {
  const [a, b, c] = await Promise.all([keep(), keep(), keep()]);

  expect(b.current()).toEqual(a.current());
  expect(c.caBundle()).toBe(a.caBundle());
  expect(cluster.deeds).toEqual(['create secrets rekindle/tls']);
  expect(new X509Certificate(a.current().cert).checkHost('webhook.rekindle.svc')).toBeDefined();
});

test('one that begins later takes what is there', async () => {
  const a = await keep();
  const b = await keep();

  expect(b.current()).toEqual(a.current());
});

test('when it is due one replica renews it, and the others hear of that', async () => {
  const replicas = await Promise.all([keep(), keep()]);
  const before = replicas[0].current();
  let heard = 0;
  for (const one of replicas) one.onChange(() => (heard += 1));

  now += 40 * HOUR;
  await until('both have another', () => replicas.every((one) => one.current().cert !== before.cert));

  expect(replicas[1].current()).toEqual(replicas[0].current());
  expect(heard).toBe(2);
  expect(cluster.deeds.filter((deed) => deed.startsWith('replace'))).toHaveLength(1);
});

test('a Secret that was deleted or garbled comes back as it was', async () => {
  const certificates = await keep();
  const { data } = (await secret()) ?? {};
  const before = certificates.current();

  await cluster.remove(SECRETS, { name: 'tls', namespace: 'rekindle' }, signal());
  await until('it is there again', async () => (await secret()) !== undefined);
  await cluster.patch(SECRETS, { name: 'tls', namespace: 'rekindle' }, { data: { 'authorities.json': 'bm8=' } }, 'merge', signal());
  await until('it is right again', async () => JSON.stringify((await secret())?.data) === JSON.stringify(data));

  expect(certificates.current()).toEqual(before);
});

test('while the API server is away the certificate stays', async () => {
  const certificates = await keep();
  const before = certificates.current();

  cluster.up = false;
  now += 40 * HOUR;
  await new Promise((resolve) => setTimeout(resolve, 50));

  expect(certificates.current()).toEqual(before);
});

test('an abort ends the wait for the first one', async () => {
  cluster.up = false;
  const waiting = keep();

  stop.abort(new Error('enough'));

  await expect(waiting).rejects.toThrow('enough');
});

test('every webhook of the configuration trusts it, whatever else there is', async () => {
  const client = (caBundle?: string) => ({ clientConfig: { url: 'https://x', ...(caBundle === undefined ? {} : { caBundle }) } });
  const webhook = { admissionReviewVersions: ['v1'], sideEffects: 'None' };
  const webhooks = [
    { name: 'a', ...webhook, ...client() },
    { name: 'b', ...webhook, ...client('b2xk') },
  ];
  await cluster.create(MUTATING_WEBHOOKS, { metadata: { name: 'rekindle' }, webhooks }, signal());
  const keeper = trustKeeper({ cluster, certificates: { caBundle: () => 'PEM' } }, { name: 'rekindle' });

  await keeper.reconcile(signal());
  await keeper.reconcile(signal());

  const after = await cluster.get(MUTATING_WEBHOOKS, { name: 'rekindle' }, signal());
  expect(after?.webhooks?.map(({ clientConfig }) => clientConfig)).toEqual([
    { url: 'https://x', caBundle: btoa('PEM') },
    { url: 'https://x', caBundle: btoa('PEM') },
  ]);
  expect(cluster.deeds.filter((deed) => deed.startsWith('patch'))).toHaveLength(1);
});

test('a configuration that is not there is none of our business', async () => {
  const keeper = trustKeeper({ cluster, certificates: { caBundle: () => 'PEM' } }, { name: 'rekindle' });

  expect(await keeper.reconcile(signal())).toEqual({ requeueAfterMs: 30_000 });
});
