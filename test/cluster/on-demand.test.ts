import type { V1Pod } from '@kubernetes/client-node';
import { beforeAll, describe, expect, test } from 'vitest';
import { STATE_LABEL } from '../../src/workloads/kubernetes.ts';
import { installed, kubectl } from './fixture/cluster.ts';
import { aNamespace, isReady } from './fixture/namespace.ts';
import {
  CLIENT,
  curl,
  gateOf,
  http,
  identityOf,
  invoke,
  keptAwake,
  LIMITS,
  type Notes,
  OWN,
  PARKED,
  parking,
  parkingProperties,
  podNamed,
  requestsOf,
  restartsOf,
  stateLabel,
  untilParked,
} from './fixture/parking.ts';
import { nameOf, RESTORED, startOf, untilSnapshots } from './fixture/snapshots.ts';
import { PORT } from './fixture/workloads.ts';

const space = aNamespace();
beforeAll(async () => {
  await installed();
  await space.apply(
    CLIENT,
    parkingProperties('notes', 3),
    parking('notes', { replicas: 3 }),
    {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name: 'notes' },
      spec: { selector: { app: 'notes', [STATE_LABEL]: 'live' }, ports: [{ port: 80, targetPort: PORT }] },
    },
    parkingProperties('strict', 60, ['cr.restore.cold=a test wants it']),
    parking('strict', {
      container: {
        startupProbe: { ...http, periodSeconds: 1, failureThreshold: 8 },
        livenessProbe: { exec: { command: ['cat', '/tmp/alive'] }, periodSeconds: 1, failureThreshold: 1 },
      },
    }),
  );
});

describe('pods of a workload that runs on demand', () => {
  test('become Ready without an application, with next to no requests, once the first of them was made the snapshot', async () => {
    await space.kubectl('rollout', 'status', 'deployment/notes', '--timeout=120s');
    await untilSnapshots(space, 'notes');
    const pods = await untilParked(space, 'notes', 3);
    const [fresh] = pods.filter((pod) => restartsOf(pod) === 0);
    const runs = await space.kubectl('exec', nameOf(fresh as V1Pod), '--', 'ps', '-e', '-o', 'args=');

    expect(pods.map(gateOf)).toEqual([1, 2, 3].map(() => expect.objectContaining({ status: 'True', reason: 'Parked' })));
    expect(pods.map(requestsOf)).toEqual([PARKED, PARKED, PARKED]);
    expect(pods.map((pod) => pod.spec?.containers[0]?.resources?.limits)).toEqual([LIMITS, LIMITS, LIMITS]);
    // The seed was process 1 of its container, which the kubelet has made anew; the others have not run at all.
    expect(pods.map(restartsOf).sort()).toEqual([0, 0, 1]);
    expect(runs.split('\n').filter((line) => line.startsWith('node'))).toEqual([]);
  });

  test('are woken by a request, by restore, and a Service of the live ones reaches exactly those', async () => {
    const answer = await invoke(space, 'notes', '/write');
    // On a busy machine it would be parked again before kubelet and Service have heard of it.
    await using awake = await keptAwake(space, 'notes');
    const pod = await space.until('the pod to be told as live with its own requests', async () => {
      const found = await podNamed(space, 'notes', awake.host);
      return stateLabel(found) === 'live' && requestsOf(found)?.cpu === OWN.cpu && found;
    });
    const others = (await space.podsOf('app=notes')).filter((one) => nameOf(one) !== nameOf(pod));
    const served = await space.until('the Service', async () => JSON.parse((await curl(space, 'http://notes/')).body) as Notes);
    const slices = await space.kubectl('get', 'endpointslices', '-l', 'kubernetes.io/service-name=notes', '-o', 'json');
    const { items } = JSON.parse(slices) as { items: { endpoints: { addresses: string[] }[] }[] };

    expect(answer).toMatchObject({ start: 'restore', notes: 1 });
    expect(startOf(pod)).toMatch(RESTORED);
    expect(isReady(pod)).toBe(true);
    expect(requestsOf(pod)).toEqual(OWN);
    expect(restartsOf(pod)).toBeLessThan(2);
    expect(others.map(stateLabel)).toEqual(['parked', 'parked']);
    expect(served.host).toBe(nameOf(pod));
    expect(items.flatMap(({ endpoints }) => endpoints.flatMap(({ addresses }) => addresses))).toEqual([pod.status?.podIP]);
  });

  test('are parked again in the same pod when nobody uses them, with the files that it had at first', { timeout: 180_000 }, async () => {
    const first = await invoke(space, 'notes', '/write');
    const live = await podNamed(space, 'notes', first.host);
    const parked = await untilParked(space, 'notes', 3);
    const files = await space.kubectl('exec', first.host, '--', 'sh', '-c', 'ls -A /data; cd /tmp; ls | grep -E "note|alive"; true');
    const noEndpoint = await space.until('no endpoint', () => curl(space, 'http://notes/').then(() => undefined, String));
    const next = await invoke(space, 'notes');

    expect(parked.map(identityOf)).toContainEqual(identityOf(live));
    expect(parked.map(requestsOf)).toEqual([PARKED, PARKED, PARKED]);
    expect(files).toBe('');
    expect(noEndpoint).toMatch(/connect|refused|exit/i);
    expect(next).toMatchObject({ start: 'restore', born: first.born, notes: 0, files: [] });
  });

  test('stay awake while clients of a Service are connected', { timeout: 60_000 }, async () => {
    // Wakes a pod, whenever none is there any more, until the Service leads to it; then one connection, a request a second.
    const script = `const http=require('http'),agent=new http.Agent({keepAlive:true,maxSockets:1}),hosts=[];
      const get=(o)=>new Promise((done,failed)=>http.request(o,(r)=>{let t='';r.on('data',(d)=>t+=d);r.on('end',()=>done(JSON.parse(t).host))}).on('error',failed).end());
      const wake=()=>get({method:'POST',host:'rekindle-gateway.rekindle',path:'/invoke/${space.name}/notes/',headers:{'content-length':0}});
      const pause=(ms)=>new Promise((done)=>setTimeout(done,ms));
      const reach=async()=>{for(let i=0;;i++){if(i%10===0)await wake();try{return await get({host:'notes',agent})}catch(e){if(i>100)throw e;await pause(200)}}};
      (async()=>{hosts.push(await reach());for(let i=0;i<7;i++){await pause(1000);hosts.push(await get({host:'notes',agent}))}console.log(JSON.stringify(hosts));process.exit()})()`;
    const hosts = JSON.parse(await space.kubectl('exec', 'client', '--', 'node', '-e', script)) as string[];

    expect(hosts).toHaveLength(8);
    expect(new Set(hosts).size).toBe(1);
    await untilParked(space, 'notes', 3);
  });
});

describe('probes', () => {
  test('kill neither a parked slot nor one that starts cold, and work once it is live', { timeout: 90_000 }, async () => {
    const [parked] = await untilParked(space, 'strict', 1);
    const answer = await invoke(space, 'strict');
    const live = await space.until('the pod to be told as live', async () => {
      const found = await podNamed(space, 'strict', answer.host);
      return stateLabel(found) === 'live' && found;
    });
    const events = await space.eventsOf(answer.host);
    await invoke(space, 'strict', '/hang');
    const killed = await space.until('the container to be made anew', async () => {
      const [status] = (await podNamed(space, 'strict', answer.host)).status?.containerStatuses ?? [];
      return status?.restartCount === 1 && status.lastState?.terminated;
    });
    const told = await space.eventsOf(answer.host);

    expect(answer.start).toBe('cold');
    expect(startOf(live)).toContain('a test wants it');
    expect(identityOf(live)).toEqual({ ...identityOf(parked as V1Pod), restarts: 0 });
    expect(events.filter((one) => one.startsWith('Killing'))).toEqual([]);
    expect(killed.reason).toBe('Completed');
    expect(told).toContainEqual(expect.stringContaining('Liveness probe failed: cat: /tmp/alive'));
    const [again] = await untilParked(space, 'strict', 1);
    expect(restartsOf(again as V1Pod)).toBe(1);
  });
});

describe('with every pod parked', () => {
  test('a rollout, its undo and a drain under a PodDisruptionBudget finish', { timeout: 400_000 }, async () => {
    await space.apply({
      apiVersion: 'policy/v1',
      kind: 'PodDisruptionBudget',
      metadata: { name: 'notes' },
      spec: { minAvailable: 2, selector: { matchLabels: { app: 'notes' } } },
    });
    await untilParked(space, 'notes', 3);
    await space.kubectl('set', 'env', 'deployment/notes', 'COLOR=blue');
    await space.kubectl('rollout', 'status', 'deployment/notes', '--timeout=120s');
    const blue = await invoke(space, 'notes');
    await space.kubectl('rollout', 'undo', 'deployment/notes');
    await space.kubectl('rollout', 'status', 'deployment/notes', '--timeout=120s');
    const back = await invoke(space, 'notes');
    const pods = await untilParked(space, 'notes', 3);
    const node = pods[0]?.spec?.nodeName ?? '';
    try {
      await space.kubectl('drain', node, '--pod-selector=app=notes', '--delete-emptydir-data', '--timeout=120s');
      const elsewhere = await untilParked(space, 'notes', 3);

      expect(blue.color).toBe('blue');
      expect(back).toMatchObject({ start: 'restore' });
      expect(back.color).toBeUndefined();
      expect(elsewhere.map((pod) => pod.spec?.nodeName)).not.toContain(node);
    } finally {
      await kubectl(['uncordon', node]);
    }
  });

  test('a StatefulSet scales, one pod after the other', { timeout: 240_000 }, async () => {
    const { spec } = parking('set', { properties: 'notes' }) as { spec: object };
    await space.apply({
      apiVersion: 'apps/v1',
      kind: 'StatefulSet',
      metadata: { name: 'set' },
      spec: { ...spec, serviceName: 'set' },
    });
    await space.untilReady('app=set', 1);
    await space.kubectl('scale', 'statefulset/set', '--replicas=3');
    await space.kubectl('rollout', 'status', 'statefulset/set', '--timeout=120s');
    const pods = await untilParked(space, 'set', 3);
    await space.kubectl('scale', 'statefulset/set', '--replicas=1');

    expect(pods.map(nameOf).sort()).toEqual(['set-0', 'set-1', 'set-2']);
    await untilParked(space, 'set', 1);
  });
});

describe('what cannot run on demand', () => {
  test('a gRPC probe: such pods are restored but do not park, and their owner is told', async () => {
    await space.apply(parking('remote', { properties: 'notes', replicas: 0, container: { readinessProbe: { grpc: { port: PORT } } } }));
    await space.kubectl('scale', 'deployment/remote', '--replicas=1');
    const event = await space.untilEvent('remote', 'RestoreLimited:');

    expect(event).toContain('readinessProbe is gRPC, which a parked slot cannot answer');
    const [pod] = await space.podsOf('app=remote');
    expect(stateLabel(pod as V1Pod)).not.toBe('parked');
  });

  test('a Guaranteed pod parks, but keeps its requests, and an event says why', async () => {
    const resources = { requests: OWN, limits: OWN };
    await space.apply(parking('large', { properties: 'notes', container: { resources } }));
    const [pod] = await space.until('the pod to park', async () => {
      const pods = await space.podsOf('app=large');
      return pods.some((one) => gateOf(one)?.reason === 'Parked') && pods;
    });
    const event = await space.untilEvent(nameOf(pod as V1Pod), 'NotMadeSmaller:');

    expect(event).toContain('Guaranteed');
    expect(requestsOf(await podNamed(space, 'large', nameOf(pod as V1Pod)))).toEqual(OWN);
  });
});
