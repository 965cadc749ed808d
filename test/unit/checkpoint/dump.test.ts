import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { expect, onTestFinished, test } from 'vitest';
import { dump } from '../../../src/checkpoint/dump.ts';
import { RekindleError } from '../../../src/lib/errors.ts';

test('a criu that does not end in time is told as that, and nothing of it is left to hold the application still', async () => {
  const workDir = await mkdtemp(`${tmpdir()}/rekindle-dump-`);
  onTestFinished(() => rm(workDir, { recursive: true }));
  const application = spawn('sleep', ['60']);
  onTestFinished(() => void application.kill('SIGKILL'));
  // In the place of a child that a killed criu leaves.
  const left = spawn('sh', ['-c', 'sleep 60 & wait', 'criu', workDir], { detached: true });
  onTestFinished(() => void process.kill(-(left.pid ?? 0), 'SIGKILL'));
  const ended = once(left, 'exit');
  const exec = async () => {
    throw new RekindleError('timeout', 'helper took longer than 11000 ms', { retryable: true });
  };

  const dumped = dump(
    { criu: 'criu', helper: 'helper', preload: undefined, criuRunDir: workDir, hostRoot: '', exec },
    {
      ...{ pid: application.pid ?? 0, mountsAtStart: [], volumes: [], imagesDir: workDir, filesDir: workDir, workDir },
      timeoutMs: 1_000,
    },
    AbortSignal.timeout(10_000),
  );

  await expect(dumped).rejects.toMatchObject({ code: 'dump_failed', message: expect.stringContaining('criu took longer than 11 s') });
  expect(await ended).toEqual([null, 'SIGKILL']);
  expect(application.exitCode).toBeNull();
});
