import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { LimitRange, Pod } from '../../../src/cluster/kinds.ts';
import { parseQuantity } from '../../../src/cluster/quantity.ts';
import { resizeOf, resizeStateOf } from '../../../src/cluster/resize.ts';
import { aPod } from '../../fixtures/pods.ts';

const DECLARED = { cpu: '500m', memory: '256Mi' };

function aRange(limit: Record<string, unknown>, type = 'Container'): LimitRange {
  return { metadata: { name: 'range' }, spec: { limits: [{ type, ...limit }] } };
}

function withPolicy(pod: Pod, ...resources: string[]): Pod {
  const resizePolicy = resources.map((resourceName) => ({ resourceName, restartPolicy: 'RestartContainer' }));
  const [container] = pod.spec?.containers ?? [];
  if (container === undefined) throw new Error('no container');
  return { ...pod, spec: { ...pod.spec, containers: [{ ...container, resizePolicy }] } };
}

test('a parked pod asks for next to nothing, and for its own requests again when it wakes', () => {
  const awake = aPod({ declared: DECLARED, requests: DECLARED, limits: { memory: '512Mi' } });
  const parked = aPod({ declared: DECLARED, requests: { cpu: '1m', memory: '4Mi' }, limits: { memory: '512Mi' } });

  expect(resizeOf(awake, 'parked', [])).toEqual({ do: 'change', container: 'app', requests: { cpu: '1m', memory: '4Mi' } });
  expect(resizeOf(parked, 'declared', [])).toEqual({ do: 'change', container: 'app', requests: DECLARED });
  expect(resizeOf(awake, 'declared', [])).toEqual({ do: 'right' });
  expect(resizeOf(parked, 'parked', [])).toEqual({ do: 'right' });
});

test('only what it asked for changes, and quantities are compared as such', () => {
  const declared = { cpu: '0.5', 'ephemeral-storage': '1Gi' };
  const pod = aPod({ declared, requests: { cpu: '500m', 'ephemeral-storage': '1Gi' } });

  expect(resizeOf(pod, 'declared', [])).toEqual({ do: 'right' });
  expect(resizeOf(pod, 'parked', [])).toEqual({ do: 'change', container: 'app', requests: { cpu: '1m' } });
});

test('what is less than a parked pod has stays', () => {
  const small = { cpu: '1m', memory: '1Mi' };

  expect(resizeOf(aPod({ declared: small, requests: small }), 'parked', [])).toEqual({ do: 'right' });
});

test('no request goes below what a LimitRange allows', () => {
  const limits = { cpu: '1', memory: '512Mi' };
  const pod = aPod({ declared: DECLARED, requests: DECLARED, limits });
  const requests = (...ranges: LimitRange[]) => {
    const resize = resizeOf(pod, 'parked', ranges);
    return resize.do === 'change' ? resize.requests : resize;
  };

  expect(requests(aRange({ min: { cpu: '50m' } }))).toEqual({ cpu: '50m', memory: '4Mi' });
  expect(requests(aRange({ maxLimitRequestRatio: { cpu: '4', memory: '8' } }))).toEqual({ cpu: '250m', memory: '64Mi' });
  expect(requests(aRange({ min: { memory: '1Gi' } }))).toEqual({ cpu: '1m' });
  expect(requests(aRange({ min: { memory: '100Mi' } }, 'Pod'))).toEqual({ cpu: '1m', memory: '100Mi' });
  expect(requests(aRange({ min: { storage: '1Gi' } }, 'PersistentVolumeClaim'))).toEqual({ cpu: '1m', memory: '4Mi' });
});

test("what other containers ask for counts for a pod's minimum", () => {
  const pod = aPod({ declared: DECLARED, requests: DECLARED });
  const sidecar = { name: 'sidecar', resources: { requests: { cpu: '80m' } } };
  const both: Pod = { ...pod, spec: { containers: [...(pod.spec?.containers ?? []), sidecar] } };

  expect(resizeOf(both, 'parked', [aRange({ min: { cpu: '100m' } }, 'Pod')])).toMatchObject({ requests: { cpu: '20m' } });
});

test.each<[string, Pod]>([
  ['not known', aPod({ requests: DECLARED })],
  ['Guaranteed', aPod({ declared: DECLARED, requests: DECLARED, limits: DECLARED, qosClass: 'Guaranteed' })],
  ['no requests', aPod({ declared: {} })],
  ['RestartContainer', withPolicy(aPod({ declared: DECLARED, requests: DECLARED }), 'cpu', 'memory')],
  ['not known', aPod({ declared: { cpu: 'plenty' }, requests: DECLARED })],
])('a pod that cannot be made smaller stays, and it is said why: %s', (why, pod) => {
  expect(resizeOf(pod, 'parked', [])).toEqual({ do: 'never', why: expect.stringContaining(why) });
});

test('a resource whose change restarts the container is left as it is', () => {
  const pod = withPolicy(aPod({ declared: DECLARED, requests: DECLARED }), 'memory');

  expect(resizeOf(pod, 'parked', [])).toEqual({ do: 'change', container: 'app', requests: { cpu: '1m' } });
});

test('parked requests are never nothing nor more than declared, and waking brings back exactly those', () => {
  const quantity = fc.oneof(
    fc.integer({ min: 1, max: 8_000 }).map((n) => ({ cpu: `${n}m` })),
    fc.integer({ min: 1, max: 4_000 }).map((n) => ({ memory: `${n}Mi` })),
    fc.tuple(fc.integer({ min: 1, max: 8 }), fc.integer({ min: 1, max: 8 })).map(([c, m]) => ({ cpu: `${c}`, memory: `${m}Gi` })),
  );
  const range = fc.record({
    cpu: fc.integer({ min: 0, max: 2_000 }),
    memory: fc.integer({ min: 0, max: 2_000 }),
    type: fc.constantFrom('Pod', 'Container'),
  });
  fc.assert(
    fc.property(quantity, fc.array(range, { maxLength: 2 }), (declared, ranges) => {
      const limitRanges = ranges.map(({ cpu, memory, type }) => aRange({ min: { cpu: `${cpu}m`, memory: `${memory}Mi` } }, type));
      const down = resizeOf(aPod({ declared, requests: declared }), 'parked', limitRanges);
      const small = { ...declared, ...(down.do === 'change' ? down.requests : {}) };

      expect(down.do).not.toBe('never');
      for (const [resource, own] of Object.entries(declared)) {
        const parked = parseQuantity(Reflect.get(small, resource) as string) ?? 0;
        expect(parked).toBeGreaterThan(0);
        expect(parked).toBeLessThanOrEqual(parseQuantity(own) ?? 0);
      }
      const up = resizeOf(aPod({ declared, requests: small }), 'declared', limitRanges);
      expect({ ...small, ...(up.do === 'change' ? up.requests : {}) }).toEqual(declared);
      // Once it is so, nothing more is asked for.
      expect(resizeOf(aPod({ declared, requests: small }), 'parked', limitRanges)).toEqual({ do: 'right' });
    }),
    { numRuns: 500 },
  );
});

test('what the kubelet says of a change counts once it has seen the change', () => {
  const state = (status: NonNullable<Pod['status']>, generation = 3) => resizeStateOf({ metadata: { generation }, status });
  const pending = (reason: string, observedGeneration: number) => ({
    type: 'PodResizePending',
    status: 'True',
    reason,
    observedGeneration,
  });

  expect(state({ observedGeneration: 2 })).toBe('under way');
  expect(state({ observedGeneration: 3 })).toBe('done');
  expect(state({ observedGeneration: 3, conditions: [{ type: 'PodResizeInProgress', status: 'True' }] })).toBe('under way');
  expect(state({ observedGeneration: 3, conditions: [pending('Deferred', 3)] })).toBe('deferred');
  expect(state({ observedGeneration: 3, conditions: [pending('Infeasible', 3)] })).toBe('infeasible');
  expect(state({ observedGeneration: 2, conditions: [pending('Deferred', 2)] })).toBe('under way');
});
