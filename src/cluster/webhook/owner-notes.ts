import { createHash } from 'node:crypto';
import type { Clock } from '../../lib/clock.ts';
import { RekindleError } from '../../lib/errors.ts';
import type { Log } from '../../lib/log.ts';
import { ownerOf } from '../../workloads/kubernetes.ts';
import type { Cluster } from '../cluster.ts';
import { DEPLOYMENTS, EVENTS, type Pod } from '../kinds.ts';
import type { OwnerNote } from './admission.ts';

export type OwnerNotesDeps = { readonly cluster: Pick<Cluster, 'get' | 'create' | 'patch'>; readonly clock: Clock; readonly log: Log };

/** The same again is not told before this. */
const REPEAT_MS = 600_000;
/** More owners than this are not remembered, so that a flood of pods costs no memory. */
const MOST_REMEMBERED = 10_000;
/** Being told at the same time; more are dropped. */
const MOST_UNDER_WAY = 32;
const TELL_MS = 10_000;
/** Of Kubernetes: longer messages are refused. */
const MAX_MESSAGE_CHARS = 1_024;
const REASONS = { left: 'NotRestorable', limited: 'RestoreLimited' } as const;

type Owner = { readonly apiVersion: string; readonly kind: string; readonly name: string; readonly uid: string };

/** Events on the owners of pods (Deployment, StatefulSet, …), where people look; one per owner and message, counted. */
export class OwnerNotes {
  readonly #deps: OwnerNotesDeps;
  readonly #told = new Map<string, number>();
  #underWay = 0;

  constructor(deps: OwnerNotesDeps) {
    this.#deps = deps;
  }

  /** In the background; what fails is logged. */
  tell(pod: Pod, namespace: string, note: OwnerNote, signal: AbortSignal): void {
    const { clock, log } = this.#deps;
    const { kind, name } = ownerOf(pod);
    if (kind === 'Pod' || this.#underWay >= MOST_UNDER_WAY) return;
    const key = `${namespace}/${kind}/${name}/${note.what}/${note.message}`;
    if (clock.now() - (this.#told.get(key) ?? Number.NEGATIVE_INFINITY) < REPEAT_MS) return;
    if (this.#told.size >= MOST_REMEMBERED) this.#told.clear();
    this.#told.set(key, clock.now());
    this.#underWay += 1;
    this.#write(pod, namespace, note, AbortSignal.any([signal, AbortSignal.timeout(TELL_MS)]))
      .catch((err: unknown) => {
        this.#told.delete(key);
        if (!signal.aborted) log.warn({ err, owner: `${kind} ${namespace}/${name}` }, 'event was not written');
      })
      .finally(() => {
        this.#underWay -= 1;
      });
  }

  async #write(pod: Pod, namespace: string, { what, message }: OwnerNote, signal: AbortSignal): Promise<void> {
    const { cluster, clock } = this.#deps;
    const owner = await this.#owner(pod, namespace, signal);
    if (owner === undefined) return;
    const digest = createHash('sha256').update(`${owner.uid}\0${what}\0${message}`).digest('hex').slice(0, 16);
    const name = `${owner.name.slice(0, 200)}.${digest}`;
    const at = new Date(clock.now());
    const event = {
      metadata: { name, namespace },
      involvedObject: { ...owner, namespace },
      type: 'Warning',
      reason: REASONS[what],
      message: message.slice(0, MAX_MESSAGE_CHARS),
      source: { component: 'rekindle' },
      firstTimestamp: at,
      lastTimestamp: at,
      count: 1,
    };
    try {
      await cluster.create(EVENTS, event, signal);
    } catch (error) {
      if (!(error instanceof RekindleError) || error.code !== 'conflict') throw error;
      await cluster.patch(EVENTS, { name, namespace }, { lastTimestamp: at }, 'merge', signal);
    }
  }

  /** With its uid, by which `kubectl describe` finds events. A pod knows its controller only, which for a Deployment's is the ReplicaSet. */
  async #owner(pod: Pod, namespace: string, signal: AbortSignal): Promise<Owner | undefined> {
    const { kind, name } = ownerOf(pod);
    const controller = pod.metadata?.ownerReferences?.find((reference) => reference.controller === true);
    if (controller === undefined) return undefined;
    if (kind !== 'Deployment') return { apiVersion: controller.apiVersion, kind, name, uid: controller.uid };
    const deployment = await this.#deps.cluster.get(DEPLOYMENTS, { name, namespace }, signal);
    const uid = deployment?.metadata?.uid;
    return uid === undefined ? undefined : { apiVersion: DEPLOYMENTS.apiVersion, kind, name, uid };
  }
}
