import { spawn } from 'node:child_process';
import { once } from 'node:events';
import type { V1Pod } from '@kubernetes/client-node';
import { beforeAll, describe, expect, test } from 'vitest';
import { START_ANNOTATION, STATE_LABEL } from '../../src/workloads/kubernetes.ts';
import { installed, kubeconfig, kubectlPath } from './fixture/cluster.ts';
import { aNamespace } from './fixture/namespace.ts';
import { aDeployment, PORT, talkProperties, WHO_COMMAND, type Who } from './fixture/workloads.ts';

const space = aNamespace({ 'pod-security.kubernetes.io/enforce': 'restricted' });
/** What the restricted level asks of a pod. */
const RESTRICTED = {
  allowPrivilegeEscalation: false,
  runAsNonRoot: true,
  runAsUser: 1000,
  capabilities: { drop: ['ALL'] },
  seccompProfile: { type: 'RuntimeDefault' },
};
const probe = { readinessProbe: { httpGet: { path: '/', port: PORT }, periodSeconds: 5 } };

/** Asks a pod who it is, through the API server as it has no other way in. */
async function ask(pod: V1Pod): Promise<Who> {
  const text = await space.kubectl('get', '--raw', `/api/v1/namespaces/${space.name}/pods/${pod.metadata?.name}:${PORT}/proxy/`);
  return JSON.parse(text) as Who;
}
/** As a person reaches a pod from a desk. */
async function throughPortForward(name: string): Promise<Who> {
  const env = { ...process.env, KUBECONFIG: kubeconfig, PATH: kubectlPath };
  const forward = spawn('kubectl', ['-n', space.name, 'port-forward', `pod/${name}`, `:${PORT}`], {
    env,
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  try {
    const [said] = (await once(forward.stdout, 'data')) as [Buffer];
    const port = /127\.0\.0\.1:(\d+)/.exec(said.toString())?.[1];
    return (await (await fetch(`http://127.0.0.1:${port}/`, { signal: AbortSignal.timeout(10_000) })).json()) as Who;
  } finally {
    forward.kill();
  }
}
const startOf = (pod: V1Pod) => pod.metadata?.annotations?.[START_ANNOTATION] ?? '';
const nameOf = (pod: V1Pod) => pod.metadata?.name ?? '';

beforeAll(() => installed());

/** Its liveness depends on what the application has, seen by a command of the kubelet's, and on a volume of its own. */
const container = {
  ...probe,
  securityContext: RESTRICTED,
  volumeMounts: [{ name: 'own', mountPath: '/own' }],
  livenessProbe: {
    exec: { command: ['sh', '-c', `curl -sf localhost:${PORT}/ >/dev/null && hostname >/own/probed`] },
    periodSeconds: 10,
    timeoutSeconds: 10,
    failureThreshold: 5,
  },
};

describe('a Deployment with a label and a ConfigMap as in the talk', () => {
  const deploy = (changes: Partial<Parameters<typeof aDeployment>[0]> = {}) =>
    space.apply(
      aDeployment({
        name: 'who',
        properties: 'who',
        command: WHO_COMMAND,
        pod: { terminationGracePeriodSeconds: 60, volumes: [{ name: 'own', emptyDir: {} }] },
        container,
        ...changes,
      }),
    );

  test('its first pod starts cold, is held un-Ready until it has been checkpointed, and then serves', async () => {
    await space.apply(talkProperties('who'));

    await deploy();
    const name = nameOf(await space.until('the pod', async () => (await space.podsOf('app=who'))[0]));
    const seed = await space.untilEvent(name, 'Seed:');
    const [pod] = await space.untilReady('app=who');

    expect(seed).toContain('checkpointed once its readiness checks pass');
    expect(startOf(pod as V1Pod)).toContain('first of its kind');
    const gate = pod?.status?.conditions?.find(({ type }) => type === 'rekindle.dev/ready');
    expect(gate).toMatchObject({ status: 'True' });
    expect(['Checkpointed', 'ColdStarted']).toContain(gate?.reason);
    expect(await ask(pod as V1Pod)).toMatchObject({ host: name, n: expect.any(Number) });
  });

  test('scaled out, nine pods on both nodes are restored, each with its own name, address and token', { timeout: 180_000 }, async () => {
    // The trial restore and the journey to the other node may still be under way.
    await space.until('the snapshot', async () =>
      (await space.kubectl('get', '--raw', '/api/v1/namespaces/rekindle/services/rekindle-gateway:80/proxy/api/snapshots')).includes(
        `${space.name}.who`,
      ),
    );
    await space.kubectl('scale', 'deployment/who', '--replicas=10');
    const pods = await space.untilReady('app=who', 10);
    const restored = pods.filter((pod) => startOf(pod).startsWith('restored in '));
    const all = await Promise.all(pods.map(ask));

    expect(pods.map(startOf).filter((start) => !start.startsWith('restored in '))).toHaveLength(1);
    expect(new Set(restored.map((pod) => pod.spec?.nodeName)).size).toBe(2);
    expect(restored.every((pod) => pod.metadata?.labels?.[STATE_LABEL] === 'live')).toBe(true);
    expect(all.map(({ host }) => host)).toEqual(pods.map(nameOf));
    for (const [i, pod] of pods.entries()) expect(all[i]?.ips).toContain(pod.status?.podIP);
    expect(new Set(all.map(({ token }) => token)).size).toBe(10);
    expect(new Set(all.map(({ random }) => random)).size).toBe(10);
    // Clones: born when the seed was.
    expect(new Set(all.map(({ born }) => born)).size).toBe(1);
    expect(await space.untilEvent(nameOf(restored[0] as V1Pod), 'Restored:')).toMatch(/Restored in \d+ ms/);
  });

  test('a restored pod logs, runs commands, hears signals and ends as any other', { timeout: 120_000 }, async () => {
    const pods = await space.podsOf('app=who');
    const name = nameOf(pods.find((pod) => startOf(pod).startsWith('restored')) as V1Pod);
    const shown = await space.kubectl('exec', name, '--', 'sh', '-c', 'hostname; kill -HUP 1; kill -USR1 1; touch /tmp/by-exec');
    const heard = await space.until('the signals', async () => {
      const { heard: all } = await ask(pods.find((pod) => nameOf(pod) === name) as V1Pod);
      return all.length >= 2 && all;
    });
    const logged = await space.until('its log', async () => {
      const log = await space.kubectl('logs', name);
      return log.includes('heard SIGUSR1') && log;
    });
    const probed = await space.until('an exec probe', () => space.kubectl('exec', name, '--', 'cat', '/own/probed'));
    const forwarded = await throughPortForward(name);
    const toItsEnd = space.kubectl('logs', name, '--follow');
    const since = performance.now();
    await space.kubectl('delete', 'pod', name, '--wait=true');
    const tookMs = performance.now() - since;

    expect(shown.trim()).toBe(name);
    expect(logged).toContain('heard SIGHUP');
    // What the seed said before it was checkpointed is the seed's.
    expect(logged).not.toContain('serves');
    expect(probed.trim()).toBe(name);
    expect(forwarded.host).toBe(name);
    expect([...heard].sort()).toEqual(['SIGHUP', 'SIGUSR1']);
    expect(await toItsEnd).toContain('heard SIGTERM');
    // Nobody waited for the end of its grace period.
    expect(tookMs).toBeLessThan(55_000);
    await space.untilReady('app=who', 10);
  });

  test('a container that ends is started again by the kubelet, cold and saying so', { timeout: 120_000 }, async () => {
    const pods = await space.podsOf('app=who');
    const pod = pods.find((one) => startOf(one).startsWith('restored')) as V1Pod;
    await space.kubectl('get', '--raw', `/api/v1/namespaces/${space.name}/pods/${nameOf(pod)}:${PORT}/proxy/exit`).catch(() => undefined);
    const again = await space.until('the container again', async () => {
      const found = (await space.podsOf('app=who')).find((one) => nameOf(one) === nameOf(pod));
      const status = found?.status?.containerStatuses?.[0];
      return status?.restartCount === 1 && status.ready && found !== undefined && startOf(found).startsWith('cold') && found;
    });

    expect(again.status?.containerStatuses?.[0]?.lastState?.terminated?.exitCode).toBe(3);
    expect(startOf(again)).toContain('restarted');
  });

  test('another environment is another snapshot, and going back finds the first again', { timeout: 240_000 }, async () => {
    await space.kubectl('scale', 'deployment/who', '--replicas=2');
    await deploy({ replicas: 2, container: { ...container, env: [{ name: 'COLOR', value: 'blue' }] } });
    await space.kubectl('rollout', 'status', 'deployment/who', '--timeout=120s');
    const blue = await Promise.all((await space.untilReady('app=who', 2)).map(ask));
    await space.kubectl('rollout', 'undo', 'deployment/who');
    await space.kubectl('rollout', 'status', 'deployment/who', '--timeout=120s');
    const back = await space.untilReady('app=who', 2);

    expect(blue.map(({ color }) => color)).toEqual(['blue', 'blue']);
    expect((await Promise.all(back.map(ask))).map(({ color }) => color)).toEqual([undefined, undefined]);
    expect(back.map(startOf)).toEqual([expect.stringMatching(/^restored in/), expect.stringMatching(/^restored in/)]);
  });

  test('another ConfigMap is another snapshot', { timeout: 120_000 }, async () => {
    await space.kubectl('scale', 'deployment/who', '--replicas=1');
    await space.untilReady('app=who', 1);
    const rolled = async () => {
      await space.kubectl('rollout', 'restart', 'deployment/who');
      await space.kubectl('rollout', 'status', 'deployment/who', '--timeout=120s');
      const [pod] = await space.untilReady('app=who', 1);
      return startOf(pod as V1Pod);
    };

    const same = await rolled();
    await space.apply(talkProperties('who', ['cr.container.warmup=true']));
    const changed = await rolled();

    expect(same).toMatch(/^restored in/);
    expect(changed).toContain('first of its kind');
  });
});
