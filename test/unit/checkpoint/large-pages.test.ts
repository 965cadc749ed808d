import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { KernelSettings } from '../../../src/checkpoint/kernel-settings.ts';
import { LargePages } from '../../../src/checkpoint/large-pages.ts';
import { silentLog } from '../../../src/lib/log.ts';

let dir: string;
let enabled: string;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'rekindle-thp-'));
  await mkdir(join(dir, 'hugepages-64kB'));
  enabled = join(dir, 'hugepages-64kB/enabled');
  await writeFile(enabled, 'always inherit [madvise] never\n');
});
afterEach(() => rm(dir, { recursive: true, force: true }));

const aLargePages = () => new LargePages({ settings: new KernelSettings({ dir, saved: join(dir, 'saved.json') }), log: silentLog });
const setting = () => readFile(enabled, 'utf8');

test("memory comes in larger pieces until the last restore has ended, then as the machine's owner chose", async () => {
  const largePages = aLargePages();
  const one = largePages.hold();
  const two = largePages.hold();
  await largePages.settle();
  expect(await setting()).toBe('always');

  one[Symbol.dispose]();
  await largePages.settle();
  expect(await setting()).toBe('always');

  two[Symbol.dispose]();
  await largePages.settle();
  expect(await setting()).toBe('madvise');
});

test("the machine's own setting is back whichever of two agents ends last", async () => {
  const [one, two] = [aLargePages(), aLargePages()];
  const held = [one.hold()];
  await one.settle();
  held.push(two.hold());
  await two.settle();

  held[0]?.[Symbol.dispose]();
  await one.settle();
  held[1]?.[Symbol.dispose]();
  await two.settle();

  expect(await setting()).toBe('madvise');
});

test('a kernel without the setting, or one that may not be changed, is no failure', async () => {
  await rm(join(dir, 'hugepages-64kB'), { recursive: true });
  const largePages = aLargePages();

  largePages.hold()[Symbol.dispose]();

  await largePages.settle();
});
