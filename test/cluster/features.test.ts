import { beforeAll, describe, expect, test } from 'vitest';
import { APPS, installed } from './fixture/cluster.ts';
import { aNamespace } from './fixture/namespace.ts';
import { get, nameOf, scaledOut, startOf } from './fixture/snapshots.ts';
import { aDeployment, aWho, newEnvironment, PATIENT, PORT, propertiesOf, type Who } from './fixture/workloads.ts';

/** Whatever else a pod may have goes on working when it is restored. */
const space = aNamespace();
const TIMEOUT = { timeout: 360_000 };
const podName = { name: 'POD_NAME', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } };

/** The node sample's behaviour matters less here than its health: `grpc.health.v1.Health/Check` always answers SERVING. */
const HEALTH = `
const http2 = require('node:http2');
const until = Date.now() + 1000; while (Date.now() < until);
const SERVING = Buffer.from([0, 0, 0, 0, 2, 8, 1]);
let checks = 0;
http2.createServer().on('stream', (stream, headers) => {
  stream.resume();
  console.log('asked ' + ++checks + ' ' + headers[':path']);
  stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true });
  stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': '0' }));
  stream.end(SERVING);
}).listen(${PORT});
`;

beforeAll(async () => {
  await installed();
  await space.apply(propertiesOf('patient', PATIENT));
});

describe.concurrent('pods are restored', () => {
  test('with a read-only root, an init container, TCP probes and hooks for their start and their end', TIMEOUT, async () => {
    const tmp = { name: 'tmp', mountPath: '/tmp' };
    const kept = { name: 'kept', mountPath: '/kept' };
    const tcp = { tcpSocket: { port: PORT } };
    await space.apply(
      aWho('whole', {
        container: {
          securityContext: { readOnlyRootFilesystem: true },
          volumeMounts: [tmp, { ...kept, readOnly: true }],
          startupProbe: { ...tcp, periodSeconds: 1, failureThreshold: 60 },
          livenessProbe: { ...tcp, periodSeconds: 1, failureThreshold: 30 },
          readinessProbe: { ...tcp, periodSeconds: 2 },
          lifecycle: {
            postStart: { exec: { command: ['sh', '-c', 'hostname >/tmp/began'] } },
            preStop: { exec: { command: ['sh', '-c', 'kill -HUP 1; sleep 1'] } },
          },
        },
        pod: {
          terminationGracePeriodSeconds: 20,
          initContainers: [{ name: 'init', image: APPS, command: ['sh', '-c', 'echo prepared'], volumeMounts: [kept] }],
          volumes: [tmp, kept].map(({ name }) => ({ name, emptyDir: {} })),
        },
      }),
    );

    const { clones } = await scaledOut(space, 'whole', 3);
    const [clone = {}] = clones;
    const name = nameOf(clone);
    const began = await space.kubectl('exec', name, '-c', 'app', '--', 'sh', '-c', 'cat /tmp/began; touch /etc/x 2>&1 || true');
    const prepared = await space.kubectl('logs', name, '-c', 'init');
    const toItsEnd = space.kubectl('logs', name, '-c', 'app', '--follow');
    await space.kubectl('delete', 'pod', name, '--wait=true');

    expect(clones).toHaveLength(2);
    expect(clone.status?.containerStatuses?.[0]?.restartCount).toBe(0);
    expect(began).toContain(name);
    expect(began).toContain('Read-only file system');
    expect(prepared).toBe('prepared');
    // The hook before its end reached the application, and then the kubelet did.
    expect((await toItsEnd).match(/heard \w+/g)).toEqual(['heard SIGHUP', 'heard SIGTERM']);
  });

  test('with gRPC probes', TIMEOUT, async () => {
    const grpc = { grpc: { port: PORT } };
    await space.apply(
      aDeployment({
        name: 'health',
        properties: 'patient',
        command: ['node', '-e', HEALTH],
        container: {
          env: newEnvironment(),
          startupProbe: { ...grpc, periodSeconds: 1, failureThreshold: 60 },
          livenessProbe: { ...grpc, periodSeconds: 1, failureThreshold: 30 },
          readinessProbe: { ...grpc, periodSeconds: 2 },
        },
      }),
    );

    const { clones } = await scaledOut(space, 'health', 2);
    const [clone = {}] = clones;
    const log = await space.until('probes to have been answered', async () => {
      const said = await space.kubectl('logs', nameOf(clone));
      return said.split('\n').length > 3 && said;
    });

    expect(clones).toHaveLength(1);
    expect(clone.status?.containerStatuses?.[0]?.restartCount).toBe(0);
    expect(log).toContain('/grpc.health.v1.Health/Check');
  });

  test('with the values of their own that a hook reads, where the policy says `identity: file`', TIMEOUT, async () => {
    const after = `. /tmp/rekindle-identity && echo "$POD_NAME" >/tmp/by-hook`;
    await space.apply(
      propertiesOf('identity', [...PATIENT, 'cr.restore.identity=file', `cr.restore.after=${after}`]),
      aWho('identity', { properties: 'identity', container: { env: [...newEnvironment(), podName] } }),
    );

    const { clones } = await scaledOut(space, 'identity', 2);
    const [clone = {}] = clones;
    const { identity } = JSON.parse(await get(space, clone)) as Who;

    expect(clones).toHaveLength(1);
    expect(identity).toBe(`POD_NAME=${nameOf(clone)}\n`);
    expect(await space.kubectl('exec', nameOf(clone), '--', 'cat', '/tmp/by-hook')).toBe(nameOf(clone));
  });

  test("with the first one's values, where the policy says `identity: ignore`", TIMEOUT, async () => {
    const color = { name: 'COLOR', valueFrom: podName.valueFrom };
    await space.apply(
      propertiesOf('ignoring', [...PATIENT, 'cr.restore.identity=ignore']),
      aWho('ignoring', { properties: 'ignoring', container: { env: [...newEnvironment(), color] } }),
    );

    const { pods, clones } = await scaledOut(space, 'ignoring', 2);
    const seed = pods.find((pod) => !clones.includes(pod)) ?? {};
    const { host, color: seen } = JSON.parse(await get(space, clones[0] ?? {})) as Who;

    expect(host).toBe(nameOf(clones[0] ?? {}));
    expect(seen).toBe(nameOf(seed));
  });
});

describe.concurrent('a pod starts cold', () => {
  test('whose environment names it, and an event says so', TIMEOUT, async () => {
    await space.apply(aWho('named', { replicas: 2, container: { env: [podName] } }));

    const pods = await space.untilReady('app=named', 2);

    for (const pod of pods) {
      expect(startOf(pod)).toMatch(/^cold: POD_NAME differs per instance/);
      expect(await space.untilEvent(nameOf(pod), 'ColdStarted: ')).toContain('set restore.identity to file or ignore');
    }
  });

  test('whose emptyDir an init container has filled, with the reason', TIMEOUT, async () => {
    const data = { name: 'data', mountPath: '/data' };
    const init = { name: 'fill', image: APPS, command: ['sh', '-c', 'date >/data/at'], volumeMounts: [data] };
    await space.apply(
      aWho('filled', {
        replicas: 2,
        container: { volumeMounts: [data] },
        pod: { initContainers: [init], volumes: [{ name: 'data', emptyDir: {} }] },
      }),
    );

    const pods = await space.untilReady('app=filled', 2);

    for (const pod of pods) {
      expect(startOf(pod)).toMatch(/^cold: its emptyDir data at \/data already holds files/);
      expect(await space.untilEvent(nameOf(pod), 'ColdStarted: ')).toContain('already holds files');
    }
  });

  test('that a Job or CronJob made, and it ends as any other', TIMEOUT, async () => {
    const { spec } = aDeployment({ name: 'job', command: ['sh', '-c', 'sleep 2; echo done'] }) as {
      spec: { template: { metadata: object; spec: object } };
    };
    const template = { ...spec.template, spec: { ...spec.template.spec, restartPolicy: 'Never' } };
    await space.apply({
      apiVersion: 'batch/v1',
      kind: 'CronJob',
      metadata: { name: 'nightly' },
      spec: { schedule: '0 3 * * *', suspend: true, jobTemplate: { spec: { template, backoffLimit: 0 } } },
    });
    await space.kubectl('create', 'job', 'job', '--from=cronjob/nightly');

    await space.kubectl('wait', 'job/job', '--for=condition=Complete', '--timeout=50s');
    const [pod] = await space.podsOf('app=job');

    expect(startOf(pod ?? {})).toContain('cold: it is a pod of Job job');
    expect(await space.kubectl('logs', 'job/job')).toContain('done');
  });
});
