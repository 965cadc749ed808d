import 'reflect-metadata';
import { createPrivateKey, X509Certificate as NodeCertificate, type webcrypto } from 'node:crypto';
import { isIP } from 'node:net';
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  type JsonGeneralName,
  KeyUsageFlags,
  KeyUsagesExtension,
  PemConverter,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509Certificate,
  X509CertificateGenerator,
} from '@peculiar/x509';

/** A certificate and its private key (PKCS #8), as PEM. */
export type KeyPair = { readonly cert: string; readonly key: string };

const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;
/** Clocks of a cluster differ a little: what is made now must be valid now everywhere. */
const SKEW_MS = 5 * 60_000;

/** A new certificate authority that signs itself. */
export async function makeAuthority(name: string, nowMs: number, lifeMs: number): Promise<KeyPair> {
  const keys = await crypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
  const cert = await X509CertificateGenerator.createSelfSigned({
    serialNumber: serial(),
    name: `CN=${name}`,
    ...validity(nowMs, lifeMs),
    keys,
    signingAlgorithm: ALGORITHM,
    extensions: [
      new BasicConstraintsExtension(true, 0, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
      await SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return { cert: cert.toString('pem'), key: await exported(keys.privateKey) };
}

/** A certificate for a server with these names (the first is its subject's), signed by the authority. */
export async function makeServing(authority: KeyPair, names: readonly string[], nowMs: number, lifeMs: number): Promise<KeyPair> {
  const issuer = new X509Certificate(authority.cert);
  const [der = new ArrayBuffer(0)] = PemConverter.decode(authority.key);
  const signingKey = await crypto.subtle.importKey('pkcs8', der, ALGORITHM, false, ['sign']);
  const keys = await crypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
  const cert = await X509CertificateGenerator.create({
    serialNumber: serial(),
    subject: `CN=${names[0] ?? 'rekindle'}`,
    issuer: issuer.subject,
    ...validity(nowMs, lifeMs),
    signingKey,
    publicKey: keys.publicKey,
    signingAlgorithm: ALGORITHM,
    extensions: [
      new BasicConstraintsExtension(false, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
      new ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth]),
      new SubjectAlternativeNameExtension(names.map((value): JsonGeneralName => ({ type: isIP(value) === 0 ? 'dns' : 'ip', value }))),
      await AuthorityKeyIdentifierExtension.create(issuer),
    ],
  });
  return { cert: cert.toString('pem'), key: await exported(keys.privateKey) };
}

/** What a certificate says; undefined for what is none. */
export type Facts = { readonly notBeforeMs: number; readonly notAfterMs: number; readonly names: readonly string[] };

export function factsOf(cert: string): Facts | undefined {
  try {
    const { validFromDate, validToDate, subjectAltName = '' } = new NodeCertificate(cert);
    const names = subjectAltName.split(', ').flatMap((name) => /^(?:DNS|IP Address):(.*)$/.exec(name)?.[1] ?? []);
    return { notBeforeMs: validFromDate.getTime(), notAfterMs: validToDate.getTime(), names };
  } catch {
    return undefined;
  }
}

/** Whether key and certificate belong together, and the authority signed it. */
export function isIssuedBy({ cert, key }: KeyPair, authority: string): boolean {
  try {
    const certificate = new NodeCertificate(cert);
    return certificate.verify(new NodeCertificate(authority).publicKey) && certificate.checkPrivateKey(createPrivateKey(key));
  } catch {
    return false;
  }
}

function validity(nowMs: number, lifeMs: number) {
  return { notBefore: new Date(nowMs - SKEW_MS), notAfter: new Date(nowMs + lifeMs) };
}

/** 127 random bits: positive, and never that of another one. */
function serial(): string {
  const bytes = crypto.getRandomValues(Buffer.alloc(16));
  bytes[0] = ((bytes[0] ?? 0) & 0x7f) | 0x40;
  return bytes.toString('hex');
}

async function exported(key: webcrypto.CryptoKey): Promise<string> {
  return PemConverter.encode(await crypto.subtle.exportKey('pkcs8', key), 'PRIVATE KEY');
}
