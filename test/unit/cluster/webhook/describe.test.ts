import { describe, expect, test } from 'vitest';
import type { EnvVar, PodContainer, PodSpec } from '../../../../src/cluster/kinds.ts';
import { coldReason } from '../../../../src/workloads/normalise.ts';
import { aPod, injected } from './builders.ts';

const described = (container: Partial<PodContainer>, spec: Partial<PodSpec> = {}) => injected(aPod(container, spec)).description.container;
const field = (name: string, fieldPath: string): EnvVar => ({ name, valueFrom: { fieldRef: { fieldPath } } });

describe('variables that differ per pod', () => {
  test.each([
    ['metadata.name', 'name'],
    ['metadata.uid', 'uid'],
    ['status.podIP', 'address'],
    ['status.podIPs', 'pod'],
    ['spec.nodeName', 'pod'],
    ['status.hostIP', 'pod'],
    ["metadata.labels['statefulset.kubernetes.io/pod-name']", 'pod'],
  ])('are those of %s', (path, what) => {
    expect(described({ env: [field('A', path)] }).instanceEnv).toEqual({ A: what });
  });

  test('are not those that are equal for all pods of a template, or make snapshots of their own', () => {
    const env: EnvVar[] = [
      field('A', 'metadata.namespace'),
      field('B', 'spec.serviceAccountName'),
      field('C', "metadata.labels['app']"),
      { name: 'D', valueFrom: { resourceFieldRef: { resource: 'limits.memory' } } },
      { name: 'E', valueFrom: { secretKeyRef: { name: 's', key: 'k' } } },
    ];

    expect(described({ env }).instanceEnv).toEqual({});
  });

  test('are those made of them too, where Kubernetes puts them in', () => {
    const env: EnvVar[] = [
      { name: 'EARLY', value: 'http://$(IP)' },
      field('IP', 'status.podIP'),
      { name: 'URL', value: 'http://$(IP):80' },
      { name: 'DEEP', value: '$(URL)/x' },
      { name: 'PRICE', value: '$$(IP)' },
    ];

    expect(described({ env }).instanceEnv).toEqual({ IP: 'address', URL: 'pod', DEEP: 'pod' });
  });

  test('make every pod start cold, unless the policy says what clones do about them', () => {
    const pod = aPod({ env: [field('IP', 'status.podIP')] });

    expect(coldReason(injected(pod).description)).toContain('IP differs per instance');
    expect(coldReason(injected(pod, { properties: 'cr.restore.identity=ignore' }).description)).toBeUndefined();
  });
});

test('limits, ports and rights are those of the container; other protocols than TCP are no ports', () => {
  const container = described({
    ports: [{ containerPort: 80 }, { containerPort: 53, protocol: 'UDP' }],
    resources: { limits: { cpu: '1500m', memory: '1.5Gi' } },
    securityContext: { readOnlyRootFilesystem: true, allowPrivilegeEscalation: false },
  });

  expect(container).toMatchObject({
    ports: [80],
    cpus: 1.5,
    memoryMiB: 1536,
    readOnlyRoot: true,
    noNewPrivileges: true,
    seccomp: 'default',
  });
});

test('what can be read of a pod holds nothing of its environment', () => {
  const { pod } = injected(aPod({ env: [{ name: 'PASSWORD', value: 'geheim' }] }));

  expect(pod.metadata?.annotations?.['rekindle.dev/workload']).not.toContain('geheim');
});

test('only an emptyDir that this container alone has, whole and for writing, is private', () => {
  const mounts = ['own', 'shared', 'part', 'read', 'claim'].map((name) => ({ name, mountPath: `/${name}` }));
  const container = described(
    {
      volumeMounts: mounts.map((mount) => ({
        ...mount,
        ...(mount.name === 'part' ? { subPath: 'x' } : {}),
        ...(mount.name === 'read' ? { readOnly: true } : {}),
      })),
    },
    {
      volumes: [...['own', 'shared', 'part', 'read'].map((name) => ({ name, emptyDir: {} })), { name: 'claim', configMap: { name: 'c' } }],
      initContainers: [{ name: 'i', volumeMounts: [{ name: 'shared', mountPath: '/s' }] }],
    },
  );

  expect(container.volumes).toEqual([{ at: '/own', private: 'disk' }]);
});
