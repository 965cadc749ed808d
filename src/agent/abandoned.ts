import type { Clock } from '../lib/clock.ts';
import type { Log } from '../lib/log.ts';
import type { Controller } from '../lib/loop.ts';
import type { View } from '../queue/truth.ts';
import type { SnapshotStore } from '../snapshots/store.ts';
import { SUSPENDED_PREFIX } from './inventory.ts';

export type AbandonedDeps = {
  readonly store: Pick<SnapshotStore, 'list' | 'wantedAtMs' | 'want' | 'remove'>;
  readonly view: () => View;
  /** The workloads of the containers that are here. */
  readonly here: () => Promise<ReadonlySet<string>>;
  /** Of the wall: it outlives restarts. */
  readonly clock: Clock;
  readonly log: Log;
};

const LOOK_EVERY_MS = 3_600_000;
/** As long as this a workload may be scaled to nothing, or be gone and come back, and is restored at once. */
export const KEPT_MS = 7 * 24 * 3_600_000;

/** Removes snapshots whose workload nobody has described, and of which no container has been here, for a week. Without a service nobody describes any: all stay. */
export class Abandoned implements Controller {
  readonly name = 'snapshots-abandoned';
  readonly #deps: AbandonedDeps;

  constructor(deps: AbandonedDeps) {
    this.#deps = deps;
  }

  async reconcile(): Promise<{ readonly requeueAfterMs: number }> {
    const { store, view, here, clock, log } = this.#deps;
    const { workloads } = view();
    // Nobody has told yet which there are.
    if (workloads === undefined) return { requeueAfterMs: LOOK_EVERY_MS };
    const living = await here();
    for (const { digest, manifest } of await store.list()) {
      const { workload } = manifest;
      if (workload.startsWith(SUSPENDED_PREFIX)) continue;
      if (workloads.has(workload) || living.has(workload)) await store.want(digest);
      else if (clock.now() - (await store.wantedAtMs(digest)) > KEPT_MS) {
        await store.remove(digest).then(
          () => log.info({ snapshot: digest, workload }, 'snapshot removed: its workload has been gone for a week'),
          // In use, or removed by somebody else: at the next look.
          (err: unknown) => log.debug({ err, snapshot: digest }, 'snapshot not removed'),
        );
      }
    }
    return { requeueAfterMs: LOOK_EVERY_MS };
  }
}
