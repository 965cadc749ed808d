import * as grpc from '@grpc/grpc-js';
import { expect, test } from 'vitest';
import { monotonicClock as clock } from '../../../src/lib/clock.ts';
import { silentLog as log } from '../../../src/lib/log.ts';
import { openKedaScaler, triggerOf } from '../../../src/scaler/keda.ts';
import type { Load } from '../../../src/scaler/loads.ts';
import { type KedaAnswer, kedaClient } from '../../fixtures/keda-client.ts';
import { until } from '../../fixtures/until.ts';

async function rig() {
  const stack = new AsyncDisposableStack();
  const loads: { whyUnknown: string | undefined; load: Load; all: () => ReadonlyMap<string, Load> } = {
    whyUnknown: undefined,
    load: { invocations: 0, connections: 0 },
    all: () => new Map([['shop.web', loads.load]]),
  };
  const { port } = stack.use(await openKedaScaler({ loads, log, clock }, { host: '127.0.0.1', port: 0 }));
  const { client, call } = stack.use(kedaClient(`127.0.0.1:${port}`));
  return { [Symbol.asyncDispose]: () => stack.disposeAsync(), loads, client, call };
}

function ref(scalerMetadata: Record<string, string> = { workload: 'web' }, namespace = 'shop') {
  return { name: 'web', namespace, scalerMetadata };
}

test('a ScaledObject gets its target and its value', async () => {
  await using it = await rig();
  it.loads.load = { invocations: 3, connections: 4 };
  const trigger = ref({ workload: 'web', metric: 'load', target: '2.5' });

  const spec = await it.call('GetMetricSpec', trigger);
  const metrics = await it.call('GetMetrics', { scaledObjectRef: trigger, metricName: 'rekindle_load' });

  expect(spec).toEqual({ metricSpecs: [{ metricName: 'rekindle_load', targetSize: 3, targetSizeFloat: 2.5 }] });
  expect(metrics).toEqual({ metricValues: [{ metricName: 'rekindle_load', metricValue: 7, metricValueFloat: 7 }] });
});

test('it is active above the activation value, and only for workloads of its own namespace', async () => {
  await using it = await rig();
  it.loads.load = { invocations: 2, connections: 0 };

  const active = async (metadata: Record<string, string>, namespace = 'shop') =>
    (await it.call('IsActive', ref(metadata, namespace))).result;

  expect(await active({ workload: 'web' })).toBe(true);
  expect(await active({ workload: 'web', activation: '2' })).toBe(false);
  expect(await active({ workload: 'web' }, 'other')).toBe(false);
  expect(await active({ workload: 'shop.web' }, 'other')).toBe(false);
});

test('a stream says at once whether it is active, and again when that changes', async () => {
  await using it = await rig();
  const heard: unknown[] = [];
  const stream = it.client.StreamIsActive?.(ref()) as grpc.ClientReadableStream<KedaAnswer>;
  stream.on('data', ({ result }: KedaAnswer) => heard.push(result));
  stream.on('error', () => undefined);

  await until('1 answers', () => heard.length === 1);
  it.loads.load = { invocations: 1, connections: 0 };
  await until('2 answers', () => heard.length === 2);
  it.loads.whyUnknown = 'Redis does not answer';
  it.loads.load = { invocations: 0, connections: 0 };
  await clock.sleep(600);
  it.loads.whyUnknown = undefined;
  await until('3 answers', () => heard.length === 3);
  stream.cancel();

  expect(heard).toEqual([false, true, false]);
});

test('what nobody can tell is unavailable rather than zero', async () => {
  await using it = await rig();
  it.loads.load = { invocations: 0, connections: undefined };
  await expect(it.call('GetMetrics', { scaledObjectRef: ref(), metricName: 'x' })).rejects.toMatchObject({ code: grpc.status.UNAVAILABLE });

  it.loads.whyUnknown = 'Redis does not answer';
  await expect(it.call('IsActive', ref())).rejects.toMatchObject({ code: grpc.status.UNAVAILABLE, details: 'Redis does not answer' });
});

test('what is wrong in the metadata is said', async () => {
  await using it = await rig();

  await expect(it.call('IsActive', ref({}))).rejects.toMatchObject({ code: grpc.status.INVALID_ARGUMENT });
  expect(() => triggerOf(ref({ workload: 'web', metric: 'cpu' }))).toThrow('metadata.metric must be one of invocations, connections, load');
  expect(() => triggerOf(ref({ workload: 'web', metric: 'constructor' }))).toThrow('metadata.metric');
  expect(() => triggerOf(ref({ workload: 'web', target: '0' }))).toThrow('metadata.target');
  expect(() => triggerOf(ref({ workload: 'web', activation: 'x' }))).toThrow('metadata.activation');
});
