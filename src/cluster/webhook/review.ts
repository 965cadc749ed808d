import { type Static, Type } from 'typebox';
import { Value } from 'typebox/value';
import { RekindleError } from '../../lib/errors.ts';
import { jsonPatch } from './json-patch.ts';

const Review = Type.Object({
  apiVersion: Type.Literal('admission.k8s.io/v1'),
  kind: Type.Literal('AdmissionReview'),
  request: Type.Object({
    uid: Type.String(),
    namespace: Type.Optional(Type.String()),
    operation: Type.String(),
    dryRun: Type.Optional(Type.Boolean()),
    kind: Type.Object({ kind: Type.String() }),
    // Of the type that `kind` says: the API server has checked that.
    object: Type.Object({}),
  }),
});

export type AdmissionRequest = Static<typeof Review>['request'];

/** What is decided about an object. */
export type Verdict = {
  /** The object as it is to be; undefined: as it is. */
  readonly object?: unknown;
  readonly warnings: readonly string[];
};

/** The request in a body of the API server's. Throws `usage` for anything else. */
export function parseReview(body: string): AdmissionRequest {
  let value: unknown;
  try {
    value = JSON.parse(body);
  } catch (cause) {
    throw new RekindleError('usage', 'the body is not JSON', { cause });
  }
  if (!Value.Check(Review, value)) throw new RekindleError('usage', 'the body is not an AdmissionReview of admission.k8s.io/v1');
  return value.request;
}

/** Longer warnings are cut off by the API server (https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#response). */
const MAX_WARNING_CHARS = 256;

/** The answer: whatever was decided, the object is admitted. */
export function formatReview({ uid, object: before }: AdmissionRequest, { object: after, warnings }: Verdict): string {
  const patch = after === undefined ? [] : jsonPatch(before, after);
  const response = {
    uid,
    allowed: true,
    ...(warnings.length === 0 ? {} : { warnings: warnings.map(shortened) }),
    ...(patch.length === 0 ? {} : { patchType: 'JSONPatch', patch: Buffer.from(JSON.stringify(patch)).toString('base64') }),
  };
  return JSON.stringify({ apiVersion: 'admission.k8s.io/v1', kind: 'AdmissionReview', response });
}

/** A warning is an HTTP header. */
function shortened(text: string): string {
  const line = `rekindle: ${text}`.replace(/[^\x20-\x7e]+/g, ' ');
  return line.length > MAX_WARNING_CHARS ? `${line.slice(0, MAX_WARNING_CHARS - 3)}...` : line;
}
