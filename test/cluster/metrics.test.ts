import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import type { IncomingMessage } from 'node:http';
import { request } from 'node:https';
import { beforeAll, expect, test } from 'vitest';
import { parse } from 'yaml';
import { kedaClient } from '../fixtures/keda-client.ts';
import { APPS, foreign, installed, kubectl } from './fixture/cluster.ts';
import { aNamespace, Namespace } from './fixture/namespace.ts';
import { RESTORED, startOf, untilEverywhere } from './fixture/snapshots.ts';
import { aDeployment, anAutoscaler, PORT, WHO_COMMAND } from './fixture/workloads.ts';

const space = aNamespace();
const rekindle = new Namespace('rekindle', {});
const API = '/apis/external.metrics.k8s.io/v1beta1';
/** The README's, for `who` and five connections each. */
const readme = (() => {
  const text = readFileSync(new URL('../../README.md', import.meta.url), 'utf8');
  const [, yaml = ''] = /```yaml\n(\s+apiVersion: autoscaling[\s\S]*?)```/.exec(text) ?? [];
  return parse(yaml.replaceAll(/\bweb\b/g, 'who').replace("'10'", "'5'")) as { spec: object };
})();
const AND_BACK_AT_ONCE = { behavior: { scaleDown: { stabilizationWindowSeconds: 0 } } };

beforeAll(() => installed());

/** What each scaler tells KEDA of the load, and whoever claims to be the API server. */
async function toldByEach() {
  const scalers = await rekindle.podsOf('app.kubernetes.io/name=rekindle-scaler');
  const trigger = { name: 'who', namespace: space.name, scalerMetadata: { workload: 'who', metric: 'load', target: '2' } };
  return await Promise.all(
    scalers.map(async ({ status }) => {
      using keda = kedaClient(`${status?.podIP}:7445`);
      const spec = await keda.call('GetMetricSpec', trigger);
      const metrics = await keda.call('GetMetrics', { scaledObjectRef: trigger, metricName: 'rekindle_load' });
      const claim = { 'x-remote-user': 'system:admin', 'x-remote-group': 'system:masters' };
      const asked = request({ host: status?.podIP ?? '', port: 7444, path: API, headers: claim, rejectUnauthorized: false }).end();
      const [answer] = (await once(asked, 'response')) as [IncomingMessage];
      answer.destroy();
      return { spec, metrics, active: await keda.call('IsActive', trigger), unproven: answer.statusCode };
    }),
  );
}

async function values(metric: string, selector = 'workload%3Dwho'): Promise<readonly string[]> {
  const text = await kubectl(['get', '--raw', `${API}/namespaces/${space.name}/${metric}?labelSelector=${selector}`]);
  const { items } = JSON.parse(text) as { items: readonly { value: string }[] };
  return items.map(({ value }) => value);
}

/** A pod that holds connections to a Service. */
function aCrowd(connections: number): object {
  const script = `const go=()=>{const s=require('net').connect(80,'who');s.on('error',()=>{});s.on('close',()=>setTimeout(go,200));
    setInterval(()=>s.writable&&s.write('GET / HTTP/1.1\\r\\nhost: who\\r\\n\\r\\n'),1000);s.resume()};for(let i=0;i<${connections};i++)go();setInterval(()=>{},1e6)`;
  return aPod('crowd', script);
}

function aPod(name: string, script: string): object {
  const containers = [{ name, image: APPS, command: ['node', '-e', script] }];
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name },
    spec: { terminationGracePeriodSeconds: 0, restartPolicy: 'Never', containers },
  };
}

test('the API server lists the metrics, and gives them only to who may read them', async () => {
  const resources = await kubectl(['get', '--raw', API]);
  const may = (user: string) => kubectl(['auth', 'can-i', 'list', 'rekindle_load.external.metrics.k8s.io', '--as', user]).catch(() => 'no');

  expect(resources).toContain('rekindle_load');
  expect((await may('system:serviceaccount:kube-system:horizontal-pod-autoscaler')).trim()).toBe('yes');
  expect((await may(`system:serviceaccount:${space.name}:default`)).trim()).toBe('no');
});

test('discovery is complete, so that namespaces can be deleted', async () => {
  await space.until('the metrics among all resources', async () =>
    (await kubectl(['api-resources', '--api-group=external.metrics.k8s.io', '--no-headers'])).includes('rekindle_load'),
  );
  const name = `${space.name}-gone`;
  await kubectl(['create', 'namespace', name]);
  await kubectl(['delete', 'namespace', name, '--timeout=60s']);
});

test('an autoscaler on connections scales out by restore under plain Service load, and back', { timeout: 300_000 }, async () => {
  const probe = { readinessProbe: { httpGet: { path: '/', port: PORT }, periodSeconds: 5 } };
  await space.apply(
    aDeployment({ name: 'who', command: WHO_COMMAND, container: probe }),
    {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name: 'who' },
      spec: { selector: { app: 'who' }, ports: [{ port: 80, targetPort: PORT }] },
    },
    // As the README has it.
    { ...readme, spec: { ...readme.spec, ...AND_BACK_AT_ONCE } },
  );
  await space.untilReady('app=who', 1, 90_000);
  await space.until('nobody to be connected', async () => (await values('rekindle_connections'))[0] === '0');
  await untilEverywhere(space, 'who');

  await space.apply(aCrowd(12));
  await space.until('twelve connections', async () => (await values('rekindle_connections'))[0] === '12');
  const pods = await space.untilReady('app=who', 3, 90_000);
  const told = foreign ? [] : await toldByEach();
  await space.kubectl('delete', 'pod', 'crowd', '--now');
  await space.untilReady('app=who', 1, 90_000);

  expect(pods.map(startOf).filter((start) => RESTORED.test(start))).toHaveLength(2);
  expect(await values('rekindle_load', '')).toEqual(['0']);
  // Leader or not.
  if (!foreign) expect(told).toHaveLength(2);
  for (const { spec, metrics, active, unproven } of told) {
    expect(spec).toMatchObject({ metricSpecs: [{ metricName: 'rekindle_load', targetSize: 2 }] });
    expect(metrics).toMatchObject({ metricValues: [{ metricName: 'rekindle_load', metricValue: 12 }] });
    expect(active).toEqual({ result: true });
    // Who says of himself who he is, is not believed.
    expect(unproven).toBe(401);
  }
});

test('an autoscaler on invocations scales out by restore for those that wait and run, and back', { timeout: 300_000 }, async () => {
  // Each answer takes a second.
  const script = `setTimeout(()=>require('http').createServer((q,r)=>setTimeout(()=>r.end(require('os').hostname()),q.method==='POST'?1000:0)).listen(${PORT}),1000)`;
  const callers = `const host='rekindle-gateway.rekindle',path='/invoke/${space.name}/asked/';
    const go=()=>require('http').request({host,path,method:'POST',agent:false},(a)=>{a.resume();a.on('end',go)}).on('error',()=>setTimeout(go,200)).end('x');for(let i=0;i<8;i++)go()`;
  const probe = { readinessProbe: { httpGet: { path: '/', port: PORT }, periodSeconds: 5 } };
  await space.apply(aDeployment({ name: 'asked', command: ['node', '-e', script], container: probe }));
  await space.untilReady('app=asked', 1, 90_000);
  await untilEverywhere(space, 'asked');
  await space.apply(anAutoscaler('asked', 'rekindle_invocations', '3', AND_BACK_AT_ONCE));

  await space.apply(aPod('callers', callers));
  const pods = await space.untilReady('app=asked', 3, 90_000);
  // Between two requests of a caller there is a moment with one less.
  const told = await space.until('eight', async () =>
    [await values('rekindle_invocations', 'workload%3Dasked')].find(([one]) => one === '8'),
  );
  await space.kubectl('delete', 'pod', 'callers', '--now');
  await space.untilReady('app=asked', 1, 90_000);

  expect(told).toEqual(['8']);
  expect(pods.map(startOf).filter((start) => RESTORED.test(start))).toHaveLength(2);
  expect(await values('rekindle_invocations', 'workload%3Dasked')).toEqual(['0']);
});
