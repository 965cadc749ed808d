import { expect, test } from 'vitest';
import { factsOf, isIssuedBy } from '../../../src/cluster/authority.ts';
import { bundleOf, type Keyring, type Lifetimes, renewed } from '../../../src/cluster/certificate-plan.ts';

const HOUR = 3_600_000;
const LIFE: Lifetimes = { authorityMs: 240 * HOUR, servingMs: 48 * HOUR, settleMs: HOUR };
const NAMES = ['rekindle-webhook.rekindle.svc', '10.89.0.1'];
const START = Date.UTC(2030, 0, 1);

const at = (hours: number, before?: Keyring, names = NAMES) => renewed(before, names, START + hours * HOUR, LIFE);

test('the first certificate is for every name, and its authority is what clients trust', async () => {
  const keyring = await at(0);

  expect(factsOf(keyring.serving.cert)?.names).toEqual(NAMES);
  expect(keyring.authorities).toHaveLength(1);
  expect(isIssuedBy(keyring.serving, bundleOf(keyring))).toBe(true);
});

test('what is good stays the same object', async () => {
  const keyring = await at(0);

  expect(await at(20, keyring)).toBe(keyring);
});

test('a certificate is renewed after two thirds of its life, by the same authority', async () => {
  const keyring = await at(0);

  const later = await at(33, keyring);

  expect(later.authorities).toEqual(keyring.authorities);
  expect(later.serving).not.toEqual(keyring.serving);
});

test('another name makes another certificate; one name less does not', async () => {
  const keyring = await at(0);

  expect((await at(1, keyring, [...NAMES, 'localhost'])).serving).not.toEqual(keyring.serving);
  expect(await at(1, keyring, NAMES.slice(0, 1))).toBe(keyring);
});

test('a new authority is trusted for the settling time before anything is signed by it, and the old one until it expires', async () => {
  const first = await at(0);
  const oldCa = first.authorities[0]?.cert ?? '';

  const announced = await at(161, first);
  const newCa = announced.authorities[1]?.cert ?? '';
  const unsettled = await at(161.9, announced);
  const settled = await at(162.1, unsettled);
  const muchLater = await at(241, settled);

  expect(announced.authorities).toHaveLength(2);
  expect(isIssuedBy(announced.serving, oldCa)).toBe(true);
  expect(unsettled).toBe(announced);
  expect(isIssuedBy(settled.serving, newCa)).toBe(true);
  expect(bundleOf(settled)).toBe(bundleOf(announced));
  expect(muchLater.authorities.map(({ cert }) => cert)).toEqual([newCa]);
});

test('through ten authorities the certificate is always valid, and trusted by whoever last looked a while ago', async () => {
  const life: Lifetimes = { authorityMs: 120 * HOUR, servingMs: 48 * HOUR, settleMs: 12 * HOUR };
  let keyring: Keyring | undefined;
  let trusted = '';
  const authorities = new Set<string>();
  for (let hours = 0; hours < 900; hours += 6) {
    const now = START + hours * HOUR;
    const before: Keyring | undefined = keyring;
    keyring = await renewed(before, NAMES, now, life);
    for (const { cert } of keyring.authorities) authorities.add(cert);
    const facts = factsOf(keyring.serving.cert);
    const { serving } = keyring;

    expect(facts?.notBeforeMs).toBeLessThanOrEqual(now);
    expect(facts?.notAfterMs).toBeGreaterThan(now);
    if (before !== undefined)
      expect(pems(trusted).some((cert) => isIssuedBy(serving, cert) && (factsOf(cert)?.notAfterMs ?? 0) > now)).toBe(true);
    trusted = bundleOf(keyring);
  }

  expect(authorities.size).toBeGreaterThanOrEqual(10);
});

test('a key that is not its certificate’s is replaced', async () => {
  const keyring = await at(0);
  const other = await at(0);

  const mended = await at(1, { ...keyring, serving: { cert: keyring.serving.cert, key: other.serving.key } });

  expect(isIssuedBy(mended.serving, bundleOf(keyring))).toBe(true);
});

function pems(bundle: string): string[] {
  return bundle.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
}
