import { abortedAfter, orAborted } from '../../lib/abort.ts';
import type { Clock } from '../../lib/clock.ts';
import { RekindleError, toRekindleError } from '../../lib/errors.ts';
import type { Log } from '../../lib/log.ts';
import { parsePolicyProperties } from '../../workloads/configmap.ts';
import { ENABLED_LABEL, ownerOf, PROPERTIES_ANNOTATION, PROPERTIES_KEY } from '../../workloads/kubernetes.ts';
import type { PolicySpec } from '../../workloads/workload.ts';
import type { Cluster } from '../cluster.ts';
import { AUTOSCALERS, CONFIG_MAPS, LIMIT_RANGES, type Pod, RESOURCE_QUOTAS, SERVICES } from '../kinds.ts';
import { type AskedImage, type ImageConfig, type Injected, imageOfInterest, inject, modeOf } from './inject.ts';
import { NO_SURROUNDINGS, type Surroundings } from './on-demand.ts';
import type { AdmissionRequest, Verdict } from './review.ts';
import type { SlotFiles } from './slot-volume.ts';

export type AdmissionDeps = {
  readonly cluster: Pick<Cluster, 'get' | 'list'>;
  /** What the image of a pod's container runs; undefined when nobody knows, or not surely. */
  readonly findImage: (image: AskedImage, signal: AbortSignal) => Promise<ImageConfig | undefined>;
  /** Tells the pod's owner, sooner or later. */
  readonly tellOwner: (pod: Pod, namespace: string, note: OwnerNote) => void;
  /** As they are now: nodes come, and clusters are upgraded. */
  readonly files: () => SlotFiles;
  readonly minorVersion: () => number;
  readonly clock: Clock;
  readonly log: Log;
};

/** `left`: the pod is no slot; `limited`: it is one, but not all that was asked for. */
export type OwnerNote = { readonly what: 'left' | 'limited'; readonly message: string };

/** For what the API server is asked about one pod: rather late than no slot, where it is as busy as a burst makes it. Below `timeoutSeconds` of the webhook's configuration. */
const LOOK_UP_MS = 4_000;
/** For what an image runs, which nodes and registries are asked. */
const IMAGE_MS = 1_000;
/** Namespaces whose pods are never touched, besides our own. */
const NEVER = ['kube-system', 'kube-public', 'kube-node-lease'];

/** Decides about pods and their templates. Never denies: what cannot be a slot, or fails in here, is admitted as it was. */
export class Admission {
  readonly #deps: AdmissionDeps;
  readonly #ownNamespace: string;

  constructor(deps: AdmissionDeps, options: { readonly namespace: string }) {
    this.#deps = deps;
    this.#ownNamespace = options.namespace;
  }

  /** A pod that is about to be made. */
  async pod(request: AdmissionRequest, signal: AbortSignal): Promise<Verdict> {
    const { log, tellOwner } = this.#deps;
    const pod: Pod = request.object;
    const namespace = request.namespace ?? 'default';
    if (request.operation !== 'CREATE' || !this.#concerns(pod, namespace)) return { warnings: [] };
    const injected = await this.#injected(pod, namespace, signal);
    const tell = (note: OwnerNote) => (request.dryRun === true ? undefined : tellOwner(pod, namespace, note));
    const of = `${ownerOf(pod).kind} ${namespace}/${ownerOf(pod).name}`;
    if (injected.outcome === 'left') {
      // Its owner hears all of it. What follows may quote the policy.
      log.warn({ pod: of, reason: injected.reason.split('\n', 1)[0] }, 'pod is left as it was');
      tell({ what: 'left', message: injected.reason });
      return { warnings: [`the pod is left as it was: ${injected.reason}`] };
    }
    log.info({ pod: of }, 'pod becomes a slot');
    for (const message of injected.warnings) tell({ what: 'limited', message });
    return { object: injected.pod, warnings: injected.warnings };
  }

  /** Whoever makes such pods: what would happen to them is told now, since warnings on pods reach controllers only. */
  async owner(request: AdmissionRequest, signal: AbortSignal): Promise<Verdict> {
    const { kind, object } = request;
    const template = templateOf(object);
    const namespace = request.namespace ?? 'default';
    if (template === undefined || !this.#concerns(template, namespace)) return { warnings: [] };
    const name = String(memberOf(memberOf(object, 'metadata'), 'name') ?? '');
    const controller = { apiVersion: 'apps/v1', kind: kind.kind, name, uid: '', controller: true };
    const pod: Pod = { ...template, metadata: { ...template.metadata, ownerReferences: [controller] } };
    const injected = await this.#injected(pod, namespace, signal, { entrypoint: ['unknown'], cmd: [] });
    return { warnings: injected.outcome === 'left' ? [`its pods will be left as they are: ${injected.reason}`] : injected.warnings };
  }

  #concerns({ metadata }: Pod, namespace: string): boolean {
    return metadata?.labels?.[ENABLED_LABEL] === 'true' && namespace !== this.#ownNamespace && !NEVER.includes(namespace);
  }

  /** Never rejects. `image`: what it is taken to run, if that is not to be found out. */
  async #injected(pod: Pod, namespace: string, outer: AbortSignal, image?: ImageConfig): Promise<Injected> {
    const { clock, files, minorVersion, log } = this.#deps;
    const stop = new AbortController();
    const signal = AbortSignal.any([outer, stop.signal]);
    const late = clock
      .sleep(LOOK_UP_MS, signal)
      .then(() => stop.abort(new RekindleError('timeout', `the API server took longer than ${LOOK_UP_MS / 1_000} s`)));
    late.catch(() => undefined);
    try {
      const [policy, found, surroundings] = await Promise.all([
        orAborted(this.#policy(pod, namespace, signal), signal),
        image ?? this.#image(pod, signal),
        orAborted(this.#surroundings(pod, namespace, signal), signal),
      ]);
      return inject({ pod, policy, image: found, surroundings, files: files(), minorVersion: minorVersion() });
    } catch (error) {
      const { code, message } = toRekindleError(error);
      if (code === 'internal') log.error({ err: error }, 'admission failed');
      return { outcome: 'left', reason: code === 'internal' ? 'the webhook failed, and its log says why' : message };
    } finally {
      stop.abort(new Error('over'));
    }
  }

  /** Throws `not_found` and `config_invalid`. */
  async #policy({ metadata }: Pod, namespace: string, signal: AbortSignal): Promise<PolicySpec> {
    const name = metadata?.annotations?.[PROPERTIES_ANNOTATION];
    if (name === undefined) return parsePolicyProperties('', '');
    const map = await this.#deps.cluster.get(CONFIG_MAPS, { name, namespace }, signal);
    const where = `ConfigMap ${namespace}/${name}`;
    if (map === undefined) throw new RekindleError('not_found', `there is no ${where}, which annotation ${PROPERTIES_ANNOTATION} names`);
    const text = map.data?.[PROPERTIES_KEY];
    if (text === undefined) throw new RekindleError('not_found', `${where} has no ${PROPERTIES_KEY}`);
    return parsePolicyProperties(text, where);
  }

  /** Not to know it is no failure: the injection says what that means. */
  async #image(pod: Pod, signal: AbortSignal): Promise<ImageConfig | undefined> {
    const asked = imageOfInterest(pod);
    if (asked === undefined) return undefined;
    const inTime = AbortSignal.any([signal, abortedAfter(IMAGE_MS)]);
    return orAborted(this.#deps.findImage(asked, inTime), inTime).catch(() => undefined);
  }

  async #surroundings(pod: Pod, namespace: string, signal: AbortSignal): Promise<Surroundings> {
    if (modeOf(pod) === 'restore') return NO_SURROUNDINGS;
    const { cluster } = this.#deps;
    const [autoscalers, limitRanges, quotas, services] = await Promise.all([
      cluster.list(AUTOSCALERS, { namespace }, signal),
      cluster.list(LIMIT_RANGES, { namespace }, signal),
      cluster.list(RESOURCE_QUOTAS, { namespace }, signal),
      cluster.list(SERVICES, { namespace }, signal),
    ]);
    return { autoscalers, limitRanges, quotas, services };
  }
}

function templateOf(object: object): Pod | undefined {
  const template = memberOf(memberOf(object, 'spec'), 'template');
  return typeof template === 'object' && template !== null ? template : undefined;
}

function memberOf(object: unknown, key: string): unknown {
  return typeof object === 'object' && object !== null ? Reflect.get(object, key) : undefined;
}
