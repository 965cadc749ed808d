import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { connect } from 'node:tls';
import { beforeAll, expect, test } from 'vitest';
import { factsOf, type KeyPair, makeAuthority, makeServing } from '../../src/cluster/authority.ts';
import type { Keyring } from '../../src/cluster/certificate-plan.ts';
import { MUTATING_WEBHOOKS, SECRETS } from '../../src/cluster/kinds.ts';
import { foreign, installed, kubectl } from './fixture/cluster.ts';
import { aNamespace, Namespace } from './fixture/namespace.ts';
import { oneMorePod, RESTORED, startOf, untilEverywhere } from './fixture/snapshots.ts';
import { aWho, PATIENT, propertiesOf } from './fixture/workloads.ts';

/** The API server asks the webhook only while it trusts its certificate: what these tests do would be felt by others. */
const space = aNamespace();
const rekindle = new Namespace('rekindle', {});
const signal = () => AbortSignal.timeout(10_000);
const WEBHOOK = 'rekindle-webhook-tls';

beforeAll(async () => {
  await installed();
  await space.apply(propertiesOf('patient', PATIENT), aWho('who'));
  await space.untilReady('app=who');
  await untilEverywhere(space, 'who');
});

/** The fingerprint of what a gateway serves its webhook with. */
async function certificateOf(address: string): Promise<string> {
  const socket = connect({ host: address, port: 7443, rejectUnauthorized: false });
  try {
    await once(socket, 'secureConnect', { signal: signal() });
    return socket.getPeerCertificate().fingerprint256;
  } finally {
    socket.destroy();
  }
}

const oneMore = () => oneMorePod(space, 'who');

test('certificate and trust of the webhook come back when somebody deletes them, without another authority', {
  timeout: 300_000,
}, async () => {
  const at = { name: WEBHOOK, namespace: rekindle.name };
  const bundles = async () =>
    (await rekindle.kube.get(MUTATING_WEBHOOKS, { name: 'rekindle' }, signal()))?.webhooks?.map(
      ({ clientConfig }) => clientConfig.caBundle,
    );
  const before = { secret: await rekindle.kube.get(SECRETS, at, signal()), bundles: await bundles() };

  await rekindle.kube.remove(SECRETS, at, signal());
  const forgotten = [{ op: 'remove', path: '/webhooks/0/clientConfig/caBundle' }];
  await rekindle.kube.patch(MUTATING_WEBHOOKS, { name: 'rekindle' }, forgotten, 'json', signal());
  const after = await rekindle.until('the Secret', () => rekindle.kube.get(SECRETS, at, signal()), 120_000);
  await rekindle.until('the trust', async () => JSON.stringify(await bundles()) === JSON.stringify(before.bundles), 120_000);

  expect(after.data).toEqual(before.secret?.data);
  expect(startOf(await oneMore())).toMatch(RESTORED);
});

test.skipIf(foreign)(
  'authority and certificate of the webhook are renewed in time, and pods are slots all the while',
  { timeout: 900_000 },
  async () => {
    const read = async (name = WEBHOOK) => {
      const { data = {} } = (await rekindle.kube.get(SECRETS, { name, namespace: rekindle.name }, signal())) ?? {};
      return { authorities: JSON.parse(atob(data['authorities.json'] ?? '')) as Keyring['authorities'], cert: atob(data['tls.crt'] ?? '') };
    };
    const write = (authorities: Keyring['authorities'], serving?: KeyPair, name = WEBHOOK) =>
      rekindle.kube.patch(
        SECRETS,
        { name, namespace: rekindle.name },
        {
          data: {
            'authorities.json': btoa(JSON.stringify(authorities)),
            ...(serving === undefined ? {} : { 'tls.crt': btoa(serving.cert), 'tls.key': btoa(serving.key) }),
          },
        },
        'merge',
        signal(),
      );
    const trusted = async () => {
      const { webhooks = [] } = (await rekindle.kube.get(MUTATING_WEBHOOKS, { name: 'rekindle' }, signal())) ?? {};
      return webhooks.map(({ clientConfig }) => atob(clientConfig.caBundle ?? '').split('BEGIN CERTIFICATE').length - 1);
    };
    const isServed = async (cert: string) => {
      for (const { status } of await rekindle.podsOf('app.kubernetes.io/name=rekindle-gateway'))
        if ((await certificateOf(`${status?.podIP}`)) !== new X509Certificate(cert).fingerprint256) return false;
      return true;
    };
    const WITHIN_MS = 150_000;
    const day = 86_400_000;
    /** As it is after 80 of a certificate's 90 days. */
    const grownOld = async (name: string) => {
      const { authorities, cert } = await read(name);
      const [authority] = authorities;
      if (authority === undefined) throw new Error('there is no authority');
      const names = factsOf(cert)?.names ?? [];
      const old = await makeServing(authority, names, Date.now() - 80 * day, 90 * day);
      await write(authorities, old, name);
      const successor = () =>
        rekindle.until('another certificate', async () => [await read(name)].find(({ cert: now }) => now !== old.cert), WITHIN_MS);
      return { authority, authorities, names, successor };
    };

    // Their successors are of the same authorities.
    const metrics = await grownOld('rekindle-metrics-tls');
    const { authority, authorities: first, names, successor } = await grownOld(WEBHOOK);
    const second = await successor();
    const { authorities: ofMetrics } = await metrics.successor();
    const listed = await rekindle.until('the metrics', () => kubectl(['get', '--raw', '/apis/external.metrics.k8s.io/v1beta1']));
    await rekindle.until('every gateway to have it', () => isServed(second.cert), WITHIN_MS);
    const afterCertificate = { trusted: await trusted(), authorities: second.authorities, start: startOf(await oneMore()) };

    // As it is after 700 of an authority's 730 days: its successor is trusted, and signs nothing yet.
    const aged = { ...(await makeAuthority('rekindle', Date.now() - 700 * day, 730 * day)), sinceMs: Date.now() - 700 * day };
    const byAged = await makeServing(aged, names, Date.now(), 20 * day);
    await write([authority, aged], byAged);
    const third = await rekindle.until(
      'another authority',
      async () => [await read()].find(({ authorities }) => authorities.length === 3),
      WITHIN_MS,
    );
    await rekindle.until('all to be trusted', async () => (await trusted()).every((count) => count === 3), WITHIN_MS);
    await rekindle.until('every gateway to have its certificate', () => isServed(third.cert), WITHIN_MS);
    const afterAuthority = startOf(await oneMore());

    // As it is two hours later: the successor has signed.
    await write(third.authorities.map((one) => ({ ...one, sinceMs: one.sinceMs - 7_200_000 })));
    const fourth = await rekindle.until(
      'a certificate by it',
      async () => [await read()].find(({ cert }) => cert !== third.cert),
      WITHIN_MS,
    );
    await rekindle.until('every gateway to have that', () => isServed(fourth.cert), WITHIN_MS);
    const afterSigning = startOf(await oneMore());

    expect(afterCertificate).toMatchObject({ trusted: [1, 1], authorities: first, start: expect.stringMatching(RESTORED) });
    expect(ofMetrics).toEqual(metrics.authorities);
    expect(listed).toContain('rekindle_load');
    expect(third.cert).toBe(byAged.cert);
    expect(afterAuthority).toMatch(RESTORED);
    expect(new X509Certificate(fourth.cert).verify(new X509Certificate(third.authorities[2]?.cert ?? '').publicKey)).toBe(true);
    expect(afterSigning).toMatch(RESTORED);
  },
);
