import { factsOf, isIssuedBy, type KeyPair, makeAuthority, makeServing } from './authority.ts';

/** What the Secret holds. Authorities are in the order in which they were made. */
export type Keyring = { readonly authorities: readonly (KeyPair & { readonly sinceMs: number })[]; readonly serving: KeyPair };

export type Lifetimes = {
  readonly authorityMs: number;
  readonly servingMs: number;
  /** How long a new authority is only trusted, before it signs anything: until everybody has heard of it. */
  readonly settleMs: number;
};

const DAY_MS = 86_400_000;

export const LIFETIMES: Lifetimes = { authorityMs: 730 * DAY_MS, servingMs: 90 * DAY_MS, settleMs: 3_600_000 };

/** Renewed when this part of their life is over. */
const RENEW_AT = 2 / 3;

/**
 * The keyring as it should be now; the same object when it is. A successor of the authority is made, and trusted, long before the first certificate that
 * it signs is used, and its predecessor is trusted until it expires: at every moment each server's certificate fits what its clients trust.
 */
export async function renewed(
  keyring: Keyring | undefined,
  names: readonly string[],
  nowMs: number,
  { authorityMs, servingMs, settleMs }: Lifetimes,
): Promise<Keyring> {
  const authorities = (keyring?.authorities ?? []).filter(({ cert }) => (factsOf(cert)?.notAfterMs ?? 0) > nowMs);
  const newest = authorities.at(-1);
  if (newest === undefined || isDue(newest.cert, nowMs))
    authorities.push({ ...(await makeAuthority('rekindle', nowMs, authorityMs)), sinceMs: nowMs });
  // The first one of all has nobody to wait for.
  const signing = authorities.findLast(({ sinceMs }) => nowMs - sinceMs >= settleMs) ?? authorities[0];
  if (signing === undefined) throw new Error('there is always one');
  const before = keyring?.serving;
  const serves = before !== undefined && isGood(before, signing, names, nowMs);
  if (
    serves &&
    keyring !== undefined &&
    authorities.length === keyring.authorities.length &&
    authorities.at(-1) === keyring.authorities.at(-1)
  )
    return keyring;
  return {
    authorities,
    serving: serves
      ? before
      : await makeServing(signing, names, nowMs, Math.min(servingMs, (factsOf(signing.cert)?.notAfterMs ?? nowMs) - nowMs)),
  };
}

/** What clients trust: every authority's certificate. */
export function bundleOf({ authorities }: Keyring): string {
  return authorities.map(({ cert }) => `${cert.trim()}\n`).join('');
}

function isGood(serving: KeyPair, authority: KeyPair, names: readonly string[], nowMs: number): boolean {
  const has = factsOf(serving.cert)?.names ?? [];
  return !isDue(serving.cert, nowMs) && names.every((name) => has.includes(name)) && isIssuedBy(serving, authority.cert);
}

function isDue(cert: string, nowMs: number): boolean {
  const facts = factsOf(cert);
  return facts === undefined || nowMs >= facts.notBeforeMs + (facts.notAfterMs - facts.notBeforeMs) * RENEW_AT;
}
