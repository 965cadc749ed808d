import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { KernelSettings } from '../../../src/checkpoint/kernel-settings.ts';
import { PageMerging } from '../../../src/checkpoint/page-merging.ts';

let dir: string;
let ksm: string;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'rekindle-ksm-'));
  ksm = join(dir, 'ksm');
  await mkdir(ksm);
  await kernel({ run: '0', pages_to_scan: '100', sleep_millisecs: '20', pages_sharing: '0', full_scans: '0' });
});
afterEach(() => rm(dir, { recursive: true, force: true }));

const kernel = async (files: Record<string, string>): Promise<void> => {
  for (const [name, value] of Object.entries(files)) await writeFile(join(ksm, name), `${value}\n`);
};
const setting = async (name: string): Promise<string> => (await readFile(join(ksm, name), 'utf8')).trim();

function merging(clones: readonly string[]) {
  const live = { clones };
  const settings = new KernelSettings({ dir: ksm, saved: join(dir, 'saved.json') });
  return { live, controller: new PageMerging({ settings, clones: async () => live.clones }) };
}

test('nothing is touched while no clone wants its memory merged', async () => {
  const { controller } = merging([]);

  expect(await controller.reconcile()).toEqual({ requeueAfterMs: Number.POSITIVE_INFINITY });

  expect(await setting('run')).toBe('0');
  expect(await setting('pages_to_scan')).toBe('100');
});

test('the kernel scans fast while pages are being merged, slower when none are, then not at all', async () => {
  const { controller } = merging(['a', 'b']);

  await controller.reconcile();
  expect([await setting('run'), await setting('pages_to_scan')]).toEqual(['1', '50000']);

  await kernel({ pages_sharing: '5000', full_scans: '2' });
  await controller.reconcile();
  expect(await setting('pages_to_scan')).toBe('50000');

  await kernel({ full_scans: '4' });
  await controller.reconcile();
  expect([await setting('run'), await setting('pages_to_scan')]).toEqual(['1', '5000']);

  await kernel({ pages_sharing: '5001', full_scans: '6' });
  await controller.reconcile();
  expect(await setting('run')).toBe('0');
});

test('another clone makes it fast again', async () => {
  const { controller, live } = merging(['a']);
  for (const full_scans of ['0', '2', '4']) {
    await kernel({ full_scans });
    await controller.reconcile();
  }
  expect(await setting('run')).toBe('0');

  live.clones = ['a', 'b'];
  await controller.reconcile();

  expect([await setting('run'), await setting('pages_to_scan')]).toEqual(['1', '50000']);
});

test("the machine's own settings are back when the last clone has gone", async () => {
  await kernel({ run: '0', sleep_millisecs: '33' });
  const { controller, live } = merging(['a']);
  await controller.reconcile();

  live.clones = [];
  await controller.reconcile();

  expect([await setting('run'), await setting('pages_to_scan'), await setting('sleep_millisecs')]).toEqual(['0', '100', '33']);
});

test('a kernel that merges no pages is left alone', async () => {
  await rm(ksm, { recursive: true });

  expect(await merging(['a']).controller.reconcile()).toEqual({ requeueAfterMs: Number.POSITIVE_INFINITY });
});
