import { type Static, Type } from 'typebox';
import { Value } from 'typebox/value';
import { orAborted } from '../lib/abort.ts';
import type { Clock } from '../lib/clock.ts';
import { RekindleError } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';
import { runLoop } from '../lib/loop.ts';
import type { KeyPair } from './authority.ts';
import { bundleOf, type Keyring, LIFETIMES, type Lifetimes, renewed } from './certificate-plan.ts';
import type { Cluster } from './cluster.ts';
import { SECRETS, type Secret } from './kinds.ts';

export type CertificateDeps = {
  readonly cluster: Pick<Cluster, 'get' | 'create' | 'replace'>;
  /** Of the wall: certificates have dates. */
  readonly clock: Clock;
  readonly log: Log;
};

export type CertificateOptions = {
  readonly namespace: string;
  /** The Secret that all replicas of a server share; it is made if it is not there. */
  readonly secretName: string;
  /** Names and addresses under which clients reach the server. */
  readonly names: readonly string[];
  readonly lifetimes?: Lifetimes;
};

/** A server's certificate, always valid. */
export type Certificates = {
  current(): KeyPair;
  /** What clients have to trust, as PEM: for `caBundle` of webhooks and APIServices, in base64 there. */
  caBundle(): string;
  /** Calls back after either has changed. Returns what ends that. */
  onChange(callback: () => void): () => void;
  /** Resolves once the signal has aborted and nothing is being done any more. */
  readonly done: Promise<void>;
};

const LOOK_EVERY_MS = 30_000;

/**
 * Keeps an authority and a server's certificate in a Secret, renews both in time and without a moment at which somebody who trusts `caBundle()` could not
 * connect. Any number of replicas may do so at once. Resolves when there is a certificate, which needs the API server; later that may be away for weeks.
 */
export async function keepCertificates(deps: CertificateDeps, options: CertificateOptions, signal: AbortSignal): Promise<Certificates> {
  const { clock, log } = deps;
  const callbacks = new Set<() => void>();
  const first = Promise.withResolvers<void>();
  let keyring: Keyring | undefined;
  const reconcile = async (): Promise<{ requeueAfterMs: number }> => {
    const latest = await shared(deps, options, keyring, signal);
    const changed = JSON.stringify(latest) !== JSON.stringify(keyring);
    keyring = latest;
    first.resolve();
    if (changed) for (const callback of callbacks) callback();
    return { requeueAfterMs: LOOK_EVERY_MS };
  };
  const loop = runLoop({ name: `certificates ${options.secretName}`, reconcile }, { clock, log }, signal);
  await orAborted(first.promise, signal);
  const ours = (): Keyring => {
    if (keyring === undefined) throw new RekindleError('internal', 'the first certificate is there before anybody can ask');
    return keyring;
  };
  return {
    current: () => ours().serving,
    caBundle: () => bundleOf(ours()),
    onChange: (callback) => {
      callbacks.add(callback);
      return () => callbacks.delete(callback);
    },
    done: loop.done,
  };
}

/** What all replicas have, renewed if that is due: whoever writes it first wins, the others take theirs from there. */
async function shared(
  { cluster, clock, log }: CertificateDeps,
  { namespace, secretName, names, lifetimes = LIFETIMES }: CertificateOptions,
  known: Keyring | undefined,
  signal: AbortSignal,
): Promise<Keyring> {
  for (;;) {
    const secret = await cluster.get(SECRETS, { name: secretName, namespace }, signal);
    // One that was deleted comes back as it was: clients trust it.
    const before = secret === undefined ? known : (keyringOf(secret) ?? known);
    const after = await renewed(before, names, clock.now(), lifetimes);
    if (after === before && secret !== undefined && keyringOf(secret) !== undefined) return after;
    const wanted = secretOf(after, namespace, secretName, secret?.metadata?.resourceVersion);
    try {
      if (secret === undefined) await cluster.create(SECRETS, wanted, signal);
      else await cluster.replace(SECRETS, wanted, signal);
      log.info({ secret: `${namespace}/${secretName}` }, 'certificates were renewed');
      return after;
    } catch (error) {
      if (!(error instanceof RekindleError) || error.code !== 'conflict') throw error;
      // Another replica was quicker.
    }
  }
}

const Authorities = Type.Array(Type.Object({ cert: Type.String(), key: Type.String(), sinceMs: Type.Number() }), { minItems: 1 });

/** `ca.crt`, `tls.crt` and `tls.key` are as people expect them; authorities need their keys and ages too. */
function secretOf(keyring: Keyring, namespace: string, name: string, resourceVersion: string | undefined): Secret {
  const data = {
    'authorities.json': JSON.stringify(keyring.authorities),
    'ca.crt': bundleOf(keyring),
    'tls.crt': keyring.serving.cert,
    'tls.key': keyring.serving.key,
  };
  return {
    metadata: {
      name,
      namespace,
      labels: { 'app.kubernetes.io/part-of': 'rekindle' },
      ...(resourceVersion === undefined ? {} : { resourceVersion }),
    },
    type: 'Opaque',
    data: Object.fromEntries(Object.entries(data).map(([key, text]) => [key, Buffer.from(text).toString('base64')])),
  };
}

/** Undefined for a Secret that is not, or not any more, what we wrote. */
function keyringOf({ data = {} }: Secret): Keyring | undefined {
  const text = (key: string): string => Buffer.from(data[key] ?? '', 'base64').toString();
  try {
    const authorities: unknown = JSON.parse(text('authorities.json'));
    if (!Value.Check(Authorities, authorities)) return undefined;
    const parsed: Static<typeof Authorities> = authorities;
    return { authorities: parsed, serving: { cert: text('tls.crt'), key: text('tls.key') } };
  } catch {
    return undefined;
  }
}
