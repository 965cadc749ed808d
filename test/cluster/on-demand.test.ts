import type { V1Pod } from '@kubernetes/client-node';
import { beforeAll, describe, expect, test } from 'vitest';
import { GATE, STATE_LABEL } from '../../src/workloads/kubernetes.ts';
import { APPS, installed, kubectl } from './fixture/cluster.ts';
import { aNamespace, isReady } from './fixture/namespace.ts';
import { nameOf, startOf, untilSnapshots } from './fixture/snapshots.ts';
import { aDeployment, type DeploymentOptions, PORT } from './fixture/workloads.ts';

const space = aNamespace();
const OWN = { cpu: '50m', memory: '64Mi' };
const PARKED = { cpu: '1m', memory: '4Mi' };
const LIMITS = { memory: '256Mi' };

/**
 * Says who it is and what it remembers, in memory and in files; `/write` makes it remember, `/hang` makes it forget that it lives. Slow to start, as
 * real ones are.
 */
const NOTES = `
const http = require('node:http'), os = require('node:os'), fs = require('node:fs');
const born = Date.now(), notes = [];
process.on('SIGTERM', () => process.exit(0));
const ls = (dir) => { try { return fs.readdirSync(dir).filter((name) => name === 'note') } catch { return [] } };
const until = Date.now() + 1000; while (Date.now() < until);
fs.writeFileSync('/tmp/alive', '');
http.createServer((request, response) => {
  if (request.url === '/hang') fs.rmSync('/tmp/alive');
  if (request.url === '/write') { notes.push(1); fs.writeFileSync('/tmp/note', ''); fs.writeFileSync('/data/note', ''); }
  response.end(JSON.stringify({ born, notes: notes.length, host: os.hostname(), color: process.env.COLOR, files: [...ls('/tmp'), ...ls('/data')] }));
}).listen(${PORT});
`;
type Notes = {
  readonly born: number;
  readonly notes: number;
  readonly host: string;
  readonly color?: string;
  readonly files: readonly string[];
};

const policy = (name: string, idleSeconds: number, more: readonly string[] = []) => ({
  apiVersion: 'v1',
  kind: 'ConfigMap',
  metadata: { name },
  data: {
    'cr-properties': [
      'cr.checkpoint.verify=first-restore',
      'cr.checkpoint.allowSharedRandom=true',
      `cr.pool.idleSeconds=${idleSeconds}`,
      'cr.pool.stableWindowSeconds=2',
      'cr.pool.burstWindowSeconds=1',
      ...more,
    ].join('\n'),
  },
});

const http = { httpGet: { path: '/', port: PORT } };
const container = {
  readinessProbe: { ...http, periodSeconds: 5 },
  resources: { requests: OWN, limits: LIMITS },
  volumeMounts: [{ name: 'data', mountPath: '/data' }],
};

/** A Deployment whose pods park. */
function parking(name: string, options: Partial<DeploymentOptions> = {}): object {
  return aDeployment({
    name,
    properties: name,
    command: ['node', '-e', NOTES],
    annotations: { 'rekindle.dev/mode': 'on-demand' },
    pod: { volumes: [{ name: 'data', emptyDir: {} }] },
    ...options,
    container: { ...container, ...options.container },
  });
}

const stateLabel = (pod: V1Pod) => pod.metadata?.labels?.[STATE_LABEL];
const gateOf = (pod: V1Pod) => pod.status?.conditions?.find(({ type }) => type === GATE);
const requestsOf = (pod: V1Pod) => pod.status?.containerStatuses?.[0]?.resources?.requests;
const restartsOf = (pod: V1Pod) => pod.status?.containerStatuses?.[0]?.restartCount;
/** What must stay as it is from life to life. */
const identityOf = (pod: V1Pod) => ({ uid: pod.metadata?.uid, address: pod.status?.podIP, restarts: restartsOf(pod) });
const isParked = (pod: V1Pod) =>
  stateLabel(pod) === 'parked' && gateOf(pod)?.reason === 'Parked' && isReady(pod) && requestsOf(pod)?.cpu === PARKED.cpu;

/** Waits until so many pods are there, and all are parked. */
function untilParked(name: string, count: number, withinMs = 60_000): Promise<readonly V1Pod[]> {
  return space.until(
    `${count} parked pods of ${name}`,
    async () => {
      const pods = await space.podsOf(`app=${name}`);
      return pods.length === count && pods.every(isParked) && pods;
    },
    withinMs,
  );
}

/** Runs curl in a pod of the cluster. */
async function curl(...args: readonly string[]): Promise<{ readonly headers: string; readonly body: string }> {
  const text = await space.kubectl('exec', 'client', '--', 'curl', '-sS', '-m', '30', '-D', '-', ...args);
  const [headers = '', body = ''] = text.replaceAll('\r', '').split(/\n\n(.*)/s);
  return { headers, body };
}

/** Asks a workload through the gateway; answers what it says, and how it started. */
async function invoke(name: string, path = '/'): Promise<Notes & { readonly start: string | undefined }> {
  const { headers, body } = await curl('-X', 'POST', '-d', 'x', `http://rekindle-gateway.rekindle/invoke/${space.name}/${name}${path}`);
  if (!headers.includes(' 200 ')) throw new Error(`${headers}\n\n${body}`);
  return { ...(JSON.parse(body) as Notes), start: /^rekindle-start: (.*)$/im.exec(headers)?.[1] };
}

async function podNamed(app: string, name: string): Promise<V1Pod> {
  const found = (await space.podsOf(`app=${app}`)).find((pod) => nameOf(pod) === name);
  if (found === undefined) throw new Error(`there is no pod ${name}`);
  return found;
}

/** Ends an agent as a crash would: its process, and whatever else is in its own cgroup. */
async function crash(agent: string): Promise<void> {
  const script = `own=$(cat /proc/self/cgroup); for p in /proc/[0-9]*; do [ "$(cat $p/cgroup 2>/dev/null)" = "$own" ] || continue; case "$(readlink $p/exe)" in */node) kill -9 "\${p#/proc/}";; esac; done`;
  await kubectl(['-n', 'rekindle', 'exec', agent, '-c', 'agent', '--', 'sh', '-c', script]).catch(() => undefined);
}

beforeAll(async () => {
  await installed();
  await space.apply(
    {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name: 'client' },
      spec: { terminationGracePeriodSeconds: 0, containers: [{ name: 'client', image: APPS, command: ['sleep', 'infinity'] }] },
    },
    policy('notes', 3),
    parking('notes', { replicas: 3 }),
    {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name: 'notes' },
      spec: { selector: { app: 'notes', [STATE_LABEL]: 'live' }, ports: [{ port: 80, targetPort: PORT }] },
    },
    policy('strict', 60, ['cr.restore.cold=a test wants it']),
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
    await space.kubectl('rollout', 'status', 'deployment/notes', '--timeout=60s');
    await untilSnapshots(space, 'notes');
    const pods = await untilParked('notes', 3);
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
    const answer = await invoke('notes', '/write');
    const pod = await space.until('the pod to be told as live with its own requests', async () => {
      const found = await podNamed('notes', answer.host);
      return stateLabel(found) === 'live' && requestsOf(found)?.cpu === OWN.cpu && found;
    });
    const others = (await space.podsOf('app=notes')).filter((one) => nameOf(one) !== answer.host);
    const served = await space.until('the Service', async () => JSON.parse((await curl('http://notes/')).body) as Notes);
    const slices = await space.kubectl('get', 'endpointslices', '-l', 'kubernetes.io/service-name=notes', '-o', 'json');
    const { items } = JSON.parse(slices) as { items: { endpoints: { addresses: string[] }[] }[] };

    expect(answer).toMatchObject({ start: 'restore', notes: 1 });
    expect(startOf(pod)).toMatch(/^restored in \d+ ms$/);
    expect(isReady(pod)).toBe(true);
    expect(requestsOf(pod)).toEqual(OWN);
    expect(restartsOf(pod)).toBeLessThan(2);
    expect(others.map(stateLabel)).toEqual(['parked', 'parked']);
    expect(served.host).toBe(answer.host);
    expect(items.flatMap(({ endpoints }) => endpoints.flatMap(({ addresses }) => addresses))).toEqual([pod.status?.podIP]);
  });

  test('are parked again in the same pod when nobody uses them, with the files that it had at first', { timeout: 90_000 }, async () => {
    const first = await invoke('notes', '/write');
    const live = await podNamed('notes', first.host);
    const parked = await untilParked('notes', 3);
    const files = await space.kubectl('exec', first.host, '--', 'sh', '-c', 'ls -A /data; cd /tmp; ls | grep -E "note|alive"; true');
    const noEndpoint = await curl('http://notes/').catch(String);
    const next = await invoke('notes');

    expect(parked.map(identityOf)).toContainEqual(identityOf(live));
    expect(parked.map(requestsOf)).toEqual([PARKED, PARKED, PARKED]);
    expect(files).toBe('');
    expect(noEndpoint).toMatch(/connect|refused|exit/i);
    expect(next).toMatchObject({ start: 'restore', born: first.born, notes: 0, files: [] });
  });

  test('stay awake while clients of a Service are connected', { timeout: 60_000 }, async () => {
    const { host } = await invoke('notes');
    await space.until('the Service', async () => JSON.parse((await curl('http://notes/')).body) as Notes);
    // One connection, a request a second.
    const script = `const http=require('http'),agent=new http.Agent({keepAlive:true,maxSockets:1});let last='';
      const go=(n)=>n===0?(console.log(last),process.exit()):http.get({host:'notes',agent},(r)=>{let t='';r.on('data',(d)=>t+=d);r.on('end',()=>{last=t;setTimeout(go,1000,n-1)})});go(7)`;
    const last = JSON.parse(await space.kubectl('exec', 'client', '--', 'node', '-e', script)) as Notes;

    expect(last.host).toBe(host);
    await untilParked('notes', 3);
  });
});

describe('probes', () => {
  test('kill neither a parked slot nor one that starts cold, and work once it is live', { timeout: 90_000 }, async () => {
    const [parked] = await untilParked('strict', 1);
    const answer = await invoke('strict');
    const live = await space.until('the pod to be told as live', async () => {
      const found = await podNamed('strict', answer.host);
      return stateLabel(found) === 'live' && found;
    });
    const events = await space.eventsOf(answer.host);
    await invoke('strict', '/hang');
    const killed = await space.until('the container to be made anew', async () => {
      const [status] = (await podNamed('strict', answer.host)).status?.containerStatuses ?? [];
      return status?.restartCount === 1 && status.lastState?.terminated;
    });
    const told = await space.eventsOf(answer.host);

    expect(answer.start).toBe('cold');
    expect(startOf(live)).toContain('a test wants it');
    expect(identityOf(live)).toEqual({ ...identityOf(parked as V1Pod), restarts: 0 });
    expect(events.filter((one) => one.startsWith('Killing'))).toEqual([]);
    expect(killed.reason).toBe('Completed');
    expect(told).toContainEqual(expect.stringContaining('Liveness probe failed: cat: /tmp/alive'));
    const [again] = await untilParked('strict', 1);
    expect(restartsOf(again as V1Pod)).toBe(1);
  });
});

describe('with every pod parked', () => {
  test('a rollout, its undo and a drain under a PodDisruptionBudget finish', { timeout: 150_000 }, async () => {
    await space.apply({
      apiVersion: 'policy/v1',
      kind: 'PodDisruptionBudget',
      metadata: { name: 'notes' },
      spec: { minAvailable: 2, selector: { matchLabels: { app: 'notes' } } },
    });
    await untilParked('notes', 3);
    await space.kubectl('set', 'env', 'deployment/notes', 'COLOR=blue');
    await space.kubectl('rollout', 'status', 'deployment/notes', '--timeout=60s');
    const blue = await invoke('notes');
    await space.kubectl('rollout', 'undo', 'deployment/notes');
    await space.kubectl('rollout', 'status', 'deployment/notes', '--timeout=60s');
    const back = await invoke('notes');
    const pods = await untilParked('notes', 3);
    const node = pods[0]?.spec?.nodeName ?? '';
    try {
      await space.kubectl('drain', node, '--pod-selector=app=notes', '--delete-emptydir-data', '--timeout=60s');
      const elsewhere = await untilParked('notes', 3);

      expect(blue.color).toBe('blue');
      expect(back).toMatchObject({ start: 'restore' });
      expect(back.color).toBeUndefined();
      expect(elsewhere.map((pod) => pod.spec?.nodeName)).not.toContain(node);
    } finally {
      await kubectl(['uncordon', node]);
    }
  });

  test('a StatefulSet scales, one pod after the other', { timeout: 90_000 }, async () => {
    const { spec } = parking('set', { properties: 'notes' }) as { spec: object };
    await space.apply({
      apiVersion: 'apps/v1',
      kind: 'StatefulSet',
      metadata: { name: 'set' },
      spec: { ...spec, serviceName: 'set' },
    });
    await space.untilReady('app=set', 1);
    await space.kubectl('scale', 'statefulset/set', '--replicas=3');
    await space.kubectl('rollout', 'status', 'statefulset/set', '--timeout=60s');
    const pods = await untilParked('set', 3);
    await space.kubectl('scale', 'statefulset/set', '--replicas=1');

    expect(pods.map(nameOf).sort()).toEqual(['set-0', 'set-1', 'set-2']);
    await untilParked('set', 1);
  });
});

describe('an agent', () => {
  const agentOf = (node: string | undefined) =>
    kubectl([
      ...['-n', 'rekindle', 'get', 'pods', '-l', 'app.kubernetes.io/name=rekindle-agent', `--field-selector=spec.nodeName=${node}`],
      ...['-o', 'jsonpath={.items[0].metadata.name}'],
    ]);

  test('that crashes, or is replaced, leaves parked slots parked and live ones live; the next one wakes them', {
    timeout: 150_000,
  }, async () => {
    const before = await untilParked('notes', 3);
    const awake = await invoke('notes', '/write');
    const live = await podNamed('notes', awake.host);
    await crash(await agentOf(live.spec?.nodeName));
    await space.until('the agent to be away', async () => !(await served(live)));
    const without = await space.podsOf('app=notes');
    await installed();
    const same = await invoke('notes');
    await kubectl(['-n', 'rekindle', 'rollout', 'restart', 'daemonset/rekindle-agent']);
    await installed();
    const after = await untilParked('notes', 3);
    const woken = await invoke('notes');

    expect(without.every(isReady)).toBe(true);
    expect(without.map(stateLabel).sort()).toEqual(['live', 'parked', 'parked']);
    expect(same).toMatchObject({ host: awake.host, start: 'warm', notes: 1 });
    expect(after.map(identityOf)).toEqual(before.map(identityOf));
    expect(woken).toMatchObject({ start: 'restore', born: awake.born, notes: 0, files: [] });
  });

  async function served({ spec }: V1Pod): Promise<boolean> {
    const text = await kubectl(['-n', 'rekindle', 'get', 'pods', '-l', 'app.kubernetes.io/name=rekindle-agent', '-o', 'json']);
    const { items } = JSON.parse(text) as { items: V1Pod[] };
    return items.some((pod) => pod.spec?.nodeName === spec?.nodeName && isReady(pod));
  }
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
    expect(requestsOf(await podNamed('large', nameOf(pod as V1Pod)))).toEqual(OWN);
  });
});
