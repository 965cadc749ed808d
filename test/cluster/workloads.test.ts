import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { exec, mustExec } from '../../src/lib/exec.ts';
import { APPS, foreign, installed, kubectl, ROLES } from './fixture/cluster.ts';
import { aNamespace } from './fixture/namespace.ts';
import { get, nameOf, RESTORED, scaledOut, startOf, untilEverywhere, untilSnapshots } from './fixture/snapshots.ts';
import { aDeployment, asks, aWho, type DeploymentOptions, newEnvironment, PATIENT, propertiesOf, type Who } from './fixture/workloads.ts';

const space = aNamespace();
const WITHIN_MS = 120_000;
const TIMEOUT = { timeout: 3 * WITHIN_MS };

/** The one pod of a Deployment after a rollout that changes nothing in its template but the time. */
async function restarted(name: string) {
  await space.kubectl('rollout', 'restart', `deployment/${name}`);
  await space.kubectl('rollout', 'status', `deployment/${name}`, '--timeout=120s');
  const [pod] = await space.untilReady(`app=${name}`, 1, WITHIN_MS);
  return pod as NonNullable<typeof pod>;
}

beforeAll(async () => {
  await installed();
  await space.apply(propertiesOf('patient', PATIENT));
});

describe.concurrent('with a label and a ConfigMap, all pods but the first are restored:', () => {
  const applications: readonly (DeploymentOptions & { readonly path: string; readonly random?: string })[] = [
    { name: 'nginx', command: ['nginx', '-c', '/app/nginx/nginx.conf'], path: '/' },
    // With three workers.
    { name: 'gunicorn', command: ['/app/python/.venv/bin/gunicorn', '-c', '/app/gunicorn/settings.py', 'hello:app'], path: '/' },
    { name: 'python', command: ['/app/python/start'], path: '/healthz', random: '/random' },
    { name: 'java', command: ['/app/java/start'], path: '/healthz', random: '/random' },
    // What it runs its image says.
    { name: 'node', path: '/healthz', random: '/random' },
  ];

  test.each(applications)('$name', TIMEOUT, async ({ path, random, ...application }) => {
    await space.apply(aDeployment({ ...application, properties: 'patient', container: { ...asks(path), env: newEnvironment() } }));

    const { pods, clones } = await scaledOut(space, application.name, 3);
    const answers = await Promise.all(pods.map((pod) => get(space, pod, random)));

    expect(clones).toHaveLength(2);
    expect(startOf(pods.find((pod) => !clones.includes(pod)) ?? {})).toContain('first of its kind');
    for (const answer of answers) expect(answer).not.toBe('');
    if (random === undefined) return;
    // Of each kind of random numbers its own.
    const drawn = answers.flatMap((answer) => Object.values(JSON.parse(answer) as Record<string, string>));
    expect(drawn.length).toBeGreaterThanOrEqual(2 * pods.length);
    expect(new Set(drawn).size).toBe(drawn.length);
  });
});

describe.concurrent('a pod', () => {
  test.skipIf(foreign)('with a writable persistent volume starts cold; where the policy allows it, it is restored', TIMEOUT, async () => {
    const claim = (name: string) => ({
      apiVersion: 'v1',
      kind: 'PersistentVolumeClaim',
      metadata: { name },
      spec: {
        accessModes: ['ReadWriteMany'],
        storageClassName: '',
        volumeName: `${space.name}-${name}`,
        resources: { requests: { storage: '1Mi' } },
      },
    });
    const volume = (name: string) => ({
      apiVersion: 'v1',
      kind: 'PersistentVolume',
      metadata: { name: `${space.name}-${name}`, labels: { test: space.name } },
      spec: {
        capacity: { storage: '1Mi' },
        accessModes: ['ReadWriteMany'],
        persistentVolumeReclaimPolicy: 'Retain',
        hostPath: { path: `/run/${space.name}-${name}`, type: 'DirectoryOrCreate' },
      },
    });
    const mounting = (name: string) => ({
      container: { volumeMounts: [{ name: 'data', mountPath: '/data' }] },
      pod: { volumes: [{ name: 'data', persistentVolumeClaim: { claimName: name } }] },
    });
    await space.apply(
      ...[volume('kept'), claim('kept'), aWho('kept', { replicas: 2, ...mounting('kept') })],
      ...[volume('cloned'), claim('cloned'), propertiesOf('cloned', [...PATIENT, 'cr.restore.persistentVolumes=true'])],
      aWho('cloned', { properties: 'cloned', ...mounting('cloned') }),
    );

    const kept = await space.untilReady('app=kept', 2, WITHIN_MS);
    const { clones } = await scaledOut(space, 'cloned', 2);

    for (const pod of kept) expect(startOf(pod)).toMatch(/^cold: \/data is a writable persistent volume/);
    expect(clones).toHaveLength(1);
  });
  afterAll(() => kubectl(['delete', 'persistentvolume', '-l', `test=${space.name}`, '--wait=false']));

  test('whose ConfigMap or Secret says something else than before is of another snapshot', TIMEOUT, async () => {
    const config = (color: string) => ({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'config' }, data: { color } });
    const secret = (key: string) => ({ apiVersion: 'v1', kind: 'Secret', metadata: { name: 'secret' }, stringData: { key } });
    const volumes = [
      { name: 'config', configMap: { name: 'config' } },
      { name: 'secret', secret: { secretName: 'secret' } },
    ];
    const volumeMounts = [
      { name: 'config', mountPath: '/config' },
      { name: 'secret', mountPath: '/secret', readOnly: true },
    ];
    await space.apply(config('red'), secret('one'), aWho('configured', { container: { volumeMounts }, pod: { volumes } }));
    const { clones } = await scaledOut(space, 'configured', 2);
    await space.kubectl('scale', 'deployment/configured', '--replicas=1');
    await space.untilReady('app=configured', 1, WITHIN_MS);

    const same = await restarted('configured');
    await space.apply(config('blue'));
    const recolored = await restarted('configured');
    const two = await untilSnapshots(space, 'configured', 2, WITHIN_MS);
    await space.apply(secret('two'));
    const rekeyed = await restarted('configured');
    const three = await untilSnapshots(space, 'configured', 3, WITHIN_MS);

    expect(clones).toHaveLength(1);
    expect(startOf(same)).toMatch(RESTORED);
    expect(startOf(recolored)).toContain('first of its kind');
    expect(startOf(rekeyed)).toContain('first of its kind');
    expect(new Set(two.map(({ specHash }) => specHash)).size).toBe(2);
    expect(new Set(three.map(({ specHash }) => specHash)).size).toBe(3);
    expect((JSON.parse(await get(space, rekeyed)) as Who).config).toBe('blue');
  });

  test('whose image is another is of another snapshot, and of the first again after a rollback', TIMEOUT, async () => {
    await space.apply(aWho('reimaged'));
    await space.untilReady('app=reimaged', 1, WITHIN_MS);
    await untilEverywhere(space, 'reimaged', WITHIN_MS);
    const only = async () => {
      await space.kubectl('rollout', 'status', 'deployment/reimaged', '--timeout=120s');
      const [pod] = await space.untilReady('app=reimaged', 1, WITHIN_MS);
      return startOf(pod ?? {});
    };

    await space.kubectl('set', 'image', 'deployment/reimaged', `app=${ROLES}`);
    const other = await only();
    const snapshots = await untilSnapshots(space, 'reimaged', 2, WITHIN_MS);
    await space.kubectl('rollout', 'undo', 'deployment/reimaged');
    const back = await only();

    expect(other).toContain('first of its kind');
    expect(new Set(snapshots.map(({ specHash }) => specHash)).size).toBe(2);
    expect(back).toMatch(RESTORED);
  });

  test.skipIf(foreign)('whose image only its registry knows, and which names no command, is a slot', TIMEOUT, async () => {
    const tag = randomUUID();
    const of = 'localhost/only';
    const run = (...args: string[]) => mustExec(exec, 'buildah', args, { timeoutMs: 120_000 });
    const working = (await run('from', '--pull-never', 'localhost/apps:test')).stdout.trim();
    await run('config', '--env', `ONLY=${tag}`, working);
    await run('commit', '--rm', '--quiet', working, `${of}:${tag}`);
    await run('push', '--quiet', '--tls-verify=false', `${of}:${tag}`, `docker://10.89.0.1:5000/only:${tag}`);
    await run('rmi', `${of}:${tag}`);

    await space.apply(
      aDeployment({ name: 'only', image: `10.89.0.1:5000/only:${tag}`, properties: 'patient', container: asks('/healthz') }),
    );
    const { pods, clones } = await scaledOut(space, 'only', 2);

    for (const { spec } of pods) {
      const [{ command = [], args = [] } = {}] = spec?.containers ?? [];
      expect([...command, ...args]).toEqual(['/rekindle/slot', '/app/node/start']);
    }
    expect(clones).toHaveLength(1);
  });

  test('of a Job is restored where the policy allows it', TIMEOUT, async () => {
    const { spec } = aWho('cloned-job', { properties: 'jobs' }) as { spec: { template: { metadata: object; spec: object } } };
    const template = { ...spec.template, spec: { ...spec.template.spec, restartPolicy: 'Never' } };
    await space.apply(propertiesOf('jobs', [...PATIENT, 'cr.restore.jobs=true']));
    await space.apply({
      apiVersion: 'batch/v1',
      kind: 'Job',
      metadata: { name: 'cloned-job' },
      spec: { template, backoffLimit: 0, completions: 2, parallelism: 1 },
    });
    await space.untilReady('app=cloned-job', 1, WITHIN_MS);
    await untilEverywhere(space, 'cloned-job', WITHIN_MS);

    await space.kubectl('patch', 'job/cloned-job', '-p', '{"spec":{"parallelism":2}}');
    const pods = await space.untilReady('app=cloned-job', 2, WITHIN_MS);

    expect(pods.filter((pod) => RESTORED.test(startOf(pod)))).toHaveLength(1);
  });

  test('of two containers has the one restored that its annotation names, beside the other', TIMEOUT, async () => {
    const sidecar = { name: 'sidecar', image: APPS, command: ['sh', '-c', 'echo beside; exec sleep 3600'] };
    await space.apply(aWho('two', { annotations: { 'rekindle.dev/container': 'app' }, sidecars: [sidecar] }));

    const { clones } = await scaledOut(space, 'two', 3);

    expect(clones).toHaveLength(2);
    for (const clone of clones) {
      expect(clone.status?.containerStatuses?.map(({ name, restartCount }) => [name, restartCount]).sort()).toEqual([
        ['app', 0],
        ['sidecar', 0],
      ]);
      expect(await space.kubectl('logs', nameOf(clone), '-c', 'sidecar')).toBe('beside');
      expect((JSON.parse(await get(space, clone)) as Who).host).toBe(nameOf(clone));
    }
  });

  test('with limits of CPU and memory is restored within them', TIMEOUT, async () => {
    const resources = { requests: { cpu: '10m', memory: '64Mi' }, limits: { cpu: '500m', memory: '96Mi' } };
    await space.apply(aWho('limited', { container: { resources } }));

    const { clones } = await scaledOut(space, 'limited', 3);

    expect(clones).toHaveLength(2);
    for (const clone of clones) {
      expect(clone.status?.containerStatuses?.[0]?.restartCount).toBe(0);
      expect((JSON.parse(await get(space, clone)) as Who).host).toBe(nameOf(clone));
    }
  });
});
