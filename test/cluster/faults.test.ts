import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { connect } from 'node:tls';
import type { V1Pod } from '@kubernetes/client-node';
import { beforeAll, describe, expect, test } from 'vitest';
import { factsOf, type KeyPair, makeAuthority, makeServing } from '../../src/cluster/authority.ts';
import type { Keyring } from '../../src/cluster/certificate-plan.ts';
import { MUTATING_WEBHOOKS, SECRETS } from '../../src/cluster/kinds.ts';
import { applyManifests, foreign, installed, kubectl } from './fixture/cluster.ts';
import { aNamespace, isReady, Namespace } from './fixture/namespace.ts';
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
import { agentOn, agents, agentsOnlyOn, crash, gatewayAddress, silentApiServer, untilPodsOfRole, withoutRedis } from './fixture/roles.ts';
import { get, nameOf, RESTORED, startOf, untilEverywhere } from './fixture/snapshots.ts';
import { aDeployment, asKind, asks, PATIENT, PORT, propertiesOf, WHO_COMMAND, type Who } from './fixture/workloads.ts';

/** Parts of rekindle, or of Kubernetes, are away: nothing else is tested meanwhile. */
const space = aNamespace();
const rekindle = new Namespace('rekindle', {});
const signal = () => AbortSignal.timeout(10_000);
const TIMEOUT = { timeout: 240_000 };
const IDLE_SECONDS = 20;
const who = (name: string) => aDeployment({ name, command: WHO_COMMAND, properties: 'patient', container: asks('/') });

const ask = async (pod: V1Pod) => JSON.parse(await get(space, pod)) as Who;
/** The same without the API server: from this machine, which all networks of its own cluster lead to. */
const askDirectly = async (pod: V1Pod) =>
  (await (await fetch(`http://${pod.status?.podIP}:${PORT}/`, { signal: AbortSignal.timeout(5_000) })).json()) as Who;

/** The fingerprint of what a gateway serves its webhook with. */
async function certificateOf(address: string): Promise<string> {
  const socket = connect({ host: address, port: 7443, rejectUnauthorized: false });
  try {
    await once(socket, 'secureConnect', { signal: signal() });
    return socket.getPeerCertificate().fingerprint256;
  } finally {
    socket.destroy();
  }
}

/** Scales `who` to one more pod, and returns that. */
async function oneMore(name = 'who'): Promise<V1Pod> {
  const before = await space.podsOf(`app=${name}`);
  await space.kubectl('scale', `deployment/${name}`, `--replicas=${before.length + 1}`);
  const after = await space.untilReady(`app=${name}`, before.length + 1);
  const made = after.find((pod) => !before.some((old) => nameOf(old) === nameOf(pod)));
  if (made === undefined) throw new Error('no pod was made');
  return made;
}

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
    const node = (await podNamed(space, 'notes', awake.host)).spec?.nodeName;
    const agent = await agentOn(node);
    await crash(agent);
    await space.until('the agent to be away', async () => !(await agents()).some(({ spec }) => spec?.nodeName === node));
    const without = await space.podsOf('app=notes');
    await installed();
    const same = await invoke(space, 'notes');
    await kubectl(['-n', 'rekindle', 'rollout', 'restart', 'daemonset/rekindle-agent']);
    await kubectl(['-n', 'rekindle', 'rollout', 'status', 'daemonset/rekindle-agent', '--timeout=60s'], { timeoutMs: 70_000 });
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
        const on = (node: string) => made.filter(({ spec }) => spec?.nodeName === node).map(startOf);

        expect(on('node1').length).toBeGreaterThan(0);
        expect(on('node2').length).toBeGreaterThan(0);
        for (const start of on('node1')) expect(start).toMatch(RESTORED);
        for (const start of on('node2')) expect(start).toBe('cold: no agent of rekindle runs on node2');
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
    const woken = await space.until('an answer', () => invoke(space, 'notes'), 30_000);

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
      // By a gateway, or as the last that its agent did.
      expect(['AgentAway', 'ColdStarted']).toContain(gateOf(opened as V1Pod)?.reason);
      expect((await ask(opened as V1Pod)).host).toBe(nameOf(held ?? {}));
    } finally {
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
      await kubectl(['-n', 'rekindle', 'scale', gateways, '--replicas=2']);
      await installed();
      const made = await space.until('a restored pod', async () => [await oneMore()].find((pod) => RESTORED.test(startOf(pod))), 60_000);

      expect(ordinary?.spec?.containers[0]?.command).toEqual(WHO_COMMAND);
      expect(ordinary?.spec?.readinessGates).toBeUndefined();
      expect(still.map(({ host, born }) => [host, born])).toEqual(live.map(({ host, born }) => [host, born]));
      expect(isReady(made)).toBe(true);
    },
  );

  test('of a cluster without image volumes copy the slot into pods, which are restored like others', TIMEOUT, async () => {
    const copying = async (value: string) => {
      await kubectl(['-n', 'rekindle', 'set', 'env', gateways, value]);
      await kubectl(['-n', 'rekindle', 'rollout', 'status', gateways, '--timeout=90s'], { timeoutMs: 100_000 });
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
  await space.apply(asKind('DaemonSet', flood));
  await space.untilReady('app=hostile', 2, 60_000);
  await delay(5_000);

  const made = [await oneMore(), await oneMore()];
  const after = (await agents()).map(identityOf);
  const still = await Promise.all(
    (await space.podsOf('app=who')).filter(({ metadata }) => made.every((pod) => nameOf(pod) !== metadata?.name)).map(ask),
  );
  const hostile = await space.podsOf('app=hostile');
  await space.kubectl('delete', 'daemonset/hostile', '--wait=true');

  expect(hostile.map(({ status }) => status?.containerStatuses?.[0]?.restartCount)).toEqual([0, 0]);
  for (const pod of made) expect(startOf(pod)).toMatch(RESTORED);
  expect(after).toEqual(before);
  expect(still.map(({ host, born }) => [host, born])).toEqual(live.map(({ host, born }) => [host, born]));
});

describe('a role', () => {
  test('of which every pod is deleted comes back: pods are restored and woken as before', TIMEOUT, async () => {
    const parked = await untilParked(space, 'notes', 3, 90_000);
    for (const role of ['agent', 'scaler', 'gateway', 'redis'])
      await kubectl(['-n', 'rekindle', 'delete', 'pods', '-l', `app.kubernetes.io/name=rekindle-${role}`, '--wait=true'], {
        timeoutMs: 90_000,
      });
    await installed();

    const woken = await space.until('an answer', () => invoke(space, 'notes'), 30_000);
    const made = await space.until('a restored pod', async () => [await oneMore()].find((pod) => RESTORED.test(startOf(pod))), 60_000);

    expect(parked.map(nameOf)).toContain(woken.host);
    expect(woken.start).toBe('restore');
    expect(isReady(made)).toBe(true);
  });
});

test('certificate and trust of the webhook come back when somebody deletes them, without another authority', TIMEOUT, async () => {
  const at = { name: 'rekindle-webhook-tls', namespace: rekindle.name };
  const bundles = async () =>
    (await rekindle.kube.get(MUTATING_WEBHOOKS, { name: 'rekindle' }, signal()))?.webhooks?.map(
      ({ clientConfig }) => clientConfig.caBundle,
    );
  const before = { secret: await rekindle.kube.get(SECRETS, at, signal()), bundles: await bundles() };

  await rekindle.kube.remove(SECRETS, at, signal());
  const forgotten = [{ op: 'remove', path: '/webhooks/0/clientConfig/caBundle' }];
  await rekindle.kube.patch(MUTATING_WEBHOOKS, { name: 'rekindle' }, forgotten, 'json', signal());
  const after = await rekindle.until('the Secret', () => rekindle.kube.get(SECRETS, at, signal()));
  await rekindle.until('the trust', async () => JSON.stringify(await bundles()) === JSON.stringify(before.bundles));

  expect(after.data).toEqual(before.secret?.data);
  expect(startOf(await oneMore())).toMatch(RESTORED);
});

test.skipIf(foreign)(
  'authority and certificate of the webhook are renewed in time, and pods are slots all the while',
  { timeout: 300_000 },
  async () => {
    const at = { name: 'rekindle-webhook-tls', namespace: rekindle.name };
    const read = async () => {
      const { data = {} } = (await rekindle.kube.get(SECRETS, at, signal())) ?? {};
      return { authorities: JSON.parse(atob(data['authorities.json'] ?? '')) as Keyring['authorities'], cert: atob(data['tls.crt'] ?? '') };
    };
    const write = (authorities: Keyring['authorities'], serving?: KeyPair) =>
      rekindle.kube.patch(
        SECRETS,
        at,
        {
          data: {
            'authorities.json': btoa(JSON.stringify(authorities)),
            ...(serving === undefined ? {} : { 'tls.crt': btoa(serving.cert), 'tls.key': btoa(serving.key) }),
          },
        },
        'merge',
        signal(),
      );
    const trusted = async () => {
      const { webhooks = [] } = (await rekindle.kube.get(MUTATING_WEBHOOKS, { name: 'rekindle' }, signal())) ?? {};
      return webhooks.map(({ clientConfig }) => atob(clientConfig.caBundle ?? '').split('BEGIN CERTIFICATE').length - 1);
    };
    const isServed = async (cert: string) => {
      for (const { status } of await rekindle.podsOf('app.kubernetes.io/name=rekindle-gateway'))
        if ((await certificateOf(`${status?.podIP}`)) !== new X509Certificate(cert).fingerprint256) return false;
      return true;
    };
    const WITHIN_MS = 90_000;
    const names = factsOf((await read()).cert)?.names ?? [];
    const day = 86_400_000;

    // As it is after 80 of the certificate's 90 days: its successor is of the same authority.
    const { authorities: first } = await read();
    const [authority] = first;
    if (authority === undefined) throw new Error('there is no authority');
    const old = await makeServing(authority, names, Date.now() - 80 * day, 90 * day);
    await write(first, old);
    const second = await rekindle.until('another certificate', async () => [await read()].find(({ cert }) => cert !== old.cert), WITHIN_MS);
    await rekindle.until('every gateway to have it', () => isServed(second.cert), WITHIN_MS);
    const afterCertificate = { trusted: await trusted(), authorities: second.authorities, start: startOf(await oneMore()) };

    // As it is after 700 of an authority's 730 days: its successor is trusted, and signs nothing yet.
    const aged = { ...(await makeAuthority('rekindle', Date.now() - 700 * day, 730 * day)), sinceMs: Date.now() - 700 * day };
    const byAged = await makeServing(aged, names, Date.now(), 20 * day);
    await write([authority, aged], byAged);
    const third = await rekindle.until(
      'another authority',
      async () => [await read()].find(({ authorities }) => authorities.length === 3),
      WITHIN_MS,
    );
    await rekindle.until('all to be trusted', async () => (await trusted()).every((count) => count === 3), WITHIN_MS);
    await rekindle.until('every gateway to have its certificate', () => isServed(third.cert), WITHIN_MS);
    const afterAuthority = startOf(await oneMore());

    // As it is two hours later: the successor has signed.
    await write(third.authorities.map((one) => ({ ...one, sinceMs: one.sinceMs - 7_200_000 })));
    const fourth = await rekindle.until(
      'a certificate by it',
      async () => [await read()].find(({ cert }) => cert !== third.cert),
      WITHIN_MS,
    );
    await rekindle.until('every gateway to have that', () => isServed(fourth.cert), WITHIN_MS);
    const afterSigning = startOf(await oneMore());

    expect(afterCertificate).toMatchObject({ trusted: [1, 1], authorities: first, start: expect.stringMatching(RESTORED) });
    expect(third.cert).toBe(byAged.cert);
    expect(afterAuthority).toMatch(RESTORED);
    expect(new X509Certificate(fourth.cert).verify(new X509Certificate(third.authorities[2]?.cert ?? '').publicKey)).toBe(true);
    expect(afterSigning).toMatch(RESTORED);
  },
);

describe('agent and scaler', () => {
  test('are replaced while clients ask a Service and the gateway: no request is lost', TIMEOUT, async () => {
    // A new connection each time, until all is replaced; what fails is written down.
    const script = `const http=require('http'),fs=require('fs');const failed=[];let n=0;
      const ask=(o)=>new Promise((done)=>{n++;const r=http.request({agent:false,timeout:20000,...o},(a)=>{a.resume();a.on('end',()=>{if(a.statusCode!==200)failed.push(o.path+' '+a.statusCode);done()})});
        r.on('error',(e)=>{failed.push(o.path+' '+e.message);done()});r.on('timeout',()=>r.destroy(new Error('timeout')));r.end()});
      const until=Date.now()+120000;
      const loop=async(o)=>{while(!fs.existsSync('/tmp/replaced')&&Date.now()<until){await ask(o);await new Promise((d)=>setTimeout(d,50))}};
      Promise.all([loop({host:'who',path:'/'}),loop({host:'rekindle-gateway.rekindle',path:'/invoke/${space.name}/notes/'})]).then(()=>console.log(JSON.stringify({n,failed})));`;
    const clients = kubectl(['-n', space.name, 'exec', 'client', '--', 'node', '-e', script], { timeoutMs: 150_000 });

    for (const role of ['daemonset/rekindle-agent', 'deployment/rekindle-scaler'])
      await kubectl(['-n', 'rekindle', 'rollout', 'restart', role]);
    const made = await oneMore();
    await installed();
    await space.kubectl('exec', 'client', '--', 'touch', '/tmp/replaced');
    const { n, failed } = JSON.parse(await clients) as { n: number; failed: string[] };

    expect(failed).toEqual([]);
    expect(n).toBeGreaterThan(200);
    expect(isReady(made)).toBe(true);
  });
});
