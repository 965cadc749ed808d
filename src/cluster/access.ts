import { createHash } from 'node:crypto';
import type { Clock } from '../lib/clock.ts';
import type { Cluster } from './cluster.ts';
import type { Requester } from './front-proxy.ts';
import { SUBJECT_ACCESS_REVIEWS } from './kinds.ts';

/** What somebody wants to do: with a resource, or with a path that is none. */
export type Attempt =
  | {
      readonly verb: string;
      readonly group: string;
      readonly version: string;
      readonly namespace: string;
      readonly resource: string;
    }
  | { readonly verb: string; readonly path: string };

/** `clock` is monotonic. */
export type AccessDeps = { readonly cluster: Pick<Cluster, 'create'>; readonly clock: Clock };

/** As long as the API server's own delegated authorisation believes an answer. */
const KEPT_MS = 10_000;
const MOST_KEPT = 2_000;

/** Asks the API server who may do what (delegated authorisation by SubjectAccessReview). Its answers are believed for ten seconds. */
export class Access {
  readonly #deps: AccessDeps;
  readonly #known = new Map<string, { readonly isAllowed: boolean; readonly untilMs: number }>();

  constructor(deps: AccessDeps) {
    this.#deps = deps;
  }

  /** Throws `cluster_unavailable` while the API server cannot be asked. */
  async may({ user, uid, groups, extra }: Requester, attempt: Attempt, signal: AbortSignal): Promise<boolean> {
    const { cluster, clock } = this.#deps;
    // A digest, since what comes in headers may be long.
    const key = createHash('sha256')
      .update(JSON.stringify([user, uid, groups, extra, attempt]))
      .digest('base64');
    const known = this.#known.get(key);
    if (known !== undefined && clock.now() < known.untilMs) return known.isAllowed;
    const { status } = await cluster.create(
      SUBJECT_ACCESS_REVIEWS,
      {
        spec: {
          user,
          groups: [...groups],
          extra: Object.fromEntries(Object.entries(extra).map(([name, values]) => [name, [...values]])),
          ...(uid === undefined ? {} : { uid }),
          ...('path' in attempt ? { nonResourceAttributes: attempt } : { resourceAttributes: attempt }),
        },
      },
      signal,
    );
    const isAllowed = status?.allowed === true && status.denied !== true;
    if (this.#known.size >= MOST_KEPT) this.#known.clear();
    this.#known.set(key, { isAllowed, untilMs: clock.now() + KEPT_MS });
    return isAllowed;
  }
}
