import type { MachineFacts } from '../checkpoint/machine.ts';
import type { SnapshotTruth, View } from '../queue/truth.ts';
import { whyIncompatible } from '../snapshots/compatibility.ts';
import type { Snapshot } from '../snapshots/shelf.ts';
import type { SnapshotStore } from '../snapshots/store.ts';
import { retentionOf } from '../workloads/normalise.ts';
import type { WorkloadSpec } from '../workloads/workload.ts';
import { machineClassOf } from './node-truth.ts';
import { quarantineText } from './seeds.ts';

/** Before the workload's name, in snapshots that hold the state of one suspended slot: nothing finds or prunes these by workload. */
export const SUSPENDED_PREFIX = 'suspended/';

type Known = { readonly snapshot: Snapshot; readonly quarantined: string | undefined; readonly verifiedAtMs: number };

/** The snapshots here as of the last look, so that what is told can be put together at once. Those of suspended slots are not among them. */
export class Inventory {
  readonly #store: Pick<SnapshotStore, 'list' | 'quarantined'>;
  readonly #machine: MachineFacts;
  readonly #now: () => number;
  #known: ReadonlyMap<string, Known> = new Map();
  #byHash: ReadonlyMap<string, readonly Known[]> = new Map();

  constructor(deps: {
    readonly store: Pick<SnapshotStore, 'list' | 'quarantined'>;
    readonly machine: MachineFacts;
    readonly now: () => number;
  }) {
    this.#store = deps.store;
    this.#machine = deps.machine;
    this.#now = deps.now;
  }

  /** Looks again; resolves with whether anything is different. */
  async refresh(): Promise<boolean> {
    const list = (await this.#store.list()).filter(({ manifest }) => !manifest.workload.startsWith(SUSPENDED_PREFIX));
    const known = new Map<string, Known>();
    const marks = this.#store.quarantined();
    for (const snapshot of list) {
      const quarantined = marks.get(snapshot.digest)?.reason;
      // What appears here was verified by whoever put it here, or by the agent at its start.
      const verifiedAtMs = this.#known.get(snapshot.digest)?.verifiedAtMs ?? this.#now();
      known.set(snapshot.digest, { snapshot, quarantined, verifiedAtMs });
    }
    const text = (all: ReadonlyMap<string, Known>) => [...all].map(([digest, one]) => `${digest} ${one.quarantined ?? ''}`).join('\n');
    const changed = text(known) !== text(this.#known);
    this.#known = known;
    this.#byHash = Map.groupBy(known.values(), ({ snapshot }) => snapshot.manifest.specHash);
    return changed;
  }

  has(digest: string): boolean {
    return this.#known.has(digest);
  }

  /** The newest snapshot of this kind that fits this machine, is not quarantined and no older than its workload's policy allows. */
  fitting(hash: string, workload: Pick<WorkloadSpec, 'checkpoint'>): string | undefined {
    const found = this.#byHash.get(hash)?.find(({ snapshot: { manifest }, quarantined }) => {
      const fits = quarantined === undefined && whyIncompatible(manifest.class, this.#machine) === undefined;
      return fits && this.#isYoung(Date.parse(manifest.createdAt), workload);
    });
    return found?.snapshot.digest;
  }

  /** A snapshot of this kind on another node of this class that may be restored. Of one that is here too it is known already that it may not. */
  elsewhere(hash: string, workload: Pick<WorkloadSpec, 'checkpoint'>, nodes: View['nodes']): string | undefined {
    const own = machineClassOf(this.#machine);
    const peers = [...nodes.values()].filter(({ said }) => said.machineClass === own && said.peer !== undefined);
    const all = peers.flatMap(({ said }) => said.snapshots.filter((one) => one.specHash === hash && one.quarantined === undefined));
    const usable = all.filter(({ digest, createdAtMs }) => !this.has(digest) && this.#isYoung(createdAtMs, workload));
    return usable.toSorted((a, b) => b.createdAtMs - a.createdAtMs)[0]?.digest;
  }

  /** Why none of this kind is made anew: restores of one failed. */
  quarantined(hash: string): string | undefined {
    const found = this.#byHash.get(hash)?.find(({ quarantined }) => quarantined !== undefined);
    return found?.quarantined === undefined ? undefined : quarantineText(found.snapshot.digest, found.quarantined);
  }

  #isYoung(createdAtMs: number, workload: Pick<WorkloadSpec, 'checkpoint'>): boolean {
    return this.#now() - createdAtMs <= (retentionOf(workload).maxAgeMs ?? Number.POSITIVE_INFINITY);
  }

  truth(): SnapshotTruth[] {
    return [...this.#known.values()].map(({ snapshot, quarantined, verifiedAtMs }) => {
      const { digest, manifest } = snapshot;
      const { workload, specHash, totalBytes, freezeMs, memoryBytes } = manifest;
      const createdAtMs = Date.parse(manifest.createdAt);
      const said = { digest, workload, specHash, totalBytes, freezeMs, createdAtMs, verifiedAtMs, memoryBytes };
      return quarantined === undefined ? said : { ...said, quarantined };
    });
  }
}
