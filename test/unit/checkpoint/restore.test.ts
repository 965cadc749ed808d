import { chmod, mkdir, mkdtemp, open, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { processTree } from '../../../src/checkpoint/process.ts';
import { restore } from '../../../src/checkpoint/restore.ts';
import { RestoreHelpers } from '../../../src/checkpoint/restore-helpers.ts';
import { RekindleError } from '../../../src/lib/errors.ts';

/** A program in the helper's place: it waits as a spare, is killed as soon as it restores, and has nothing to undo. */
const HELPER = `#!/bin/sh
case $1 in
  spare) exec cat >/dev/null ;;
  restore) kill -9 $$ ;;
esac
`;

async function aPlace() {
  const dir = await mkdtemp(join(tmpdir(), 'rekindle-restore-'));
  const helper = join(dir, 'helper');
  const workDir = join(dir, 'work');
  await mkdir(workDir);
  await writeFile(helper, HELPER);
  await chmod(helper, 0o755);
  return { dir, helper, workDir, [Symbol.asyncDispose]: () => rm(dir, { recursive: true, force: true }) };
}

/** `descriptors`: what the connection has each time it is asked; after the last it is closed. */
async function restoreWith(descriptors: readonly number[], spares = 0) {
  await using place = await aPlace();
  const { helper, workDir, dir } = place;
  await using helpers = new RestoreHelpers({ helper, spares });
  if (spares > 0) helpers.prepare();
  const left = [...descriptors];
  const connection = {
    get descriptor() {
      const next = left.shift();
      if (next === undefined) throw new RekindleError('container_failed', 'the slot closed its connection');
      return next;
    },
  };
  const failure = await restore(
    { criu: 'criu', helper, helpers, preload: undefined, criuRunDir: dir, hostRoot: '' },
    {
      id: 'one',
      snapshot: { facts: { stdio: { stdout: null, stderr: null }, mounts: [], volumes: [], addresses: [] }, imagesDir: dir, filesDir: dir },
      slot: { pid: process.pid, addresses: ['10.0.0.2'], connection },
      workDir,
      deadlineMs: 1_000,
      onResumed: () => undefined,
      mergeMemory: false,
    },
  ).then(
    () => undefined,
    (error: unknown) => error,
  );
  return { failure, left: await readdir(workDir) };
}

describe('a slot that ends while it is being restored into is told as that', () => {
  test('before there is a helper', async () => {
    const { failure, left } = await restoreWith([]);

    expect(failure).toMatchObject({ code: 'container_failed', message: 'the slot closed its connection' });
    expect(left).toEqual([]);
  });

  test('together with its helper', async () => {
    await using nothing = await open('/dev/null');

    const { failure, left } = await restoreWith([nothing.fd]);

    expect(failure).toMatchObject({ code: 'restore_failed', message: 'the restore helper was killed' });
    expect(left).toEqual([]);
  });
});

test('a descriptor that is none costs no spare helper', async () => {
  await using place = await aPlace();
  const waiting = () => processTree(process.pid).length;
  const before = waiting();
  {
    await using helpers = new RestoreHelpers({ helper: place.helper, spares: 2 });
    helpers.prepare();

    expect(() => helpers.run(['restore'], 99_999)).toThrow('EBADF');

    expect(waiting()).toBe(before + 2);
  }
  expect(waiting()).toBe(before);
});
