import { describe, expect, test } from 'vitest';
import type { Autoscaler, PodContainer } from '../../../../src/cluster/kinds.ts';
import { NO_SURROUNDINGS, type Surroundings } from '../../../../src/cluster/webhook/on-demand.ts';
import { aPod, injected } from './builders.ts';

const BURSTABLE = { requests: { cpu: '100m', memory: '64Mi' } };
const onDemand = (container: Partial<PodContainer> = {}, surroundings: Partial<Surroundings> = {}, minorVersion = 36) =>
  injected(aPod({ resources: BURSTABLE, ...container }, {}, { 'rekindle.dev/mode': 'on-demand' }), {
    surroundings: { ...NO_SURROUNDINGS, ...surroundings },
    minorVersion,
  });
const variable = ({ env = [] }: PodContainer, name: string) => env.find((one) => one.name === name)?.value;

const anAutoscaler = (metrics: NonNullable<Autoscaler['spec']>['metrics'], name = 'web'): Autoscaler => ({
  metadata: { name: 'by-use' },
  spec: { maxReplicas: 3, scaleTargetRef: { kind: 'Deployment', name }, ...(metrics === undefined ? {} : { metrics }) },
});

describe('a pod that parks', () => {
  test('tells its slot where to answer probes, and is parked from the beginning', () => {
    const { container, pod } = onDemand({
      ports: [{ name: 'web', containerPort: 8080 }],
      readinessProbe: { httpGet: { port: 'web' } },
      livenessProbe: { tcpSocket: { port: 9000 } },
      startupProbe: { httpGet: { port: 8080 } },
    });

    expect(variable(container, 'REKINDLE_MODE')).toBe('on-demand');
    expect(variable(container, 'REKINDLE_PARKED_PORTS')).toBe('8080,9000');
    expect(pod.metadata?.labels?.['rekindle.dev/state']).toBe('parked');
  });

  test('has its commands run through the slot, but is checked by the commands themselves', () => {
    const command = ['test', '-e', '/ready'];

    const { container, description } = onDemand({ readinessProbe: { exec: { command } }, livenessProbe: { exec: { command } } });

    expect(container.readinessProbe?.exec?.command).toEqual(['/rekindle/slot', 'probe', '--', ...command]);
    expect(container.livenessProbe?.exec?.command).toEqual(['/rekindle/slot', 'probe', '--', ...command]);
    expect(description.container.readiness).toMatchObject({ command: "exec 'test' '-e' '/ready'" });
    expect(variable(container, 'REKINDLE_PARKED_PORTS')).toBeUndefined();
  });

  test('is not killed for its liveness within the time that its start may take', () => {
    const tcpSocket = { port: 80 };

    const started = onDemand({
      startupProbe: { tcpSocket, initialDelaySeconds: 5, periodSeconds: 10, failureThreshold: 6 },
      livenessProbe: { tcpSocket, periodSeconds: 20, failureThreshold: 3 },
    });
    const delayed = onDemand({ livenessProbe: { tcpSocket, initialDelaySeconds: 60 } });

    expect(started.container.livenessProbe).toMatchObject({ periodSeconds: 20, failureThreshold: 3 + 4 });
    expect(delayed.container.livenessProbe).toMatchObject({ failureThreshold: 3 + 6 });
  });

  test('has nothing to warn about when it can be made smaller', () => {
    expect(onDemand().warnings).toEqual([]);
  });
});

describe('what cannot park is restored like others, and says why:', () => {
  const grpc = { port: 80 };

  test.each<[string, Partial<PodContainer>, Partial<Surroundings>, number]>([
    ['gRPC', { livenessProbe: { grpc } }, {}, 36],
    ['HTTPS', { readinessProbe: { httpGet: { port: 443, scheme: 'HTTPS' } } }, {}, 36],
    ['asks another host', { readinessProbe: { tcpSocket: { port: 443, host: 'db' } } }, {}, 36],
    ['asks a port', { startupProbe: { tcpSocket: { port: 'web' } } }, {}, 36],
    ['Kubernetes 1.32', {}, {}, 32],
    ['HorizontalPodAutoscaler by-use', {}, { autoscalers: [anAutoscaler(undefined)] }, 36],
    [
      'HorizontalPodAutoscaler by-use',
      {},
      { autoscalers: [anAutoscaler([{ type: 'Resource', resource: { name: 'cpu', target: { type: 'Utilization' } } }])] },
      36,
    ],
  ])('%s', (word, container, surroundings, minorVersion) => {
    const slot = onDemand(container, surroundings, minorVersion);

    expect(slot.warnings.filter((warning) => warning.startsWith('pods are restored but do not park: '))).toEqual([
      expect.stringContaining(word),
    ]);
    expect(variable(slot.container, 'REKINDLE_MODE')).toBeUndefined();
    expect(slot.pod.metadata?.labels?.['rekindle.dev/state']).toBe('waiting');
  });

  test('not where the autoscaler is of others, or looks at something else', () => {
    const external = anAutoscaler([{ type: 'External', external: { metric: { name: 'm' }, target: { type: 'AverageValue' } } }]);

    expect(onDemand({}, { autoscalers: [anAutoscaler(undefined, 'other'), external] }).warnings).toEqual([]);
  });
});

describe('what parks but stays large says why:', () => {
  const limits = { cpu: '100m', memory: '64Mi' };
  const limitRange = (limit: object) => ({
    limitRanges: [{ metadata: { name: 'range' }, spec: { limits: [{ type: 'Container', ...limit }] } }],
  });

  test.each<[string, Partial<PodContainer>, Partial<Surroundings>]>([
    ['QoS class Guaranteed', { resources: { limits } }, {}],
    ['QoS class Guaranteed', { resources: { limits, requests: { cpu: '0.1', memory: '65536Ki' } } }, {}],
    ['there are none', { resources: {} }, {}],
    [
      'keep what they request of memory: its resizePolicy is RestartContainer',
      { resizePolicy: [{ resourceName: 'memory', restartPolicy: 'RestartContainer' }] },
      {},
    ],
    ['request as much as the minimum of LimitRange range', {}, limitRange({ min: { cpu: '50m' } })],
    ['request as much as the maxLimitRequestRatio of LimitRange range demands', {}, limitRange({ maxLimitRequestRatio: { cpu: '2' } })],
  ])('%s', (word, container, surroundings) => {
    const { warnings } = onDemand(container, surroundings);

    expect(warnings).toEqual([expect.stringMatching(/^parked pods (keep|request) /)]);
    expect(warnings[0]).toContain(word);
  });

  test.each<[string, Record<string, string> | undefined, boolean]>([
    ['of all its pods', { app: 'web' }, true],
    ['of its pods in another state', { app: 'web', 'rekindle.dev/state': 'parked' }, true],
    ['of its live pods', { app: 'web', 'rekindle.dev/state': 'live' }, false],
    ['of other pods', { app: 'db' }, false],
    ['without a selector', undefined, false],
  ])('a Service %s', (_, selector, told) => {
    const services = [{ metadata: { name: 'front' }, spec: selector === undefined ? {} : { selector } }];

    const { warnings } = onDemand({}, { services });

    expect(warnings).toEqual(told ? [expect.stringMatching(/^Service front selects parked pods too.*rekindle.dev\/state: live/)] : []);
  });

  test('a quota that counts requests is told', () => {
    const quotas = [{ metadata: { name: 'team' }, spec: { hard: { 'requests.memory': '1Gi' } } }];

    expect(onDemand({}, { quotas }).warnings).toEqual([expect.stringContaining('ResourceQuota team')]);
  });
});

test('a mode that there is not is told, and means restore', () => {
  const slot = injected(aPod({}, {}, { 'rekindle.dev/mode': 'ondemand' }));

  expect(slot.warnings).toEqual([expect.stringContaining('is ondemand, which is neither')]);
  expect(variable(slot.container, 'REKINDLE_MODE')).toBeUndefined();
});
