import type { Kind } from './kinds.ts';

/** What every object of the API has. */
export type KubeObject = {
  readonly metadata?: { readonly name?: string; readonly namespace?: string; readonly uid?: string; readonly resourceVersion?: string };
};

/** Which objects: all that fit each of what is said. */
export type Selection = {
  readonly namespace?: string;
  /** A label selector, as kubectl's `-l`. */
  readonly labels?: string;
  /** A field selector, as kubectl's `--field-selector`. */
  readonly fields?: string;
};

/** One object. `namespace` is left out for kinds that have none. */
export type ObjectName = { readonly name: string; readonly namespace?: string | undefined };

/**
 * How a patch is meant: `merge` (RFC 7386), `json` (RFC 6902, an array of operations) or `strategic` (lists of conditions, containers … are merged by their keys).
 */
export type PatchHow = 'merge' | 'json' | 'strategic';

/** A copy of objects that is kept up to date. */
export type Followed<T> = {
  /** Resolves when the first list is here; rejects with the signal's reason. */
  readonly synced: Promise<void>;
  /** Whether the last list or watch worked. */
  readonly connected: boolean;
  /** As it is known now, in any order. */
  items(): readonly T[];
  get(name: string, namespace?: string): T | undefined;
};

/**
 * The one door to Kubernetes. An object that is not there is undefined, or no error for what removes it. Nothing here retries but {@link follow}; throws
 * `cluster_unavailable` (retryable where the server does not answer), `conflict` for an object that is there already or has
 * changed meanwhile; not retryable for a patch that is meant for another object of that name.
 * `kube.ts` talks to an API server, a fake in memory is tested against the same conformance suite.
 */
export interface Cluster {
  /** Minor version of Kubernetes 1. */
  minorVersion(signal: AbortSignal): Promise<number>;
  get<T extends KubeObject>(kind: Kind<T>, at: ObjectName, signal: AbortSignal): Promise<T | undefined>;
  list<T extends KubeObject>(kind: Kind<T>, where: Selection, signal: AbortSignal): Promise<readonly T[]>;
  /** Returns the object as the server made it. */
  create<T extends KubeObject>(kind: Kind<T>, object: T, signal: AbortSignal): Promise<T>;
  /** With `metadata.resourceVersion` only if it has not changed since. */
  replace<T extends KubeObject>(kind: Kind<T>, object: T, signal: AbortSignal): Promise<T>;
  /** Undefined when the object is not there. */
  patch<T extends KubeObject>(
    kind: Kind<T>,
    at: ObjectName & { readonly subresource?: 'status' | 'resize' | 'scale' },
    patch: unknown,
    how: PatchHow,
    signal: AbortSignal,
  ): Promise<T | undefined>;
  remove<T extends KubeObject>(kind: Kind<T>, at: ObjectName & { readonly uid?: string }, signal: AbortSignal): Promise<void>;
  /**
   * Keeps a copy until the signal aborts: list, then watch, again with a pause whenever that ends. While the server is away the copy stays as it was.
   * `changed` is called after every change; `object` undefined after a list.
   */
  follow<T extends KubeObject>(kind: Kind<T>, where: Selection, changed: (object: T | undefined) => void, signal: AbortSignal): Followed<T>;
  /** GET of any other path, parsed; undefined for 404. */
  raw(path: string, signal: AbortSignal): Promise<unknown>;
}
