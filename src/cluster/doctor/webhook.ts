import { X509Certificate } from 'node:crypto';
import type { V1MutatingWebhookConfiguration } from '@kubernetes/client-node';
import { type Finding, fail, ok, warn } from '../../lib/fact.ts';
import { ENABLED_LABEL, SLOT_PROGRAM } from '../../workloads/kubernetes.ts';
import type { Kind, Pod, Secret } from '../kinds.ts';
import { PODS } from '../kinds.ts';

const DAY_MS = 86_400_000;
const LOGS = 'kubectl -n rekindle logs deploy/rekindle-gateway says why';

/** As pods are, but what is created is only admitted, and nothing is made of it. */
export const REHEARSED_PODS: Kind<Pod> = { ...PODS, plural: `${PODS.plural}?dryRun=All` };

/** A pod that opted in and that nothing speaks against, fit for every pod security level. */
export function rehearsedPod(namespace: string): Pod {
  return {
    metadata: { generateName: 'rekindle-doctor-', namespace, labels: { [ENABLED_LABEL]: 'true' } },
    spec: {
      automountServiceAccountToken: false,
      securityContext: { runAsNonRoot: true, runAsUser: 65_532, seccompProfile: { type: 'RuntimeDefault' } },
      containers: [
        {
          name: 'app',
          image: 'rekindle-doctor',
          command: ['/bin/true'],
          resources: { requests: { cpu: '1m', memory: '1Mi' }, limits: { cpu: '1m', memory: '1Mi' } },
          securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: ['ALL'] } },
        },
      ],
    },
  };
}

/** What became of that pod. */
export function answer(pod: Pod): Finding {
  const name = 'answer';
  if (pod.spec?.containers.some(({ command }) => command?.[0] === SLOT_PROGRAM) === true)
    return ok(name, 'a pod that opts in becomes a slot');
  return fail(
    name,
    'a pod that opts in stays as it is: the API server could not ask the webhook, or it does not inject (after an uninstall)',
    `can the API server reach Service rekindle-webhook? ${LOGS}`,
  );
}

/** The object that tells the API server whom to ask, and the certificate by which it knows it. */
export function configuration(found: V1MutatingWebhookConfiguration | undefined, nowMs: number): Finding[] {
  const name = 'configuration';
  if (found === undefined)
    return [fail(name, 'there is no MutatingWebhookConfiguration rekindle: no pod becomes a slot', 'kubectl apply -k manifests/')];
  const webhooks = found.webhooks ?? [];
  const strict = webhooks.filter(({ failurePolicy }) => failurePolicy !== 'Ignore').map((webhook) => webhook.name);
  return [
    strict.length === 0
      ? ok(name, `${webhooks.length} webhooks; pods are made also while they are away`)
      : warn(name, `${strict.join(', ')} would keep pods from being made while it is away`, 'failurePolicy: Ignore'),
    authorityOf(
      webhooks.map(({ clientConfig }) => clientConfig.caBundle ?? ''),
      nowMs,
    ),
  ];
}

function authorityOf(bundles: readonly string[], nowMs: number): Finding {
  const name = 'caBundle';
  if (bundles.length === 0 || bundles.some((bundle) => bundle === ''))
    return fail(name, 'empty: the API server trusts nobody who answers', `a gateway writes it within seconds; ${LOGS}`);
  const certificates = bundles.flatMap(certificatesOf);
  if (certificates.length === 0) return fail(name, 'holds no certificate', `a gateway would write it: ${LOGS}`);
  const days = Math.max(...certificates.map(({ validTo }) => (Date.parse(validTo) - nowMs) / DAY_MS));
  if (days < 0) return fail(name, `expired ${Math.ceil(-days)} days ago`, LOGS);
  return days < 2
    ? warn(name, `ends in ${Math.ceil(days * 24)} hours and was not renewed`, LOGS)
    : ok(name, `valid for ${Math.floor(days)} days`);
}

/** Whether what the webhook shows was made by whom the API server trusts. */
export function serving(found: V1MutatingWebhookConfiguration | undefined, secret: Secret | undefined): Finding {
  const name = 'certificate';
  const [own] = certificatesOf(secret?.data?.['tls.crt'] ?? '');
  if (own === undefined) return fail(name, 'Secret rekindle-webhook-tls holds none', `a gateway makes it: ${LOGS}`);
  const trusted = (found?.webhooks ?? []).map(({ clientConfig }) => certificatesOf(clientConfig.caBundle ?? ''));
  const fits =
    trusted.length > 0 &&
    trusted.every((authorities) => authorities.some((authority) => own.checkIssued(authority) && own.verify(authority.publicKey)));
  return fits
    ? ok(name, `of ${own.subjectAltName ?? own.subject}, by the authority of caBundle`)
    : fail(name, 'not made by the authority of caBundle: the API server refuses it', LOGS);
}

/** Of PEM in base64; none for what holds none. */
function certificatesOf(bundle: string): X509Certificate[] {
  const text = Buffer.from(bundle, 'base64').toString('utf8');
  const parts = text.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [];
  return parts.flatMap((part) => {
    try {
      return [new X509Certificate(part)];
    } catch {
      return [];
    }
  });
}
