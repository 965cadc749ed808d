import { spawnSync } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { KernelSettings } from '../../../src/checkpoint/kernel-settings.ts';

let dir: string;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'rekindle-settings-'));
  await writeFile(join(dir, 'run'), '0\n');
});
afterEach(() => rm(dir, { recursive: true, force: true }));

const saved = () => join(dir, 'saved.json');
const aSettings = () => new KernelSettings({ dir, saved: saved() });
const setting = () => readFile(join(dir, 'run'), 'utf8');

test('what a killed process changed is put back by the next', async () => {
  await aSettings().set({ run: '1' });
  const { pid } = spawnSync('/bin/true');
  await writeFile(saved(), (await readFile(saved(), 'utf8')).replace(`"pid":${process.pid}`, `"pid":${pid}`));

  await aSettings().recover();

  expect(await setting()).toBe('0');
});

test('what a process changed that still runs is left to it', async () => {
  const one = aSettings();
  await one.set({ run: '1' });

  await aSettings().recover();
  await aSettings().restore();
  expect(await setting()).toBe('1');

  await one.restore();
  expect(await setting()).toBe('0');
});

test('of several values to choose from the chosen is what comes back', async () => {
  await writeFile(join(dir, 'run'), 'always inherit [madvise] never\n');
  const settings = aSettings();
  await settings.set({ run: 'always', missing: '1' });

  await settings.restore();

  expect(await setting()).toBe('madvise');
});
