import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { dumpArguments } from '../../src/checkpoint/criu.ts';
import { dump } from '../../src/checkpoint/dump.ts';
import { externalMounts, readMounts } from '../../src/checkpoint/mountinfo.ts';
import { inspectProcess } from '../../src/checkpoint/process.ts';
import { readDumpStats } from '../../src/checkpoint/stats.ts';
import type { CheckpointTools } from '../../src/checkpoint/tools.ts';
import { exec, mustExec } from '../../src/lib/exec.ts';
import type { Container } from '../../src/workloads/host.ts';

const TIMEOUT_MS = 60_000;

/** How long a live container stands still: for our checkpoint, and for `criu dump` alone with one plain copy of the files that it changed. */
export async function freezeOnce(tools: CheckpointTools, seed: Container, dir: string): Promise<{ oursMs: number; bareMs: number }> {
  const oursMs = await withDirectories(dir, async (at) => {
    const request = { pid: seed.pid, mountsAtStart: readMounts(seed.pid), volumes: seed.volumes, timeoutMs: TIMEOUT_MS };
    const { freezeMs } = await dump(
      { ...tools, exec },
      { ...request, imagesDir: at('images'), filesDir: at('files'), workDir: at('work') },
      AbortSignal.timeout(TIMEOUT_MS),
    );
    return freezeMs;
  });
  const bareMs = await withDirectories(dir, async (at) => {
    const facts = inspectProcess(seed.pid, tools.hostRoot);
    const args = dumpArguments({
      pid: seed.pid,
      imagesDir: at('images'),
      workDir: at('work'),
      netInode: facts.netInode,
      external: externalMounts(facts.mounts),
      inotifyPaths: [],
      helper: '',
      timeoutSeconds: TIMEOUT_MS / 1000,
      leave: 'running',
    });
    const own = args.filter((arg, i) => arg !== '--action-script' && args[i - 1] !== '--action-script');
    const env = tools.preload === undefined ? {} : { LD_PRELOAD: tools.preload };
    await mustExec(exec, tools.criu, own, { env, timeoutMs: TIMEOUT_MS });
    const { freezeMs } = await readDumpStats(at('work'));
    const started = performance.now();
    if (facts.upperDir !== undefined) await mustExec(exec, 'cp', ['-a', `${facts.upperDir}/.`, at('files')]);
    return freezeMs + performance.now() - started;
  });
  return { oursMs, bareMs };
}

async function withDirectories(dir: string, work: (at: (name: string) => string) => Promise<number>): Promise<number> {
  const own = await mkdtemp(join(dir, 'dump-'));
  try {
    for (const name of ['images', 'files', 'work']) await mkdir(join(own, name));
    return await work((name) => join(own, name));
  } finally {
    await rm(own, { recursive: true, force: true });
  }
}
