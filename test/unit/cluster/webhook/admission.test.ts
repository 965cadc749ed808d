import { beforeEach, describe, expect, test } from 'vitest';
import { CONFIG_MAPS, DEPLOYMENTS, EVENTS, type Pod } from '../../../../src/cluster/kinds.ts';
import { Admission } from '../../../../src/cluster/webhook/admission.ts';
import type { ImageConfig } from '../../../../src/cluster/webhook/inject.ts';
import { OwnerNotes } from '../../../../src/cluster/webhook/owner-notes.ts';
import type { AdmissionRequest } from '../../../../src/cluster/webhook/review.ts';
import { systemClock } from '../../../../src/lib/clock.ts';
import { silentLog } from '../../../../src/lib/log.ts';
import { FakeCluster } from '../../../fixtures/fake-cluster.ts';
import { until } from '../../../fixtures/until.ts';
import { aPod } from './builders.ts';

const signal = () => AbortSignal.timeout(5_000);
let cluster: FakeCluster;
let told: string[];
let now: number;

function anAdmission(findImage: () => Promise<ImageConfig | undefined> = async () => undefined) {
  return new Admission(
    {
      cluster,
      findImage,
      tellOwner: (_pod, namespace, { what, message }) => told.push(`${namespace} ${what}: ${message}`),
      files: () => ({ slotImage: 'slot', imageVolumes: true }),
      minorVersion: () => 36,
      clock: { now: () => now, sleep: (ms, aborted) => systemClock.sleep(ms / 10, aborted) },
      log: silentLog,
    },
    { namespace: 'rekindle' },
  );
}
const aRequest = (object: object, more: Partial<AdmissionRequest> = {}): AdmissionRequest => ({
  uid: 'u',
  namespace: 'shop',
  operation: 'CREATE',
  kind: { kind: 'Pod' },
  object,
  ...more,
});
const properties = (text: string | undefined) =>
  cluster.create(
    CONFIG_MAPS,
    { metadata: { name: 'props', namespace: 'shop' }, data: text === undefined ? {} : { 'cr-properties': text } },
    signal(),
  );
const withProperties = () => aPod({}, {}, { 'rekindle.dev/properties': 'props' });

beforeEach(() => {
  cluster = new FakeCluster();
  told = [];
  now = Date.UTC(2030, 0, 1);
});

describe('a pod', () => {
  test('becomes a slot with the policy of its ConfigMap', async () => {
    await properties('cr.checkpoint.name=talk');

    const { object, warnings } = await anAdmission().pod(aRequest(withProperties()), signal());

    const pod = object as Pod;
    expect(pod.spec?.containers[0]?.command?.[0]).toBe('/rekindle/slot');
    expect(pod.metadata?.annotations?.['rekindle.dev/workload']).toContain('"name":"talk"');
    expect([warnings, told]).toEqual([[], []]);
  });

  test.each([
    ['has no label', aPod(), { labels: {} }, 'shop'],
    ['is of the system', aPod(), {}, 'kube-system'],
    ['is our own', aPod(), {}, 'rekindle'],
  ])('that %s is not looked at', async (_, pod, metadata, namespace) => {
    const verdict = await anAdmission().pod(aRequest({ ...pod, metadata: { ...pod.metadata, ...metadata } }, { namespace }), signal());

    expect(verdict).toEqual({ warnings: [] });
  });

  test.each([
    ['there is no ConfigMap', () => Promise.resolve(), 'there is no ConfigMap shop/props'],
    ['it says nothing', () => properties(undefined), 'ConfigMap shop/props has no cr-properties'],
    ['it says what makes no sense', () => properties('cr.checkpoint.keep=0'), 'ConfigMap shop/props:1: cr.checkpoint.keep is 0'],
  ])('is left as it was when %s, and its owner is told', async (_, prepare, reason) => {
    await prepare();

    const verdict = await anAdmission().pod(aRequest(withProperties()), signal());

    expect(verdict).toEqual({ warnings: [expect.stringContaining(reason)] });
    expect(told).toEqual([expect.stringContaining(`shop left: `)]);
  });

  test('is left as it was when the API server is away, or nobody says within a second what its image runs', async () => {
    cluster.up = false;
    const away = await anAdmission().pod(aRequest(withProperties()), signal());
    cluster.up = true;
    const late = await anAdmission(() => new Promise(() => undefined)).pod(aRequest(aPod({ command: [] })), signal());

    expect(away).toEqual({ warnings: [expect.stringContaining('the API server does not answer')] });
    expect(late).toEqual({ warnings: [expect.stringContaining('could not be found out in time')] });
  });

  test('is left as it was when something in here is broken', async () => {
    const verdict = await anAdmission().pod(
      aRequest({ metadata: { labels: { 'rekindle.dev/enabled': 'true' } }, spec: { containers: 7 } }),
      signal(),
    );

    expect(verdict).toEqual({ warnings: ['the pod is left as it was: the webhook failed, and its log says why'] });
  });

  test('carries what its image runs', async () => {
    const found = async () => ({ entrypoint: ['/entry'], cmd: ['serve'] });

    const { object } = await anAdmission(found).pod(aRequest(aPod({ command: [] })), signal());

    expect((object as Pod).spec?.containers[0]).toMatchObject({ command: ['/rekindle/slot', '/entry'], args: ['serve'] });
  });

  test('of a dry run tells nobody', async () => {
    const { warnings } = await anAdmission().pod(aRequest(aPod({ tty: true }), { dryRun: true }), signal());

    expect(warnings).toHaveLength(1);
    expect(told).toEqual([]);
  });
});

describe('who makes such pods', () => {
  const aDeployment = (pod: Pod) => ({ metadata: { name: 'web' }, spec: { template: { metadata: pod.metadata, spec: pod.spec } } });
  const kind = { kind: 'Deployment' };

  test('is warned of what its pods cannot do, and nothing is changed', async () => {
    const verdict = await anAdmission().owner(aRequest(aDeployment(aPod({ tty: true })), { kind }), signal());

    expect(verdict).toEqual({ warnings: ['its pods will be left as they are: container app has a tty, which cannot be cloned'] });
    expect(told).toEqual([]);
  });

  test('is not warned of an image that nobody has looked at yet', async () => {
    expect(await anAdmission().owner(aRequest(aDeployment(aPod({ command: [] })), { kind }), signal())).toEqual({ warnings: [] });
  });

  test.each([{}, { spec: null }, { spec: { template: 7 } }])('may send anything: %j', async (object) => {
    expect(await anAdmission().owner(aRequest(object, { kind }), signal())).toEqual({ warnings: [] });
  });
});

describe('an event on the owner', () => {
  const notes = () => new OwnerNotes({ cluster, clock: { now: () => now, sleep: async () => undefined }, log: silentLog });
  const events = () => cluster.list(EVENTS, { namespace: 'shop' }, signal());
  const note = { what: 'left', message: 'hostNetwork is set' } as const;

  test('is of the Deployment, with its uid, once for all its pods and replicas of the webhook', async () => {
    const deployment = await cluster.create(DEPLOYMENTS, { metadata: { name: 'web', namespace: 'shop' } }, signal());
    const [first, second] = [notes(), notes()];

    for (const one of [first, second, first]) one.tell(aPod(), 'shop', note, signal());
    await until('an event', async () => (await events()).length > 0);
    await until('the second replica', () => cluster.deeds.some((deed) => deed.startsWith('patch events')) || cluster.deeds.length === 2);

    expect(await events()).toEqual([
      expect.objectContaining({
        type: 'Warning',
        reason: 'NotRestorable',
        message: 'hostNetwork is set',
        involvedObject: { apiVersion: 'apps/v1', kind: 'Deployment', name: 'web', namespace: 'shop', uid: deployment.metadata?.uid },
      }),
    ]);
  });

  test('is of the controller itself where that is no ReplicaSet, and of nobody for a pod of nobody', async () => {
    const set = { apiVersion: 'apps/v1', kind: 'StatefulSet', name: 'db', uid: 'set-uid', controller: true };

    notes().tell({ ...aPod(), metadata: { name: 'bare' } }, 'shop', note, signal());
    notes().tell({ ...aPod(), metadata: { ownerReferences: [set] } }, 'shop', note, signal());
    await until('an event', async () => (await events()).length > 0);

    expect((await events()).map(({ involvedObject }) => involvedObject)).toEqual([
      { apiVersion: 'apps/v1', kind: 'StatefulSet', name: 'db', namespace: 'shop', uid: 'set-uid' },
    ]);
  });

  test('that could not be written is written with the next pod', async () => {
    await cluster.create(DEPLOYMENTS, { metadata: { name: 'web', namespace: 'shop' } }, signal());
    const one = notes();
    cluster.up = false;
    one.tell(aPod(), 'shop', note, signal());
    await new Promise(setImmediate);
    cluster.up = true;

    one.tell(aPod(), 'shop', note, signal());
    await until('an event', async () => (await events()).length > 0);

    expect(await events()).toHaveLength(1);
  });
});
