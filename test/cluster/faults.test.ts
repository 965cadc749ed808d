import { setTimeout as delay } from 'node:timers/promises';
import type { V1Pod } from '@kubernetes/client-node';
import { beforeAll, describe, expect, test } from 'vitest';
import { applyManifests, foreign, installed, kubectl } from './fixture/cluster.ts';
import { amiss, doctor } from './fixture/doctor.ts';
import { aNamespace, isReady } from './fixture/namespace.ts';
import {
  CLIENT,
  gateOf,
  identityOf,
  invoke,
  type Notes,
  parking,
  parkingProperties,
  podNamed,
  stateLabel,
  untilParked,
} from './fixture/parking.ts';
import {
  agentOn,
  agents,
  agentsOnlyOn,
  crash,
  gatewayAddress,
  signalAgent,
  silentApiServer,
  untilPodsOfRole,
  withoutRedis,
} from './fixture/roles.ts';
import { get, nameOf, oneMorePod, RESTORED, startOf, untilEverywhere } from './fixture/snapshots.ts';
import { aDeployment, asKind, asks, PATIENT, PORT, propertiesOf, WHO_COMMAND, type Who } from './fixture/workloads.ts';

/** Parts of rekindle, or of Kubernetes, are away: nothing else is tested meanwhile. */
const space = aNamespace();
const TIMEOUT = { timeout: 240_000 };
const IDLE_SECONDS = 20;
const who = (name: string) => aDeployment({ name, command: WHO_COMMAND, properties: 'patient', container: asks('/') });

const ask = async (pod: V1Pod) => JSON.parse(await get(space, pod)) as Who;
/** The same without the API server: from this machine, which all networks of its own cluster lead to. */
const askDirectly = async (pod: V1Pod) =>
  (await (await fetch(`http://${pod.status?.podIP}:${PORT}/`, { signal: AbortSignal.timeout(5_000) })).json()) as Who;

const oneMore = () => oneMorePod(space, 'who');

beforeAll(async () => {
  await installed();
  await space.apply(
    CLIENT,
    propertiesOf('patient', PATIENT),
    who('who'),
    parkingProperties('notes', IDLE_SECONDS),
    parking('notes', { replicas: 3 }),
    {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name: 'who' },
      spec: { selector: { app: 'who' }, ports: [{ port: 80, targetPort: PORT }] },
    },
  );
  await space.untilReady('app=who');
  for (const name of ['who', 'notes']) await untilEverywhere(space, name);
  await space.kubectl('scale', 'deployment/who', '--replicas=3');
  await space.untilReady('app=who', 3);
  await untilParked(space, 'notes', 3, 90_000);
}, 240_000);

describe('an agent', () => {
  test('that crashes, or is replaced, leaves parked slots parked and live ones live; the next one wakes them', TIMEOUT, async () => {
    const before = await untilParked(space, 'notes', 3, 90_000);
    const live = await Promise.all((await space.podsOf('app=who')).map(ask));
    const awake = await invoke(space, 'notes', '/write');
    const node = await space.until('it to be told as live', async () => {
      const pod = await podNamed(space, 'notes', awake.host);
      return stateLabel(pod) === 'live' && pod.spec?.nodeName;
    });
    const agent = await agentOn(node);
    await crash(agent);
    await space.until('the agent to be away', async () => !(await agents()).some(({ spec }) => spec?.nodeName === node));
    const without = await space.podsOf('app=notes');
    await installed();
    const same = await invoke(space, 'notes');
    await kubectl(['-n', 'rekindle', 'rollout', 'restart', 'daemonset/rekindle-agent']);
    await kubectl(['-n', 'rekindle', 'rollout', 'status', 'daemonset/rekindle-agent', '--timeout=60s']);
    const pods = await space.podsOf('app=who');
    const still = await Promise.all(pods.map(ask));
    const after = await untilParked(space, 'notes', 3, 90_000);
    const woken = await invoke(space, 'notes');

    expect(without.every(isReady)).toBe(true);
    expect(without.map(stateLabel).sort()).toEqual(['live', 'parked', 'parked']);
    expect(same).toMatchObject({ host: awake.host, start: 'warm', notes: 1 });
    expect(after.map(identityOf)).toEqual(before.map(identityOf));
    expect(woken).toMatchObject({ start: 'restore', born: awake.born, notes: 0, files: [] });
    expect(still.map(({ host, born }) => [host, born])).toEqual(live.map(({ host, born }) => [host, born]));
    expect(pods.every(isReady)).toBe(true);
  });

  test('that crashes while pods are made: they are restored by the next one or start cold, and are Ready', TIMEOUT, async () => {
    const before = await space.podsOf('app=who');
    const crashed = await Promise.all((await agents()).map(nameOf).map(crash));
    await space.kubectl('scale', 'deployment/who', '--replicas=7');
    const pods = await space.untilReady('app=who', 7, 60_000);
    const made = pods.filter((pod) => !before.some((old) => nameOf(old) === nameOf(pod)));

    expect(crashed).toHaveLength(2);
    expect(made).toHaveLength(7 - before.length);
    for (const pod of made) expect(startOf(pod)).toMatch(/^(restored in \d+ ms|cold: .+)$/);
    await installed();
    await space.kubectl('scale', 'deployment/who', '--replicas=3');
    await space.untilReady('app=who', 3);
  });

  test('that crashes while it makes a snapshot: the seed becomes Ready, and serves', TIMEOUT, async () => {
    const slow = ['cr.container.warmup=sleep 600', 'cr.checkpoint.gateDeadlineSeconds=3600'];
    await space.apply(
      propertiesOf('slow', slow),
      aDeployment({ name: 'orphan', command: WHO_COMMAND, properties: 'slow', container: asks('/') }),
    );
    const seed = await space.until('the warm-up', async () =>
      (await space.podsOf('app=orphan')).find((pod) => stateLabel(pod) === 'seed' && pod.status?.containerStatuses?.[0]?.ready),
    );
    await crash(await agentOn(seed.spec?.nodeName));
    const [orphan] = await space.untilReady('app=orphan', 1, 45_000);
    const answer = await ask(orphan as V1Pod);
    await installed();
    await space.kubectl('delete', 'deployment/orphan', '--wait=false');

    expect(nameOf(orphan ?? {})).toBe(nameOf(seed));
    expect(startOf(orphan ?? {})).toMatch(/^cold: /);
    expect(orphan?.status?.containerStatuses?.[0]?.restartCount).toBe(0);
    expect(answer.host).toBe(nameOf(seed));
  });

  test(
    'that is not there: pods of that node start cold and become Ready, those of others are restored; then all are again',
    TIMEOUT,
    async () => {
      const elsewhere = { 'kubernetes.io/hostname': 'node1' };
      const before = (await space.podsOf('app=who')).map(nameOf);
      {
        await using _ = await agentsOnlyOn(elsewhere);
        await space.kubectl('scale', 'deployment/who', '--replicas=9');
        const pods = await space.untilReady('app=who', 9, 90_000);
        const made = pods.filter((pod) => !before.includes(nameOf(pod)));
        const found = amiss(await doctor());
        const on = (node: string) => made.filter(({ spec }) => spec?.nodeName === node).map(startOf);

        expect(on('node1').length).toBeGreaterThan(0);
        expect(on('node2').length).toBeGreaterThan(0);
        for (const start of on('node1')) expect(start).toMatch(RESTORED);
        for (const start of on('node2')) expect(start).toBe('cold: no agent of rekindle runs on node2');
        expect(found).toEqual([expect.stringMatching(/agent.*node2/)]);
      }
      await space.kubectl('scale', 'deployment/who', '--replicas=3');
      await space.untilReady('app=who', 3);
      await space.kubectl('scale', 'deployment/who', '--replicas=9');
      const again = await space.untilReady('app=who', 9, 90_000);

      const restored = again.filter((pod) => RESTORED.test(startOf(pod)));
      expect(new Set(restored.map(({ spec }) => spec?.nodeName)).size).toBe(2);
      await space.kubectl('scale', 'deployment/who', '--replicas=3');
      await space.untilReady('app=who', 3);
    },
  );

  test('that is nowhere: live pods serve, parked ones stay parked, and a Deployment that is new becomes Ready', TIMEOUT, async () => {
    const parked = await untilParked(space, 'notes', 3, 90_000);
    const live = await Promise.all((await space.podsOf('app=who')).map(ask));
    await using _ = await agentsOnlyOn({ 'rekindle.dev/none': 'here' });

    await space.apply(who('late'));
    const [late] = await space.untilReady('app=late', 1, 60_000);
    const still = await Promise.all((await space.podsOf('app=who')).map(ask));
    const notes = await space.podsOf('app=notes');

    expect(startOf(late ?? {})).toMatch(/^cold: no agent of rekindle runs on node/);
    expect(still.map(({ host, born }) => [host, born])).toEqual(live.map(({ host, born }) => [host, born]));
    expect(notes.map(identityOf)).toEqual(parked.map(identityOf));
    expect(notes.every(isReady)).toBe(true);
    expect(notes.map(stateLabel)).toEqual(['parked', 'parked', 'parked']);
  });
});

describe('Redis', () => {
  test('that is away keeps no pod from being restored from what its node has; afterwards invokes wake pods again', TIMEOUT, async () => {
    {
      await using _ = await withoutRedis();
      expect(startOf(await oneMore())).toMatch(RESTORED);
      expect((await space.podsOf('app=notes')).map(stateLabel)).toEqual(['parked', 'parked', 'parked']);
    }
    const woken = await space.until('an answer', () => invoke(space, 'notes'), 90_000);

    expect(woken.start).toBe('restore');
    expect(startOf(await oneMore())).toMatch(RESTORED);
  });
});

describe.skipIf(foreign)('the API server', () => {
  test('that is silent for 20 s: live pods serve, a parked one is woken; afterwards all is as ever', TIMEOUT, async () => {
    const parked = await untilParked(space, 'notes', 3, 90_000);
    const pods = await space.podsOf('app=who');
    const live = await Promise.all(pods.map(ask));
    const gateway = await gatewayAddress();
    const told: Who[][] = [];
    let woken: { notes: Notes; start: string | null } | undefined;
    {
      await using _ = await silentApiServer();
      for (let second = 0; second < 20; second += 2) {
        told.push(await Promise.all(pods.map(askDirectly)));
        if (second === 6) {
          const signal = AbortSignal.timeout(10_000);
          const answer = await fetch(`http://${gateway}/invoke/${space.name}/notes/`, { method: 'POST', body: 'x', signal });
          woken = { notes: (await answer.json()) as Notes, start: answer.headers.get('rekindle-start') };
        }
        await delay(2_000);
      }
    }
    // Until it finds the webhook again it makes ordinary pods.
    const made = await space.until('a restored pod', async () => [await oneMore()].find((pod) => RESTORED.test(startOf(pod))), 90_000);
    const after = await untilParked(space, 'notes', 3, 90_000);

    for (const one of told) expect(one.map(({ host, born }) => [host, born])).toEqual(live.map(({ host, born }) => [host, born]));
    expect(woken?.start).toBe('restore');
    expect(isReady(made)).toBe(true);
    expect(after.map(identityOf)).toEqual(parked.map(identityOf));
  });
});

test.skipIf(foreign)(
  'a gate opens within 30 s though agents are uninstalled, no scaler runs and the API server was away',
  TIMEOUT,
  async () => {
    await space.apply(propertiesOf('never', ['cr.container.readiness=false', 'cr.checkpoint.gateDeadlineSeconds=3600']));
    await space.apply(aDeployment({ name: 'held', command: WHO_COMMAND, properties: 'never', container: asks('/') }));
    const [held] = await space.until('only its gate to hold the seed', async () => {
      const pods = await space.podsOf('app=held');
      return pods.length === 1 && pods.every(({ status }) => status?.containerStatuses?.[0]?.ready) && pods;
    });
    // They say no last words.
    const gone = (await agents()).map(nameOf);
    for (const agent of gone) await signalAgent(agent, 'STOP');
    try {
      await kubectl(['-n', 'rekindle', 'delete', 'daemonset/rekindle-agent', '--wait=false']);
      await kubectl(['-n', 'rekindle', 'scale', 'deployment/rekindle-scaler', '--replicas=0']);
      {
        await using _ = await silentApiServer();
        await delay(15_000);
      }
      const [opened] = await space.untilReady('app=held', 1, 30_000);

      expect(isReady(held as V1Pod)).toBe(false);
      expect(nameOf(opened ?? {})).toBe(nameOf(held ?? {}));
      expect(gateOf(opened as V1Pod)?.reason).toBe('AgentAway');
      expect((await ask(opened as V1Pod)).host).toBe(nameOf(held ?? {}));
    } finally {
      await Promise.all(gone.map((agent) => signalAgent(agent, 'KILL')));
      await space.until('the API server', async () => {
        await applyManifests();
        return true;
      });
      await installed();
    }
    await space.until('a restored pod', async () => [await oneMore()].find((pod) => RESTORED.test(startOf(pod))));
  },
);

describe('the gateways', () => {
  const gateways = 'deployment/rekindle-gateway';

  test(
    'that are away while pods are made: those start as ordinary pods, live ones serve; with them the next are slots',
    TIMEOUT,
    async () => {
      const live = await Promise.all((await space.podsOf('app=who')).map(ask));
      await kubectl(['-n', 'rekindle', 'scale', gateways, '--replicas=0']);
      await untilPodsOfRole('gateway', 0);

      await space.apply(who('ordinary'));
      const [ordinary] = await space.untilReady('app=ordinary', 1, 60_000);
      const still = await Promise.all((await space.podsOf('app=who')).map(ask));
      const found = amiss(await doctor());
      await kubectl(['-n', 'rekindle', 'scale', gateways, '--replicas=2']);
      await installed();
      const made = await space.until('a restored pod', async () => [await oneMore()].find((pod) => RESTORED.test(startOf(pod))), 60_000);

      expect(ordinary?.spec?.containers[0]?.command).toEqual(WHO_COMMAND);
      expect(ordinary?.spec?.readinessGates).toBeUndefined();
      expect(found).toContainEqual(expect.stringContaining('gateway'));
      expect(still.map(({ host, born }) => [host, born])).toEqual(live.map(({ host, born }) => [host, born]));
      expect(isReady(made)).toBe(true);
    },
  );

  test('of a cluster without image volumes copy the slot into pods, which are restored like others', TIMEOUT, async () => {
    const copying = async (value: string) => {
      await kubectl(['-n', 'rekindle', 'set', 'env', gateways, value]);
      await kubectl(['-n', 'rekindle', 'rollout', 'status', gateways, '--timeout=90s']);
      await untilPodsOfRole('gateway', 2);
    };
    await copying('REKINDLE_SLOT_FILES=copy');
    try {
      await space.apply(who('copied'));
      await space.untilReady('app=copied', 1, 60_000);
      await untilEverywhere(space, 'copied');
      await space.kubectl('scale', 'deployment/copied', '--replicas=3');
      const pods = await space.untilReady('app=copied', 3, 60_000);

      for (const pod of pods) expect(pod.spec?.initContainers?.map(({ name }) => name)).toEqual(['rekindle-slot']);
      expect(pods.map(startOf).filter((start) => RESTORED.test(start))).toHaveLength(2);
    } finally {
      await copying('REKINDLE_SLOT_FILES-');
      await installed();
    }
  });
});

test('pods that flood agents and webhook with nonsense hurt only themselves: others are slots, and are restored', TIMEOUT, async () => {
  // Fifty connections at a time to each, for as long as it lives: some say nothing, some nonsense, some claim to be a slot of another's.
  const script = `const net=require('net');const flood=(host,port)=>{const s=net.connect(port,host);
    s.on('error',()=>{});s.once('close',()=>setTimeout(flood,20,host,port));s.setTimeout(1000,()=>s.destroy());s.once('connect',()=>{const say=Math.random();
    if(say<0.3)s.write(require('crypto').randomBytes(4096));else if(say<0.6)s.write(('hello 1 '+process.env.VICTIM+' app undecided\\n').repeat(20))})};
    for(let i=0;i<50;i++)for(const [host,port] of [[process.env.NODE,7654],[process.env.NODE,7655],['rekindle-webhook.rekindle',443]])flood(host,port)`;
  const victim = (await space.podsOf('app=who'))[0]?.metadata?.uid ?? '';
  const flood = aDeployment({
    name: 'hostile',
    enabled: false,
    command: ['node', '-e', script],
    container: {
      readinessProbe: undefined,
      env: [
        { name: 'NODE', valueFrom: { fieldRef: { fieldPath: 'status.hostIP' } } },
        { name: 'VICTIM', value: victim },
      ],
    },
  });
  const before = (await agents()).map(identityOf);
  const live = await Promise.all((await space.podsOf('app=who')).map(ask));
  try {
    await space.apply(asKind('DaemonSet', flood));
    await space.untilReady('app=hostile', 2, 60_000);
    await delay(5_000);

    const made = [await oneMore(), await oneMore()];
    const after = (await agents()).map(identityOf);
    const still = await Promise.all(
      (await space.podsOf('app=who')).filter(({ metadata }) => made.every((pod) => nameOf(pod) !== metadata?.name)).map(ask),
    );
    const hostile = await space.podsOf('app=hostile');

    expect(hostile.map(({ status }) => status?.containerStatuses?.[0]?.restartCount)).toEqual([0, 0]);
    for (const pod of made) expect(startOf(pod)).toMatch(RESTORED);
    expect(after).toEqual(before);
    expect(still.map(({ host, born }) => [host, born])).toEqual(live.map(({ host, born }) => [host, born]));
  } finally {
    await space.kubectl('delete', 'daemonset/hostile', '--wait=true');
  }
});

describe('a role', () => {
  test('of which every pod is deleted comes back: pods are restored and woken as before', TIMEOUT, async () => {
    const parked = await untilParked(space, 'notes', 3, 90_000);
    for (const role of ['agent', 'scaler', 'gateway', 'redis'])
      await kubectl(['-n', 'rekindle', 'delete', 'pods', '-l', `app.kubernetes.io/name=rekindle-${role}`, '--wait=true'], {
        timeoutMs: 90_000,
      });
    await installed();

    const woken = await space.until('an answer', () => invoke(space, 'notes'), 90_000);
    const made = await space.until('a restored pod', async () => [await oneMore()].find((pod) => RESTORED.test(startOf(pod))), 60_000);

    expect(parked.map(nameOf)).toContain(woken.host);
    expect(woken.start).toBe('restore');
    expect(isReady(made)).toBe(true);
  });
});

describe('agent and scaler', () => {
  test('are replaced while clients ask a Service and the gateway: no request is lost', TIMEOUT, async () => {
    // A new connection each time, from before anything is replaced until ten requests after all is; what fails is written down.
    const script = `const http=require('http'),fs=require('fs');const failed=[],asked=[0,0];
      const ask=(o)=>new Promise((done)=>{const r=http.request({agent:false,timeout:20000,...o},(a)=>{a.resume();a.on('end',()=>{if(a.statusCode!==200)failed.push(o.path+' '+a.statusCode);done()})});
        r.on('error',(e)=>{failed.push(o.path+' '+e.message);done()});r.on('timeout',()=>r.destroy(new Error('timeout')));r.end()});
      const until=Date.now()+120000;
      const loop=async(i,o)=>{for(let left=10;left>0&&Date.now()<until;left-=fs.existsSync('/tmp/replaced')){await ask(o);asked[i]++;
        if(asked[0]&&asked[1])fs.writeFileSync('/tmp/asking','');await new Promise((d)=>setTimeout(d,50))}};
      Promise.all([loop(0,{host:'who',path:'/'}),loop(1,{host:'rekindle-gateway.rekindle',path:'/invoke/${space.name}/notes/'})]).then(()=>console.log(JSON.stringify({asked,failed})));`;
    await space.kubectl('exec', 'client', '--', 'rm', '-f', '/tmp/asking', '/tmp/replaced');
    const clients = kubectl(['-n', space.name, 'exec', 'client', '--', 'node', '-e', script], { timeoutMs: 150_000 });
    await space.until('requests', () => space.kubectl('exec', 'client', '--', 'ls', '/tmp/asking'));

    for (const role of ['daemonset/rekindle-agent', 'deployment/rekindle-scaler'])
      await kubectl(['-n', 'rekindle', 'rollout', 'restart', role]);
    const made = await oneMore();
    await installed();
    await space.kubectl('exec', 'client', '--', 'touch', '/tmp/replaced');
    const { asked, failed } = JSON.parse(await clients) as { asked: number[]; failed: string[] };

    expect(failed).toEqual([]);
    // More than the ten that each asks when all is replaced.
    for (const requests of asked) expect(requests).toBeGreaterThan(10);
    expect(isReady(made)).toBe(true);
  });
});
