import { describe, expect, test } from 'vitest';
import type { PodContainer, PodProbe } from '../../../../src/cluster/kinds.ts';
import { aPod, injected } from './builders.ts';

const described = (container: Partial<PodContainer>, properties = '') => injected(aPod(container), { properties });

describe('the check before a checkpoint', () => {
  const timing = { initialDelaySeconds: 0, periodSeconds: 1, timeoutSeconds: 1, successThreshold: 1, failureThreshold: 300 };

  test.each<[string, PodProbe, object]>([
    ['a command', { exec: { command: ['pg_isready', '-h', "it's"] } }, { command: "exec 'pg_isready' '-h' 'it'\\''s'" }],
    ['a line of shell', { exec: { command: ['sh', '-c', 'test -e /ready && true'] } }, { command: 'test -e /ready && true' }],
    ['HTTP', { httpGet: { port: 80 } }, { http: { path: '/', port: 80 } }],
    [
      'HTTP with a named port, headers and a path as people write it',
      { httpGet: { path: 'ready?x=é', port: 'web', httpHeaders: [{ name: 'Host', value: 'shop' }] } },
      { http: { path: '/ready?x=%C3%A9', port: 8080, headers: { Host: 'shop' } } },
    ],
    ['TCP', { tcpSocket: { port: 'web' } }, { tcp: { port: 8080 } }],
    ['gRPC', { grpc: { port: 9000, service: 'shop' } }, { grpc: { port: 9000, service: 'shop' } }],
    ['HTTPS, as a connection', { httpGet: { port: 443, scheme: 'HTTPS' } }, { tcp: { port: 443 } }],
  ])('is the readiness probe: %s', (_, readinessProbe, probe) => {
    const { description } = described({ readinessProbe, ports: [{ name: 'web', containerPort: 8080 }] });

    expect(description.container.readiness).toEqual({ ...probe, ...timing });
  });

  test('waits as long as the startup probe lets the application start', () => {
    const startupProbe = { tcpSocket: { port: 80 }, periodSeconds: 10, failureThreshold: 60 };

    expect(described({ startupProbe }).description.container.readiness).toMatchObject({ tcp: { port: 80 }, failureThreshold: 600 });
  });

  test('is asked for no longer than an agent waits for anybody, whatever Kubernetes takes', () => {
    const tcpSocket = { port: 80 };
    const most = 2 ** 31 - 1;
    const endless = { tcpSocket, initialDelaySeconds: most, timeoutSeconds: most, successThreshold: most, periodSeconds: most };

    const { description } = described({ readinessProbe: endless, startupProbe: { ...endless, failureThreshold: most } });

    expect(description.container.readiness).toMatchObject({
      initialDelaySeconds: 3_600,
      timeoutSeconds: 3_600,
      successThreshold: 1_000,
      failureThreshold: 100_000,
    });
  });

  test('is what the policy says, where it says so', () => {
    const { description } = described({ readinessProbe: { tcpSocket: { port: 80 } } }, 'cr.container.readiness=true');

    expect(description.container.readiness).toBe('true');
  });

  test('is none where the probe asks a port of which nobody knows the number, which is told', () => {
    const { description, warnings } = described({ readinessProbe: { tcpSocket: { port: 'web' } } });

    expect(description.container.readiness).toBeUndefined();
    expect(warnings).toEqual([expect.stringContaining('asks a port')]);
  });
});

describe('probes of a restored container', () => {
  test.each<[PodProbe, PodProbe]>([
    [{}, { periodSeconds: 1, failureThreshold: 30 }],
    [
      { periodSeconds: 5, failureThreshold: 2, timeoutSeconds: 1, successThreshold: 2 },
      { periodSeconds: 1, failureThreshold: 10, timeoutSeconds: 1, successThreshold: 2 },
    ],
    [
      { periodSeconds: 1, failureThreshold: 3 },
      { periodSeconds: 1, failureThreshold: 3 },
    ],
  ])('readiness and startup are asked every second, and give up after the same time: %j', (before, after) => {
    const tcpSocket = { port: 80 };

    const { container } = described({
      readinessProbe: { ...before, tcpSocket },
      startupProbe: { ...before, tcpSocket },
      livenessProbe: { ...before, tcpSocket },
    });

    expect(container.readinessProbe).toEqual({ ...after, tcpSocket });
    expect(container.startupProbe).toEqual({ ...after, tcpSocket });
    expect(container.livenessProbe).toEqual({ ...before, tcpSocket });
  });

  test.each([
    { period: 10, timeout: 5, failures: 3, becomes: 6 },
    { period: 10, timeout: 3, failures: 3, becomes: 10 },
    { period: 10, timeout: 4, failures: 3, becomes: 8 },
    { period: 5, timeout: 30, failures: 2, becomes: 2 },
    { period: 1, timeout: 5, failures: 3, becomes: 3 },
  ])('an application that hangs is out of service after the same time, also with $failures attempts of $timeout s every $period s', (one) => {
    const probe = { tcpSocket: { port: 80 }, periodSeconds: one.period, timeoutSeconds: one.timeout, failureThreshold: one.failures };

    const { container } = described({ readinessProbe: probe, startupProbe: probe });

    expect(container.readinessProbe).toEqual({ ...probe, periodSeconds: 1, failureThreshold: one.becomes });
    const [before, after] = [one.failures * Math.max(one.period, one.timeout), one.becomes * one.timeout];
    expect(after).toBeGreaterThanOrEqual(before);
    expect(after).toBeLessThan(before + one.timeout);
    // One that is refused while the application starts is over at once: no fewer attempts than before, or it is killed too early.
    expect(container.startupProbe).toEqual({ ...probe, periodSeconds: 1, failureThreshold: one.failures * one.period });
  });

  test('stay as they are where the annotation says so', () => {
    const readinessProbe = { tcpSocket: { port: 80 }, periodSeconds: 5 };

    const { container } = injected(aPod({ readinessProbe }, {}, { 'rekindle.dev/probe-period': 'keep' }));

    expect(container.readinessProbe).toEqual(readinessProbe);
  });
});
