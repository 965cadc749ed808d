import { join } from 'node:path';
import * as grpc from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { type Static, Type } from 'typebox';
import { Value } from 'typebox/value';
import type { Clock } from '../lib/clock.ts';
import { RekindleError } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';
import { runLoop } from '../lib/loop.ts';
import { workloadName } from '../workloads/kubernetes.ts';
import { type Load, type Loads, type Metric, metricOf } from './loads.ts';

export type KedaDeps = { readonly loads: Pick<Loads, 'all' | 'whyUnknown'>; readonly log: Log; readonly clock: Clock };

export type KedaScaler = AsyncDisposable & { readonly port: number };

/** What a ScaledObject's trigger says of a workload of its own namespace; `scalerAddress` and what else KEDA reads itself is passed over. */
export type Trigger = { readonly workload: string; readonly metric: Metric; readonly target: number; readonly activation: number };

const ScaledObjectRef = Type.Object({
  name: Type.String(),
  namespace: Type.String({ minLength: 1 }),
  scalerMetadata: Type.Record(Type.String(), Type.String()),
});
type ScaledObjectRef = Static<typeof ScaledObjectRef>;
const GetMetricsRequest = Type.Object({ scaledObjectRef: ScaledObjectRef, metricName: Type.String() });

const WORDS: Readonly<Record<string, Metric>> = {
  invocations: 'rekindle_invocations',
  connections: 'rekindle_connections',
  load: 'rekindle_load',
};
const DEFAULT_TARGET = 10;
/** How soon a stream says that there is something to do. */
const LOOK_EVERY_MS = 250;
const PROTO = join(import.meta.dirname, 'external-scaler.proto');

/**
 * KEDA's external scaler (https://keda.sh/docs/latest/concepts/external-scalers/) over plain gRPC, as KEDA dials it: numbers of the ScaledObject's own
 * namespace only. While nothing is known it says so instead of zero. Port 0 is any that is free. Throws `usage` when it cannot listen there.
 */
export async function openKedaScaler(deps: KedaDeps, listen: { readonly host: string; readonly port: number }): Promise<KedaScaler> {
  const { loads, log, clock } = deps;
  const stop = new AbortController();
  const streams = new Map<grpc.ServerWritableStream<unknown, object>, { readonly trigger: Trigger; told: boolean | undefined }>();

  const valueNow = (trigger: Trigger, all: ReadonlyMap<string, Load> = known(loads)): number => {
    const value = metricOf(trigger.metric, all.get(trigger.workload) ?? { invocations: 0, connections: 0 });
    if (value === undefined) throw new Unavailable(`connections of ${trigger.workload} are not counted at present`);
    return value;
  };

  const tellStreams = async (): Promise<{ requeueAfterMs: number }> => {
    if (streams.size === 0 || loads.whyUnknown !== undefined) return { requeueAfterMs: LOOK_EVERY_MS };
    const all = loads.all();
    for (const [call, stream] of streams) {
      const value = metricOf(stream.trigger.metric, all.get(stream.trigger.workload) ?? { invocations: 0, connections: 0 });
      const isActive = value === undefined ? stream.told : value > stream.trigger.activation;
      if (isActive === undefined || isActive === stream.told) continue;
      stream.told = isActive;
      call.write({ result: isActive });
    }
    return { requeueAfterMs: LOOK_EVERY_MS };
  };

  const server = new grpc.Server({ 'grpc.max_receive_message_length': 64 * 1024 });
  server.addService(serviceOf(), {
    isActive: unary((request) => {
      const trigger = triggerOf(checked(ScaledObjectRef, request));
      return { result: valueNow(trigger) > trigger.activation };
    }),
    getMetricSpec: unary((request) => {
      const { metric, target } = triggerOf(checked(ScaledObjectRef, request));
      return { metricSpecs: [{ metricName: metric, targetSize: Math.ceil(target), targetSizeFloat: target }] };
    }),
    getMetrics: unary((request) => {
      const trigger = triggerOf(checked(GetMetricsRequest, request).scaledObjectRef);
      const value = valueNow(trigger);
      return { metricValues: [{ metricName: trigger.metric, metricValue: value, metricValueFloat: value }] };
    }),
    streamIsActive: (call: grpc.ServerWritableStream<unknown, object>) => {
      try {
        const trigger = triggerOf(checked(ScaledObjectRef, call.request));
        call.on('cancelled', () => streams.delete(call));
        call.on('error', () => streams.delete(call));
        streams.set(call, { trigger, told: undefined });
        loop.wake();
      } catch (error) {
        call.emit('error', statusOf(error));
      }
    },
  });
  const loop = runLoop({ name: 'keda', reconcile: tellStreams }, { log, clock }, stop.signal);

  const { host } = listen;
  const address = `${host.includes(':') ? `[${host}]` : host}:${listen.port}`;
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync(address, grpc.ServerCredentials.createInsecure(), (cause, bound) => {
      if (cause === null) resolve(bound);
      else reject(new RekindleError('usage', `cannot listen on ${address}: ${cause.message}. Choose another address`, { cause }));
    });
  }).catch(async (error: unknown) => {
    stop.abort();
    server.forceShutdown();
    throw error;
  });
  return {
    port,
    [Symbol.asyncDispose]: async () => {
      stop.abort();
      server.forceShutdown();
      await loop.done;
    },
  };
}

/** What the trigger's metadata says. Throws `config_invalid` naming the key that is wrong, and what it may be. Pure. */
export function triggerOf({ name, namespace, scalerMetadata }: ScaledObjectRef): Trigger {
  const wrong = (key: string, says: string) =>
    new RekindleError('config_invalid', `ScaledObject ${namespace}/${name}: metadata.${key} ${says}`);
  const { workload = '', metric: word = 'load', target = String(DEFAULT_TARGET), activation = '0' } = scalerMetadata;
  if (workload === '') throw wrong('workload', 'is missing: name the Deployment or StatefulSet, of the same namespace');
  const metric = Object.hasOwn(WORDS, word) ? WORDS[word] : undefined;
  if (metric === undefined) throw wrong('metric', `must be one of ${Object.keys(WORDS).join(', ')}, not ${word}`);
  if (!(Number(target) > 0 && Number.isFinite(Number(target)))) throw wrong('target', 'must be a number above 0: what one pod should have');
  if (!(Number(activation) >= 0)) throw wrong('activation', 'must be a number: above it there is something to do');
  return { workload: workloadName(namespace, workload), metric, target: Number(target), activation: Number(activation) };
}

/** It cannot be said now; KEDA asks again, and leaves things as they are. */
class Unavailable extends Error {}

function known(loads: KedaDeps['loads']): ReadonlyMap<string, Load> {
  const why = loads.whyUnknown;
  if (why !== undefined) throw new Unavailable(why);
  return loads.all();
}

function unary(answer: (request: unknown) => object): grpc.handleUnaryCall<unknown, object> {
  return ({ request }, callback) => {
    try {
      callback(null, answer(request));
    } catch (error) {
      callback(statusOf(error));
    }
  };
}

function statusOf(error: unknown): { readonly code: grpc.status; readonly details: string } {
  if (error instanceof Unavailable) return { code: grpc.status.UNAVAILABLE, details: error.message };
  if (error instanceof RekindleError && error.code === 'config_invalid')
    return { code: grpc.status.INVALID_ARGUMENT, details: error.message };
  return { code: grpc.status.INTERNAL, details: 'this failed' };
}

function checked<T extends typeof ScaledObjectRef | typeof GetMetricsRequest>(schema: T, request: unknown): Static<T> {
  if (Value.Check(schema, request)) return request;
  throw new RekindleError('config_invalid', 'the request names no ScaledObject');
}

function serviceOf(): grpc.ServiceDefinition {
  const loaded = loadSync(PROTO, { longs: Number, defaults: true, arrays: true, objects: true });
  const service = loaded['externalscaler.ExternalScaler'];
  if (service === undefined || 'format' in service) throw new RekindleError('internal', `${PROTO} defines no ExternalScaler`);
  return service as grpc.ServiceDefinition;
}
