import type {
  CoreV1Event,
  V1APIService,
  V1ConfigMap,
  V1Container,
  V1DaemonSet,
  V1Deployment,
  V1EnvVar,
  V1Lease,
  V1LimitRange,
  V1MutatingWebhookConfiguration,
  V1Namespace,
  V1Node,
  V1ObjectMeta,
  V1Pod,
  V1PodSpec,
  V1Probe,
  V1ReplicaSet,
  V1ResourceQuota,
  V1Secret,
  V1Service,
  V1StatefulSet,
  V1SubjectAccessReview,
  V1TokenReview,
  V2HorizontalPodAutoscaler,
} from '@kubernetes/client-node';

export type Pod = V1Pod;
export type PodSpec = V1PodSpec;
export type PodContainer = V1Container;
export type PodProbe = V1Probe;
export type EnvVar = V1EnvVar;
export type Autoscaler = V2HorizontalPodAutoscaler;
export type LimitRange = V1LimitRange;
export type ResourceQuota = V1ResourceQuota;
export type Secret = V1Secret;
export type Node = V1Node;

/** A kind of object and where the API server has it. */
export type Kind<T> = {
  readonly apiVersion: string;
  readonly kind: string;
  /** `api/v1` or `apis/GROUP/VERSION`. */
  readonly path: string;
  readonly plural: string;
  readonly namespaced: boolean;
  /** Only ties the type to the kind; never there. */
  readonly type?: T;
};

function kind<T>(apiVersion: string, name: string, plural: string, namespaced = true): Kind<T> {
  return { apiVersion, kind: name, path: apiVersion.includes('/') ? `apis/${apiVersion}` : `api/${apiVersion}`, plural, namespaced };
}

export const PODS = kind<V1Pod>('v1', 'Pod', 'pods');
export const CONFIG_MAPS = kind<V1ConfigMap>('v1', 'ConfigMap', 'configmaps');
export const SECRETS = kind<V1Secret>('v1', 'Secret', 'secrets');
export type Service = V1Service;
export const SERVICES = kind<Service>('v1', 'Service', 'services');
export const EVENTS = kind<CoreV1Event>('v1', 'Event', 'events');
export const NAMESPACES = kind<V1Namespace>('v1', 'Namespace', 'namespaces', false);
export const NODES = kind<V1Node>('v1', 'Node', 'nodes', false);
export const LIMIT_RANGES = kind<V1LimitRange>('v1', 'LimitRange', 'limitranges');
export const RESOURCE_QUOTAS = kind<V1ResourceQuota>('v1', 'ResourceQuota', 'resourcequotas');
export const DEPLOYMENTS = kind<V1Deployment>('apps/v1', 'Deployment', 'deployments');
export const REPLICA_SETS = kind<V1ReplicaSet>('apps/v1', 'ReplicaSet', 'replicasets');
export const STATEFUL_SETS = kind<V1StatefulSet>('apps/v1', 'StatefulSet', 'statefulsets');
export const DAEMON_SETS = kind<V1DaemonSet>('apps/v1', 'DaemonSet', 'daemonsets');
export const LEASES = kind<V1Lease>('coordination.k8s.io/v1', 'Lease', 'leases');
export const AUTOSCALERS = kind<V2HorizontalPodAutoscaler>('autoscaling/v2', 'HorizontalPodAutoscaler', 'horizontalpodautoscalers');
export const MUTATING_WEBHOOKS = kind<V1MutatingWebhookConfiguration>(
  'admissionregistration.k8s.io/v1',
  'MutatingWebhookConfiguration',
  'mutatingwebhookconfigurations',
  false,
);
/** Only ever removed. */
type Any = { readonly metadata?: V1ObjectMeta };
const ADMISSION = 'admissionregistration.k8s.io/v1';
const RBAC = 'rbac.authorization.k8s.io/v1';
export const ADMISSION_POLICIES = kind<Any>(ADMISSION, 'ValidatingAdmissionPolicy', 'validatingadmissionpolicies', false);
export const ADMISSION_BINDINGS = kind<Any>(ADMISSION, 'ValidatingAdmissionPolicyBinding', 'validatingadmissionpolicybindings', false);
export const CLUSTER_ROLES = kind<Any>(RBAC, 'ClusterRole', 'clusterroles', false);
export const CLUSTER_ROLE_BINDINGS = kind<Any>(RBAC, 'ClusterRoleBinding', 'clusterrolebindings', false);
export const ROLE_BINDINGS = kind<Any>(RBAC, 'RoleBinding', 'rolebindings');
export const PRIORITY_CLASSES = kind<Any>('scheduling.k8s.io/v1', 'PriorityClass', 'priorityclasses', false);
export const API_SERVICES = kind<V1APIService>('apiregistration.k8s.io/v1', 'APIService', 'apiservices', false);
export const TOKEN_REVIEWS = kind<V1TokenReview>('authentication.k8s.io/v1', 'TokenReview', 'tokenreviews', false);
export const SUBJECT_ACCESS_REVIEWS = kind<V1SubjectAccessReview>(
  'authorization.k8s.io/v1',
  'SubjectAccessReview',
  'subjectaccessreviews',
  false,
);
