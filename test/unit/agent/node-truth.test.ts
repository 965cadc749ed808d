import { describe, expect, test } from 'vitest';
import { type NodeTruthDeps, nodeTruth } from '../../../src/agent/node-truth.ts';
import { PoolSlot } from '../../../src/agent/pool-slot.ts';
import { parseRekindleFile } from '../../../src/workloads/file.ts';

const facts = { name: 'a', agent: 'x', machineClass: 'c', cores: 2, maxInstances: 500, memoryBytes: 1e9 };

function aWorkload(container = '') {
  const [first] = parseRekindleFile(`workloads: { web: { container: { rootfs: host, command: [x], ports: [80]${container} } } }`, 'f', '/');
  if (first === undefined) throw new Error('no workload');
  const { name, ...spec } = first;
  return { name, revision: 'r1', spec };
}

type Said = {
  hash?: string;
  digest?: string;
  warming?: { slot: string | undefined };
  refusal?: string;
  quarantined?: string;
  failed?: string;
};

function phaseWhen(said: Said, container?: string) {
  const inventory = { fitting: () => said.digest, quarantined: () => said.quarantined, truth: () => [] };
  const deps: NodeTruthDeps = {
    pool: { truth: () => [], warming: () => said.warming, warmFailure: () => said.failed },
    seeds: { refusal: () => said.refusal },
    inventory,
    index: { get: () => said.hash },
    trials: { count: 0 },
    pulling: () => [],
    view: () => ({ workloads: new Map([['web', aWorkload(container)]]) }),
  };
  return nodeTruth(facts, { leaving: false, peer: undefined }, deps).phases[0];
}

describe('a node says of a workload', () => {
  test.each([
    ['that nothing is known', {}, { at: 'none' }],
    ['that a seed is on its way', { warming: { slot: 's' } }, { at: 'warming', slot: 's' }],
    ['that a seed is to be made', { warming: { slot: undefined } }, { at: 'warming' }],
    [
      'that a snapshot is here, also while another is made',
      { hash: 'h', digest: 'd', warming: { slot: 's' } },
      { at: 'ready', digest: 'd' },
    ],
    ['why no snapshot is tried', { hash: 'h', refusal: 'io_uring' }, { at: 'refused', reason: 'io_uring' }],
    ['that its snapshot is left alone', { hash: 'h', quarantined: 'q' }, { at: 'refused', reason: 'q' }],
    ['why no seed could be made', { failed: 'no image' }, { at: 'refused', reason: 'no image' }],
  ])('%s', (_, said: Said, expected) => {
    expect(phaseWhen(said)).toEqual({ workload: 'web', revision: 'r1', ...expected });
  });

  test('that one whose instances must differ is never cloned', () => {
    expect(phaseWhen({ hash: 'h', digest: 'd' }, ', instanceEnv: { ME: uid }')).toMatchObject({ at: 'refused' });
  });
});

describe('a slot of a pool', () => {
  const aSlot = (changed = () => {}) =>
    new PoolSlot({
      uid: 'u',
      workload: { name: 'web', ...aWorkload().spec },
      revision: 'r1',
      changed,
      entered: () => {},
      broken: () => {},
    });

  test('tells each change at once, and keeps its age while it stays the same', () => {
    let told = 0;
    const slot = aSlot(() => (told += 1));

    slot.become('cold', { ready: false });
    const age = slot.ageMs;
    slot.tell({ ready: true });

    expect(told).toBe(2);
    expect(slot.ageMs).toBeGreaterThanOrEqual(age);
    expect(slot.truth(() => undefined)).toMatchObject({ state: 'cold', ready: true, parks: 0, seed: false });
  });

  test('does one thing after the other, also when one fails', async () => {
    const slot = aSlot();
    const order: number[] = [];

    const first = slot.exclusive(async () => {
      await new Promise((resolve) => setImmediate(resolve));
      order.push(1);
      throw new Error('first');
    });
    const second = slot.exclusive(async () => void order.push(2));

    expect(slot.busy).toBe(true);
    await expect(first).rejects.toThrow('first');
    await second;
    expect(order).toEqual([1, 2]);
    expect(slot.busy).toBe(false);
  });

  test('that nobody hears within the time is an error', async () => {
    const arrival = aSlot().expectArrival();

    await expect(arrival(5, AbortSignal.timeout(1_000))).rejects.toMatchObject({ code: 'container_failed' });
  });
});
