import { type Finding, fail, ok, warn } from '../../lib/fact.ts';
import type { Cluster } from '../cluster.ts';
import { NAMESPACES, SUBJECT_ACCESS_REVIEWS } from '../kinds.ts';

/** A right, as `kubectl auth can-i` has them. */
type Right = {
  readonly verb: string;
  readonly resource: string;
  readonly subresource?: string;
  readonly group?: string;
  readonly name?: string;
};
type Account = { readonly may: readonly Right[]; readonly mayNot: readonly Right[] };

const WEBHOOKS = { group: 'admissionregistration.k8s.io', resource: 'mutatingwebhookconfigurations', name: 'rekindle' };

/** What each role cannot do without, and what none of them should be able to do: together with admission-policy.yaml, all of its rights that matter. */
const ACCOUNTS: Readonly<Record<string, Account>> = {
  'rekindle-agent': {
    may: [
      { verb: 'watch', resource: 'pods' },
      { verb: 'patch', resource: 'pods', subresource: 'status' },
      { verb: 'create', resource: 'events' },
    ],
    mayNot: [
      { verb: 'get', resource: 'secrets' },
      { verb: 'create', resource: 'pods' },
      { verb: 'patch', resource: 'pods' },
      { verb: 'delete', resource: 'pods' },
      { verb: 'create', resource: 'pods', subresource: 'exec' },
    ],
  },
  'rekindle-gateway': {
    may: [
      { verb: 'watch', resource: 'pods' },
      { verb: 'get', resource: 'configmaps' },
      { verb: 'patch', resource: 'pods', subresource: 'status' },
      { verb: 'patch', ...WEBHOOKS },
    ],
    mayNot: [
      { verb: 'get', resource: 'secrets' },
      { verb: 'create', resource: 'pods', subresource: 'exec' },
    ],
  },
  'rekindle-scaler': {
    may: [
      { verb: 'watch', resource: 'pods' },
      { verb: 'patch', resource: 'pods', subresource: 'resize' },
    ],
    mayNot: [
      { verb: 'get', resource: 'secrets' },
      { verb: 'create', resource: 'pods', subresource: 'exec' },
    ],
  },
};

/** What an account of rekindle's may do: no less than it needs, and no more than it should. */
export async function rightsOf(
  cluster: Pick<Cluster, 'create'>,
  namespace: string,
  account: string,
  signal: AbortSignal,
): Promise<Finding> {
  const { may, mayNot } = ACCOUNTS[account] ?? { may: [], mayNot: [] };
  const can = async (right: Right) => ((await allowed(cluster, namespace, account, right, signal)) ? [right] : []);
  const [held, tooMuch] = await Promise.all([Promise.all(may.map(can)), Promise.all(mayNot.map(can))]);
  const missing = may.filter((right) => !held.flat().includes(right));
  if (missing.length > 0)
    return fail(account, `may not ${missing.map(inWords).join(', ')}`, 'kubectl apply -k manifests/ restores its roles');
  if (tooMuch.flat().length > 0)
    return warn(
      account,
      `may ${tooMuch.flat().map(inWords).join(', ')}, which it does not need`,
      'look for a role binding that is not of manifests/',
    );
  return ok(account, 'has what it needs, and not what it should not have');
}

async function allowed(
  cluster: Pick<Cluster, 'create'>,
  namespace: string,
  account: string,
  right: Right,
  signal: AbortSignal,
): Promise<boolean> {
  const groups = ['system:serviceaccounts', `system:serviceaccounts:${namespace}`, 'system:authenticated'];
  const spec = {
    user: `system:serviceaccount:${namespace}:${account}`,
    groups,
    resourceAttributes: { ...right, group: right.group ?? '' },
  };
  return (await cluster.create(SUBJECT_ACCESS_REVIEWS, { spec }, signal)).status?.allowed === true;
}

function inWords({ verb, resource, subresource }: Right): string {
  return `${verb} ${subresource === undefined ? resource : `${resource}/${subresource}`}`;
}

/** The ValidatingAdmissionPolicyBindings that say which pods agents and the scaler may write to, and what. */
export function admissionPolicies(ofStatus: unknown, ofResize: unknown): Finding {
  const name = 'admission policies';
  const missing = [
    ...(ofStatus === undefined ? ['an agent could write the status of any pod'] : []),
    ...(ofResize === undefined ? ['the scaler could resize any pod'] : []),
  ];
  if (missing.length === 0)
    return ok(name, 'agents can write about opted-in pods of their own node only, the scaler changes only requests of opted-in pods');
  return warn(name, `missing: ${missing.join(', ')}`, 'kubectl apply -k manifests/ (Kubernetes 1.30)');
}

/** The agent is privileged: its namespace must let it. */
export async function podSecurity(cluster: Pick<Cluster, 'get'>, namespace: string, signal: AbortSignal): Promise<Finding> {
  const name = 'pod security';
  const found = await cluster.get(NAMESPACES, { name: namespace }, signal);
  if (found === undefined)
    return fail(name, `there is no namespace ${namespace}: rekindle is not installed`, 'kubectl apply -k manifests/');
  const level = found.metadata?.labels?.['pod-security.kubernetes.io/enforce'];
  if (level === 'privileged') return ok(name, `namespace ${namespace} lets the agent be privileged; opted-in pods can be of any level`);
  const remedy = `kubectl label ns ${namespace} --overwrite pod-security.kubernetes.io/enforce=privileged`;
  return level === undefined
    ? warn(name, `namespace ${namespace} says nothing: where the cluster's default is stricter, no agent is made`, remedy)
    : fail(name, `namespace ${namespace} enforces ${level}: no agent can be made`, remedy);
}
