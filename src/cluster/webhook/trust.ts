import type { Controller } from '../../lib/loop.ts';
import type { Certificates } from '../certificates.ts';
import type { Cluster } from '../cluster.ts';
import { MUTATING_WEBHOOKS } from '../kinds.ts';

const LOOK_EVERY_MS = 30_000;

/** Keeps `caBundle` in the configuration of the webhook: what our certificate is trusted by. Every replica does, with the same result. */
export function trustKeeper(
  { cluster, certificates }: { readonly cluster: Pick<Cluster, 'get' | 'patch'>; readonly certificates: Pick<Certificates, 'caBundle'> },
  { name }: { readonly name: string },
): Controller {
  return {
    name: `trust in ${name}`,
    reconcile: async (signal) => {
      const configuration = await cluster.get(MUTATING_WEBHOOKS, { name }, signal);
      const caBundle = Buffer.from(certificates.caBundle()).toString('base64');
      const patch = (configuration?.webhooks ?? []).flatMap((webhook, index) =>
        webhook.clientConfig.caBundle === caBundle
          ? []
          : [
              // Somebody may have changed the list meanwhile.
              { op: 'test', path: `/webhooks/${index}/name`, value: webhook.name },
              { op: 'add', path: `/webhooks/${index}/clientConfig/caBundle`, value: caBundle },
            ],
      );
      if (patch.length > 0) await cluster.patch(MUTATING_WEBHOOKS, { name }, patch, 'json', signal);
      return { requeueAfterMs: LOOK_EVERY_MS };
    },
  };
}
