import { beforeAll, describe, expect, test } from 'vitest';
import { exec, mustExec } from '../../src/lib/exec.ts';
import { CLUSTER, foreign, installed } from './fixture/cluster.ts';
import { aNamespace, isReady } from './fixture/namespace.ts';
import { get, nameOf, RESTORED, startOf, untilEverywhere, untilSnapshots } from './fixture/snapshots.ts';
import { aWho, newEnvironment, PATIENT, propertiesOf, type Who } from './fixture/workloads.ts';

const space = aNamespace();
const other = aNamespace();
const WITHIN_MS = 120_000;
const TIMEOUT = { timeout: 3 * WITHIN_MS };
const SEED = /first of its kind/;
const ask = async (pod: Parameters<typeof get>[1]) => JSON.parse(await get(space, pod)) as Who;

beforeAll(async () => {
  await installed();
  for (const one of [space, other]) await one.apply(propertiesOf('patient', PATIENT));
});

describe('a burst', () => {
  test('of thirty pods is restored on both nodes, each pod with its own name', TIMEOUT, async () => {
    await space.apply(aWho('burst'));
    await space.untilReady('app=burst', 1, WITHIN_MS);
    await untilEverywhere(space, 'burst', WITHIN_MS);

    await space.kubectl('scale', 'deployment/burst', '--replicas=31');
    const pods = await space.untilReady('app=burst', 31, WITHIN_MS);
    const all = await Promise.all(pods.map(ask));

    const starts = pods.map(startOf);
    expect(starts.filter((start) => !RESTORED.test(start))).toEqual([expect.stringMatching(SEED)]);
    expect(new Set(pods.map(({ spec }) => spec?.nodeName)).size).toBe(2);
    expect(all.map(({ host }) => host)).toEqual(pods.map(nameOf));
    expect(pods.map(({ status }) => status?.containerStatuses?.[0]?.restartCount)).toEqual(pods.map(() => 0));
  });

  test('goes on over a rollout in its middle: all pods are of the new template, all are Ready', TIMEOUT, async () => {
    await space.kubectl('scale', 'deployment/burst', '--replicas=4');
    await space.untilReady('app=burst', 4, WITHIN_MS);

    await space.kubectl('scale', 'deployment/burst', '--replicas=14');
    await space.until('the burst to be under way', async () => (await space.podsOf('app=burst')).length > 6);
    await space.kubectl('set', 'env', 'deployment/burst', 'COLOR=blue');
    await space.kubectl('rollout', 'status', 'deployment/burst', '--timeout=150s');
    const pods = await space.untilReady('app=burst', 14, WITHIN_MS);
    const all = await Promise.all(pods.map(ask));

    expect(all.map(({ color }) => color)).toEqual(pods.map(() => 'blue'));
    expect(all.map(({ host }) => host)).toEqual(pods.map(nameOf));
    // What was deleted in the middle of a restore does not speak against the snapshot.
    await space.kubectl('rollout', 'undo', 'deployment/burst');
    await space.kubectl('rollout', 'status', 'deployment/burst', '--timeout=150s');
    const back = await space.untilReady('app=burst', 14, WITHIN_MS);
    expect(back.map(startOf).filter((start) => !RESTORED.test(start))).toEqual([]);
    await space.kubectl('scale', 'deployment/burst', '--replicas=0');
  });
});

describe.concurrent('a Deployment', () => {
  test('whose seed is deleted while it warms up has its next pod as the seed', TIMEOUT, async () => {
    await space.apply(propertiesOf('slow', [...PATIENT, 'cr.container.warmup=sleep 15']), aWho('early', { properties: 'slow' }));
    const first = await space.until('the seed', async () => (await space.podsOf('app=early'))[0], WITHIN_MS);
    const warming = await space.until(
      'the warm-up',
      async () => (await space.podsOf('app=early')).find(({ status }) => status?.containerStatuses?.[0]?.ready),
      WITHIN_MS,
    );

    await space.kubectl('delete', 'pod', nameOf(first), '--grace-period=1');
    const [second] = await space.untilReady('app=early', 1, WITHIN_MS);
    const snapshots = await untilSnapshots(space, 'early', 1, WITHIN_MS);
    await space.kubectl('scale', 'deployment/early', '--replicas=2');
    const pods = await space.untilReady('app=early', 2, WITHIN_MS);

    // Its own probe has passed: what holds it is the gate.
    expect(isReady(warming)).toBe(false);
    expect(nameOf(warming)).toBe(nameOf(first));
    expect(nameOf(second ?? {})).not.toBe(nameOf(first));
    expect(startOf(second ?? {})).toMatch(SEED);
    expect(snapshots).toHaveLength(1);
    expect(pods.map(startOf).filter((start) => RESTORED.test(start))).toHaveLength(1);
  });

  test(
    'whose ConfigMap changes without a rollout has its next pod, which was expected to be restored, as the seed of another snapshot',
    TIMEOUT,
    async () => {
      const config = (flavour: string) => ({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'flavour' }, data: { flavour } });
      const pod = { volumes: [{ name: 'flavour', configMap: { name: 'flavour' } }] };
      const container = { volumeMounts: [{ name: 'flavour', mountPath: '/flavour', readOnly: true }] };
      await space.apply(config('sweet'), aWho('flavoured', { pod, container }));
      await space.untilReady('app=flavoured', 1, WITHIN_MS);
      await untilEverywhere(space, 'flavoured', WITHIN_MS);

      await space.apply(config('sour'));
      await space.kubectl('scale', 'deployment/flavoured', '--replicas=2');
      const pods = await space.untilReady('app=flavoured', 2, WITHIN_MS);
      const snapshots = await untilSnapshots(space, 'flavoured', 2, WITHIN_MS);
      await space.kubectl('scale', 'deployment/flavoured', '--replicas=4');
      const all = await space.untilReady('app=flavoured', 4, WITHIN_MS);

      expect(pods.map(startOf)).toEqual([expect.stringMatching(SEED), expect.stringMatching(SEED)]);
      expect(new Set(snapshots.map(({ specHash }) => specHash)).size).toBe(2);
      expect(all.map(startOf).filter((start) => RESTORED.test(start))).toHaveLength(2);
    },
  );

  test('that is the same as one of another namespace is not restored from its snapshot, whatever its pods say', TIMEOUT, async () => {
    const container = { env: newEnvironment() };
    await space.apply(aWho('same', { container }));
    const [mine] = await space.untilReady('app=same', 1, WITHIN_MS);
    await untilSnapshots(space, 'same', 1, WITHIN_MS);
    const { born } = await ask(mine ?? {});
    // Slot, annotations and all, as the webhook has written them: a pod that was written down and is applied again claims to be the other's.
    const { labels, annotations } = mine?.metadata ?? {};
    const { spec: asWritten } = mine ?? {};
    const template = {
      metadata: { labels, annotations },
      spec: {
        ...asWritten,
        nodeName: undefined,
        serviceAccount: undefined,
        volumes: asWritten?.volumes?.filter(({ projected }) => !projected),
        containers: asWritten?.containers.map((one) => ({
          ...one,
          volumeMounts: one.volumeMounts?.filter(({ mountPath }) => !mountPath.startsWith('/var/run/secrets')),
        })),
      },
    };
    const copy = {
      apiVersion: 'apps/v1',
      kind: 'Deployment',
      metadata: { name: 'same' },
      spec: { selector: { matchLabels: { app: 'same' } }, template },
    };
    await other.apply(copy);
    const [theirs] = await other.untilReady('app=same', 1, WITHIN_MS);
    const said = JSON.parse(await get(other, theirs ?? {})) as Who;
    // In its own namespace the very same is a clone.
    await space.kubectl('delete', 'deployment/same', '--wait=true');
    await space.until('the first to be gone', async () => (await space.podsOf('app=same')).length === 0);
    await space.apply(copy);
    const [ours] = await space.untilReady('app=same', 1, WITHIN_MS);

    expect(theirs?.metadata?.annotations?.['rekindle.dev/workload']).toBe(annotations?.['rekindle.dev/workload']);
    expect(startOf(theirs ?? {})).not.toMatch(RESTORED);
    expect(said.born).not.toBe(born);
    expect(startOf(ours ?? {})).toMatch(RESTORED);
    expect((await ask(ours ?? {})).born).toBe(born);
  });

  test.skipIf(foreign)(
    'whose snapshot is deleted from one node has its pods there restored or cold, and it is brought again',
    TIMEOUT,
    async () => {
      const onNode = (n: number, ...command: string[]) => exec(CLUSTER, ['node', String(n), ...command], { timeoutMs: 30_000 });
      await space.apply(aWho('lost'));
      await space.untilReady('app=lost', 1, WITHIN_MS);
      const { digest } = await untilEverywhere(space, 'lost', WITHIN_MS);
      const dir = `/var/lib/rekindle/snapshots/${digest}`;

      await mustExec(exec, CLUSTER, ['node', '2', 'rm', '-r', dir], { timeoutMs: 30_000 });
      await space.kubectl('scale', 'deployment/lost', '--replicas=7');
      const pods = await space.untilReady('app=lost', 7, WITHIN_MS);
      const all = await Promise.all(pods.map(ask));
      await space.until('it again on node 2', async () => (await onNode(2, 'test', '-f', `${dir}/manifest.json`)).status === 0, WITHIN_MS);

      expect(all.map(({ host }) => host)).toEqual(pods.map(nameOf));
      for (const pod of pods) expect(startOf(pod)).toMatch(/^(restored in \d+ ms|cold: (the first of its kind|.*snapshot.*))$/);
      expect(pods.filter(({ spec }) => spec?.nodeName === 'node1').map(startOf)).toContainEqual(expect.stringMatching(RESTORED));
    },
  );

  test('whose pods are evicted under a PodDisruptionBudget has them restored elsewhere, never fewer than that says', TIMEOUT, async () => {
    await space.apply(
      {
        apiVersion: 'policy/v1',
        kind: 'PodDisruptionBudget',
        metadata: { name: 'kept' },
        spec: { minAvailable: 3, selector: { matchLabels: { app: 'kept' } } },
      },
      aWho('kept'),
    );
    await space.untilReady('app=kept', 1, WITHIN_MS);
    await untilEverywhere(space, 'kept', WITHIN_MS);
    await space.kubectl('scale', 'deployment/kept', '--replicas=4');
    const before = await space.untilReady('app=kept', 4, WITHIN_MS);
    const fewest: number[] = [];

    for (const pod of before) {
      await space.until(
        `the eviction of ${nameOf(pod)}`,
        async () => {
          fewest.push((await space.podsOf('app=kept')).filter(isReady).length);
          await space.evict(nameOf(pod));
          return true;
        },
        WITHIN_MS,
      );
    }
    const after = await space.untilReady('app=kept', 4, WITHIN_MS);

    expect(after.map(nameOf).filter((name) => before.map(nameOf).includes(name))).toEqual([]);
    expect(after.map(startOf)).toEqual(after.map(() => expect.stringMatching(RESTORED)));
    expect(Math.min(...fewest)).toBeGreaterThanOrEqual(3);
  });
});
