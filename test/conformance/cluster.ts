import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Cluster } from '../../src/cluster/cluster.ts';
import { CONFIG_MAPS, DEPLOYMENTS, NAMESPACES, PODS } from '../../src/cluster/kinds.ts';
import { until } from '../fixtures/until.ts';

/** What every `Cluster` promises. `open` gives one, and a namespace of it that is there and empty. */
export function clusterConformance(name: string, open: () => Promise<AsyncDisposable & { cluster: Cluster; namespace: string }>): void {
  describe(`${name} keeps the promises of a cluster`, () => {
    let subject: Awaited<ReturnType<typeof open>>;
    let cluster: Cluster;
    let namespace: string;
    const signal = () => AbortSignal.timeout(20_000);
    const aName = () => `c-${randomUUID().slice(0, 8)}`;
    const aConfigMap = (more: object = {}) => ({ metadata: { name: aName(), namespace, ...more }, data: { a: '1' } });
    const aPod = () => ({
      metadata: { name: aName(), namespace },
      // Nowhere to run: nobody else changes it.
      spec: { nodeSelector: { nowhere: 'true' }, containers: [{ name: 'a', image: 'a' }], readinessGates: [{ conditionType: 'x/ready' }] },
    });

    beforeAll(async () => {
      subject = await open();
      ({ cluster, namespace } = subject);
    });
    afterAll(async () => {
      await subject?.[Symbol.asyncDispose]();
    });

    test('it says its version', async () => {
      expect(await cluster.minorVersion(signal())).toBeGreaterThanOrEqual(30);
      expect(await cluster.raw('/version', signal())).toMatchObject({ major: '1' });
    });

    test('what was created is there, with a uid and a version, alone and in lists', async () => {
      const wanted = aConfigMap({ labels: { group: 'one' } });

      const made = await cluster.create(CONFIG_MAPS, wanted, signal());

      expect(made).toMatchObject({ data: { a: '1' }, metadata: { uid: expect.any(String), resourceVersion: expect.any(String) } });
      expect(await cluster.get(CONFIG_MAPS, wanted.metadata, signal())).toEqual(made);
      const names = async (where: object) => (await cluster.list(CONFIG_MAPS, where, signal())).map(({ metadata }) => metadata?.name);
      expect(await names({ namespace })).toContain(wanted.metadata.name);
      expect(await names({ namespace, labels: 'group=one' })).toEqual([wanted.metadata.name]);
      expect(await names({ namespace, labels: 'group in (two,three)' })).toEqual([]);
      expect(await names({ namespace, labels: '!group' })).not.toContain(wanted.metadata.name);
      expect(await names({ namespace, fields: `metadata.name=${wanted.metadata.name}` })).toEqual([wanted.metadata.name]);
    });

    test('a name is made from a prefix', async () => {
      const made = await cluster.create(CONFIG_MAPS, { metadata: { generateName: 'some-', namespace } }, signal());

      expect(made.metadata?.name).toMatch(/^some-.+/);
    });

    test('what is not there is undefined, and to remove it is no error', async () => {
      const at = { name: 'nothing', namespace };

      expect(await cluster.get(CONFIG_MAPS, at, signal())).toBeUndefined();
      expect(await cluster.patch(CONFIG_MAPS, at, { data: {} }, 'merge', signal())).toBeUndefined();
      expect(await cluster.raw('/apis/nothing.example', signal())).toBeUndefined();
      await cluster.remove(CONFIG_MAPS, at, signal());
      await expect(cluster.replace(CONFIG_MAPS, { metadata: at }, signal())).rejects.toMatchObject({ code: 'not_found' });
    });

    test('to create what is there, or to replace what has changed, is a conflict', async () => {
      const wanted = aConfigMap();
      const made = await cluster.create(CONFIG_MAPS, wanted, signal());

      const changed = await cluster.replace(CONFIG_MAPS, { ...made, data: { a: '2' } }, signal());

      expect(changed.data).toEqual({ a: '2' });
      const conflict = { code: 'conflict', retryable: true };
      await expect(cluster.create(CONFIG_MAPS, wanted, signal())).rejects.toMatchObject(conflict);
      await expect(cluster.replace(CONFIG_MAPS, { ...made, data: { a: '3' } }, signal())).rejects.toMatchObject(conflict);
      const stale = { metadata: { resourceVersion: made.metadata?.resourceVersion }, data: { a: '4' } };
      await expect(cluster.patch(CONFIG_MAPS, wanted.metadata, stale, 'merge', signal())).rejects.toMatchObject(conflict);
      const another = { metadata: { uid: randomUUID() }, data: { a: '5' } };
      const never = { code: 'conflict', retryable: false };
      await expect(cluster.patch(CONFIG_MAPS, wanted.metadata, another, 'merge', signal())).rejects.toMatchObject(never);
    });

    test('a removed object is gone; one with another uid is left', async () => {
      const made = await cluster.create(CONFIG_MAPS, aConfigMap(), signal());
      const at = { name: made.metadata?.name ?? '', namespace };

      await expect(cluster.remove(CONFIG_MAPS, { ...at, uid: randomUUID() }, signal())).rejects.toMatchObject({ code: 'conflict' });
      expect(await cluster.get(CONFIG_MAPS, at, signal())).toBeDefined();
      await cluster.remove(CONFIG_MAPS, { ...at, uid: made.metadata?.uid ?? '' }, signal());

      expect(await cluster.get(CONFIG_MAPS, at, signal())).toBeUndefined();
    });

    test('a patch adds, changes and removes', async () => {
      const { metadata } = await cluster.create(CONFIG_MAPS, { ...aConfigMap(), data: { a: '1', b: '2' } }, signal());
      const at = { name: metadata?.name ?? '', namespace };

      const merged = await cluster.patch(CONFIG_MAPS, at, { data: { a: null, c: '3' } }, 'merge', signal());
      const operations = [
        { op: 'test', path: '/data/c', value: '3' },
        { op: 'add', path: '/metadata/annotations', value: { 'x/y': '1' } },
        { op: 'replace', path: '/metadata/annotations/x~1y', value: '2' },
        { op: 'remove', path: '/data/b' },
      ];
      const patched = await cluster.patch(CONFIG_MAPS, at, operations, 'json', signal());

      expect(merged?.data).toEqual({ b: '2', c: '3' });
      expect(patched).toMatchObject({ data: { c: '3' }, metadata: { annotations: { 'x/y': '2' } } });
      const wrong = [{ op: 'test', path: '/data/c', value: '4' }];
      await expect(cluster.patch(CONFIG_MAPS, at, wrong, 'json', signal())).rejects.toMatchObject({ code: 'cluster_unavailable' });
    });

    test('conditions of a status are merged by their type, and labels and annotations go with them', async () => {
      const { metadata } = aPod();
      await cluster.create(PODS, { ...aPod(), metadata }, signal());
      const at = { ...metadata, subresource: 'status' as const };
      const condition = (type: string, status: string) => ({ status: { conditions: [{ type, status }] } });

      await cluster.patch(PODS, at, condition('a/b', 'False'), 'strategic', signal());
      await cluster.patch(PODS, at, condition('c/d', 'True'), 'strategic', signal());
      const more = { ...condition('a/b', 'True'), metadata: { labels: { l: '1' }, annotations: { n: '2' } } };
      const after = await cluster.patch(PODS, at, more, 'strategic', signal());

      const statuses = Object.fromEntries((after?.status?.conditions ?? []).map(({ type, status }) => [type, status]));
      expect(statuses).toMatchObject({ 'a/b': 'True', 'c/d': 'True' });
      expect(after?.metadata).toMatchObject({ labels: { l: '1' }, annotations: { n: '2' } });
      await cluster.remove(PODS, metadata, signal());
    });

    test('a patch of the object leaves its status, and one of the status the object', async () => {
      const { metadata } = await cluster.create(PODS, aPod(), signal());
      const at = { name: metadata?.name ?? '', namespace };

      const object = await cluster.patch(PODS, at, { status: { message: 'no' }, metadata: { labels: { a: 'b' } } }, 'merge', signal());
      const status = await cluster.patch(
        PODS,
        { ...at, subresource: 'status' },
        { status: { message: 'yes' }, spec: { containers: [{ name: 'a', image: 'b' }] } },
        'strategic',
        signal(),
      );

      expect(object?.metadata?.labels).toEqual({ a: 'b' });
      expect(object?.status?.message).toBeUndefined();
      expect(status?.status?.message).toBe('yes');
      expect(status?.spec?.containers[0]?.image).toBe('a');
      await cluster.remove(PODS, at, signal());
    });

    test('a patch that names a uid leaves another object of the same name alone: a conflict', async () => {
      const { metadata } = await cluster.create(PODS, aPod(), signal());
      const at = { name: metadata?.name ?? '', namespace };
      const meant = { metadata: { uid: randomUUID(), labels: { a: 'b' } }, status: { message: 'no' } };

      const patched = cluster.patch(PODS, { ...at, subresource: 'status' }, meant, 'strategic', signal());

      await expect(patched).rejects.toMatchObject({ code: 'conflict', retryable: false });
      expect((await cluster.get(PODS, at, signal()))?.status?.message).toBeUndefined();
      await cluster.remove(PODS, at, signal());
    });

    test('a Deployment is scaled through its subresource', async () => {
      const labels = { app: 'scaled' };
      const template = { metadata: { labels }, spec: { nodeSelector: { nowhere: 'true' }, containers: [{ name: 'a', image: 'a' }] } };
      const { metadata } = await cluster.create(
        DEPLOYMENTS,
        { metadata: { name: aName(), namespace }, spec: { replicas: 0, selector: { matchLabels: labels }, template } },
        signal(),
      );
      const at = { name: metadata?.name ?? '', namespace };

      await cluster.patch(DEPLOYMENTS, { ...at, subresource: 'scale' }, { spec: { replicas: 1 } }, 'merge', signal());

      expect((await cluster.get(DEPLOYMENTS, at, signal()))?.spec?.replicas).toBe(1);
      await cluster.remove(DEPLOYMENTS, at, signal());
    });

    test('whoever follows has what is there, and hears of everything that fits', async () => {
      const stop = new AbortController();
      const label = { follow: aName() };
      const before = await cluster.create(CONFIG_MAPS, aConfigMap({ labels: label }), signal());
      const heard: (string | undefined)[] = [];

      const followed = cluster.follow(
        CONFIG_MAPS,
        { namespace, labels: `follow=${label.follow}` },
        (object) => heard.push(object === undefined ? undefined : `${object.metadata?.name} ${object.data?.a}`),
        stop.signal,
      );
      await followed.synced;
      const name = before.metadata?.name ?? '';
      expect(followed.connected).toBe(true);
      expect(followed.items()).toEqual([before]);
      expect(followed.get(name, namespace)).toEqual(before);
      expect(heard).toEqual([undefined]);

      const other = await cluster.create(CONFIG_MAPS, aConfigMap({ labels: label }), signal());
      await cluster.create(CONFIG_MAPS, aConfigMap(), signal());
      await cluster.patch(CONFIG_MAPS, { name, namespace }, { data: { a: '2' } }, 'merge', signal());
      await until('the change is heard', () => followed.get(name, namespace)?.data?.a === '2');
      await cluster.remove(CONFIG_MAPS, { name, namespace }, signal());
      await until('the end is heard', () => followed.items().length === 1);

      expect(followed.items()).toEqual([other]);
      expect(heard).toEqual([undefined, `${other.metadata?.name} 1`, `${name} 2`, `${name} 2`]);
      stop.abort();
      await cluster.create(CONFIG_MAPS, aConfigMap({ labels: label }), signal());
      expect(followed.items()).toEqual([other]);
    });

    test('an object that no longer fits is not followed any more', async () => {
      const stop = new AbortController();
      const label = { follow: aName() };
      const { metadata } = await cluster.create(CONFIG_MAPS, aConfigMap({ labels: label }), signal());
      const at = { name: metadata?.name ?? '', namespace };
      const followed = cluster.follow(CONFIG_MAPS, { namespace, labels: `follow=${label.follow}` }, () => undefined, stop.signal);
      await followed.synced;

      await cluster.patch(CONFIG_MAPS, at, { metadata: { labels: { follow: null } } }, 'merge', signal());
      await until('it is followed no more', () => followed.items().length === 0);

      expect(followed.get(at.name, namespace)).toBeUndefined();
      stop.abort();
    });

    test('kinds without a namespace have none', async () => {
      expect((await cluster.get(NAMESPACES, { name: namespace }, signal()))?.metadata?.name).toBe(namespace);
    });

    test('an abort is the reason that the signal has', async () => {
      const reason = new Error('enough');

      await expect(cluster.list(PODS, {}, AbortSignal.abort(reason))).rejects.toBe(reason);
      const followed = cluster.follow(PODS, {}, () => undefined, AbortSignal.abort(reason));
      await expect(followed.synced).rejects.toBe(reason);
    });
  });
}
