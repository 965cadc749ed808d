import { expect, test } from 'vitest';
import { Inventory } from '../../../src/agent/inventory.ts';
import { machineClassOf } from '../../../src/agent/node-truth.ts';
import type { SnapshotTruth } from '../../../src/queue/truth.ts';
import { parseRekindleFile } from '../../../src/workloads/file.ts';
import { aNodeTruth } from '../../fixtures/truths.ts';
import { aFolder, aStore, machine, publish } from '../snapshots/builders.ts';

const HASH = 'spec-1';
const NOW = Date.parse('2026-01-02T00:10:00Z');
const OLD = { createdAt: '2026-01-02T00:00:00Z' };
const YOUNG = { createdAt: '2026-01-02T00:09:00Z' };

function aWorkload(checkpoint = '') {
  const [workload] = parseRekindleFile(`workloads: { web: { container: { rootfs: host, command: [x] }${checkpoint} } }`, 'f', '/');
  if (workload === undefined) throw new Error('no workload');
  return workload;
}

const ofAnyAge = aWorkload();
const ofFiveMinutes = aWorkload(', checkpoint: { maxAgeSeconds: 300 }');

function anInventory(dir: string) {
  const store = aStore(dir);
  const inventory = new Inventory({ store, machine, now: () => NOW });
  return { store, inventory };
}

function aSnapshot(digest: string, { createdAt }: { createdAt: string }, more: Partial<SnapshotTruth> = {}): SnapshotTruth {
  const createdAtMs = Date.parse(createdAt);
  return {
    digest,
    workload: 'web',
    specHash: HASH,
    totalBytes: 1,
    freezeMs: 1,
    createdAtMs,
    verifiedAtMs: createdAtMs,
    memoryBytes: 1,
    ...more,
  };
}

function nodesWith(...snapshots: readonly SnapshotTruth[]) {
  const said = aNodeTruth({ name: 'b', peer: 'http://b', machineClass: machineClassOf(machine), snapshots: [...snapshots] });
  return new Map([['b', { said, heardAtMs: 0 }]]);
}

test('a snapshot older than checkpoint.maxAgeSeconds fits nothing any more', async () => {
  await using folder = await aFolder();
  const { store, inventory } = anInventory(folder.path);
  const { digest } = await publish(store, OLD);
  await inventory.refresh();

  expect(inventory.fitting(HASH, ofAnyAge)).toBe(digest);
  expect(inventory.fitting(HASH, ofFiveMinutes)).toBeUndefined();

  const { digest: young } = await publish(store, YOUNG);
  await inventory.refresh();
  expect(inventory.fitting(HASH, ofFiveMinutes)).toBe(young);
});

test('of what other nodes have the newest is brought, but none that is too old, left alone, or here and of no use', async () => {
  await using folder = await aFolder();
  const { store, inventory } = anInventory(folder.path);
  const { digest: here } = await publish(store, { ...YOUNG, class: { ...machine, kernel: '99.1' } });
  await inventory.refresh();
  const old = 'a'.repeat(64);
  const young = 'b'.repeat(64);
  const bad = 'c'.repeat(64);
  const nodes = nodesWith(
    aSnapshot(old, OLD),
    aSnapshot(young, YOUNG),
    aSnapshot(bad, YOUNG, { quarantined: 'fails' }),
    aSnapshot(here, YOUNG),
  );

  expect(inventory.fitting(HASH, ofAnyAge)).toBeUndefined();
  expect(inventory.elsewhere(HASH, ofAnyAge, nodes)).toBe(young);
  expect(inventory.elsewhere(HASH, ofFiveMinutes, nodes)).toBe(young);
  expect(inventory.elsewhere(HASH, ofFiveMinutes, nodesWith(aSnapshot(old, OLD), aSnapshot(here, YOUNG)))).toBeUndefined();
  expect(inventory.elsewhere('spec-2', ofAnyAge, nodes)).toBeUndefined();
});
