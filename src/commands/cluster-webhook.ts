import { keepCertificates } from '../cluster/certificates.ts';
import type { Cluster } from '../cluster/cluster.ts';
import { Gates } from '../cluster/gates.ts';
import { ImageConfigs, type ImageConfigsDeps } from '../cluster/image-config.ts';
import { NODES, PODS } from '../cluster/kinds.ts';
import { Registry } from '../cluster/registry.ts';
import { resolveName } from '../cluster/registry-http.ts';
import { Admission } from '../cluster/webhook/admission.ts';
import { canUseImageVolumes } from '../cluster/webhook/image-volumes.ts';
import { OwnerNotes } from '../cluster/webhook/owner-notes.ts';
import { openWebhook } from '../cluster/webhook/server.ts';
import { trustKeeper } from '../cluster/webhook/trust.ts';
import { monotonicClock, systemClock } from '../lib/clock.ts';
import { RekindleError } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';
import { type LoopDeps, runLoop } from '../lib/loop.ts';
import { ENABLED_LABEL } from '../workloads/kubernetes.ts';
import type { Listen } from './listen.ts';

export type ClusterWebhookDeps = {
  readonly cluster: Cluster;
  readonly ofNodes: ImageConfigsDeps['ofNodes'];
  readonly log: Log;
  readonly onPass?: LoopDeps['onPass'];
};

export type ClusterWebhookOptions = {
  readonly listen: Listen;
  /** Rekindle's own. */
  readonly namespace: string;
  readonly slotImage: string;
  readonly slotFiles: 'auto' | 'image' | 'copy';
  readonly plainRegistries: readonly string[];
  /** The MutatingWebhookConfiguration; that of the manifests is `rekindle`. */
  readonly configuration: string;
  /** Names and addresses under which the API server reaches it besides its Service. The same for all replicas: they share a certificate. */
  readonly names?: readonly string[];
};

/** Names of the manifests. */
const SERVICE = 'rekindle-webhook';
const SECRET = 'rekindle-webhook-tls';
const AGENTS = 'app.kubernetes.io/name=rekindle-agent';

/** How often is looked whether the cluster has been upgraded. */
const VERSION_EVERY_MS = 600_000;
/** What Kubernetes calls the processors that Node names otherwise. */
const ARCHITECTURES: Readonly<Record<string, string>> = { x64: 'amd64', arm64: 'arm64' };

/**
 * What a gateway does in a cluster besides: the webhook, with its certificates and the trust in them, and gates that nobody else opens. Resolves when the
 * webhook listens, which needs the API server once. Disposing, in this order: the listener closes once what was asked is answered, the loops end.
 */
export async function openClusterWebhook(
  { cluster, ofNodes, log, onPass }: ClusterWebhookDeps,
  { listen, namespace, slotImage, slotFiles, plainRegistries, configuration, names = [] }: ClusterWebhookOptions,
  signal: AbortSignal,
): Promise<AsyncDisposable & { readonly url: string }> {
  await using stack = new AsyncDisposableStack();
  const ended = new AbortController();
  const until = AbortSignal.any([signal, ended.signal]);
  const loops: Promise<void>[] = [];
  stack.defer(async () => {
    ended.abort(new Error('the webhook has ended'));
    await Promise.all(loops);
  });
  const loopDeps = { clock: monotonicClock, log, ...(onPass === undefined ? {} : { onPass }) };
  const certificates = await keepCertificates(
    { cluster, clock: systemClock, log },
    { namespace, secretName: SECRET, names: [`${SERVICE}.${namespace}.svc`, ...names] },
    until,
  );
  loops.push(certificates.done);

  let minorVersion = await cluster.minorVersion(until);
  const upgraded = async () => {
    minorVersion = await cluster.minorVersion(until);
    return { requeueAfterMs: VERSION_EVERY_MS };
  };
  const nodes = cluster.follow(NODES, {}, () => undefined, until);
  await nodes.synced;
  const byVolume = () => (slotFiles === 'auto' ? canUseImageVolumes(minorVersion, nodes.items()) : slotFiles === 'image');
  const architecture = ARCHITECTURES[process.arch] ?? process.arch;
  const registry = new Registry({ plain: plainRegistries, resolve: resolveName, architecture });
  const images = new ImageConfigs({ ofNodes, ofRegistry: (reference, of) => registry.find(reference, of), clock: monotonicClock });
  const notes = new OwnerNotes({ cluster, clock: systemClock, log });
  const admission = new Admission(
    {
      cluster,
      clock: monotonicClock,
      log,
      findImage: (asked, of) => images.find(asked, of),
      tellOwner: (pod, of, note) => notes.tell(pod, of, note, until),
      files: () => ({ slotImage, imageVolumes: byVolume() }),
      minorVersion: () => minorVersion,
    },
    { namespace },
  );
  const webhook = stack.use(await openWebhook({ admission, certificates, log }, listen, until));

  const trust = runLoop(trustKeeper({ cluster, certificates }, { name: configuration }), loopDeps, until);
  stack.defer(certificates.onChange(trust.wake));
  loops.push(trust.done, runLoop({ name: 'cluster-version', reconcile: upgraded }, loopDeps, until).done);

  const wake = () => gates.wake();
  const pods = cluster.follow(PODS, { labels: `${ENABLED_LABEL}=true` }, wake, until);
  const agents = cluster.follow(PODS, { namespace, labels: AGENTS }, wake, until);
  const gates = runLoop(new Gates({ cluster, pods, agents, clock: systemClock, log }), loopDeps, until);
  loops.push(gates.done);

  const owned = stack.move();
  return { url: webhook.url, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** Between attempts to begin while the API server is away, or does not let us. */
const AGAIN_MS = 2_000;
/** A gateway answers requests without its webhook, too. */
const PATIENCE_MS = 10_000;

/** {@link openClusterWebhook}, tried until it works; resolves then, or after ten seconds, when it goes on in the background. Throws only what no patience helps. */
export async function beginClusterWebhook(
  deps: ClusterWebhookDeps,
  options: ClusterWebhookOptions,
  signal: AbortSignal,
): Promise<AsyncDisposable> {
  const { log } = deps;
  const ended = new AbortController();
  const until = AbortSignal.any([signal, ended.signal]);
  const attempts = async (): Promise<AsyncDisposable | undefined> => {
    for (let failures = 0; !until.aborted; failures += 1) {
      try {
        const webhook = await openClusterWebhook(deps, options, until);
        log.info({ url: webhook.url, failures }, 'webhook listens');
        return webhook;
      } catch (err) {
        if (until.aborted) return undefined;
        if (err instanceof RekindleError && ['usage', 'config_invalid'].includes(err.code)) throw err;
        if (failures === 0) log.error({ err }, 'webhook cannot begin');
        await monotonicClock.sleep(AGAIN_MS, until).catch(() => undefined);
      }
    }
    return undefined;
  };
  const opened = attempts();
  // What fails later is heard by whoever disposes.
  opened.catch(() => undefined);
  await Promise.race([opened, monotonicClock.sleep(PATIENCE_MS, until).catch(() => undefined)]);
  return {
    [Symbol.asyncDispose]: async () => {
      ended.abort(new Error('the gateway ends'));
      await (await opened)?.[Symbol.asyncDispose]();
    },
  };
}
