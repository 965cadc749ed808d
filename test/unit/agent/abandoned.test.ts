import { utimes } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { Abandoned, KEPT_MS } from '../../../src/agent/abandoned.ts';
import { systemClock } from '../../../src/lib/clock.ts';
import { silentLog as log } from '../../../src/lib/log.ts';
import type { View } from '../../../src/queue/truth.ts';
import { aWorkloadTruth } from '../../fixtures/truths.ts';
import { aFolder, aStore, publish } from '../snapshots/builders.ts';

const DAY_MS = 86_400_000;
const NO_NODES = { nodes: new Map(), gateways: new Map(), scaler: undefined };

/** A store whose snapshots, one of each workload, were last wanted so many milliseconds ago. */
async function aRig(dir: string, ages: Readonly<Record<string, number>>) {
  const store = aStore(dir);
  for (const [workload, ageMs] of Object.entries(ages)) {
    const snapshot = await publish(store, { workload }, workload);
    const at = (Date.now() - ageMs) / 1000;
    await utimes(snapshot.dir, at, at);
  }
  const look = (described: readonly string[] | undefined, here: readonly string[] = []) => {
    const workloads = described && new Map(described.map((name) => [name, { ...aWorkloadTruth(), name }]));
    const view = (): View => ({ ...NO_NODES, workloads });
    return new Abandoned({ store, view, here: async () => new Set(here), clock: systemClock, log }).reconcile();
  };
  const left = async () => (await store.list()).map(({ manifest }) => manifest.workload).sort();
  return { store, look, left };
}

test('snapshots of a workload that has been gone for a week are removed, others stay', async () => {
  await using folder = await aFolder();
  const { look, left } = await aRig(folder.path, { gone: KEPT_MS + DAY_MS, away: KEPT_MS - DAY_MS, there: 99 * DAY_MS, here: 99 * DAY_MS });

  await look(['there'], ['here']);

  expect(await left()).toEqual(['away', 'here', 'there']);
});

test('the week begins when the workload was last seen', async () => {
  await using folder = await aFolder();
  const { look, left } = await aRig(folder.path, { web: 99 * DAY_MS });

  await look(['web']);
  await look([]);

  expect(await left()).toEqual(['web']);
});

test('while nobody tells which workloads there are all stay, and so does the state of suspended slots', async () => {
  await using folder = await aFolder();
  const { look, left } = await aRig(folder.path, { 'suspended/one': 99 * DAY_MS, web: 99 * DAY_MS });

  await look(undefined);
  expect(await left()).toEqual(['suspended/one', 'web']);

  await look([]);
  expect(await left()).toEqual(['suspended/one']);
});

test('one that is being restored stays until the next look', async () => {
  await using folder = await aFolder();
  const { store, look, left } = await aRig(folder.path, { gone: 99 * DAY_MS });
  const [snapshot] = await store.list();
  const pin = store.pin(snapshot?.digest ?? '');

  await look([]);
  expect(await left()).toEqual(['gone']);

  pin[Symbol.dispose]();
  await look([]);
  expect(await left()).toEqual([]);
});
