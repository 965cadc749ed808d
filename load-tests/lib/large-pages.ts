import { join } from 'node:path';
import { KernelSettings } from '../../src/checkpoint/kernel-settings.ts';
import { LargePages } from '../../src/checkpoint/large-pages.ts';
import { hasSysResource } from '../../src/checkpoint/machine.ts';
import type { CheckpointTools } from '../../src/checkpoint/tools.ts';
import type { Config } from '../../src/config.ts';
import { silentLog } from '../../src/lib/log.ts';

/** The programs as an engine with this configuration uses them, for what is measured without an agent. */
export async function checkpointTools(config: Config): Promise<CheckpointTools> {
  const dir = join(config.buildDir, 'agent');
  return {
    criu: '/usr/sbin/criu',
    helper: join(dir, 'helper'),
    preload: (await hasSysResource()) ? undefined : join(dir, 'rlimit.so'),
    criuRunDir: join(config.runDir, 'criu'),
    hostRoot: '',
  };
}

const THP = { dir: '/sys/kernel/mm/transparent_hugepage', saved: '/run/rekindle-load-transparent_hugepage.json' };

/** As the engine's: what a restore without an agent needs to be as fast. */
export const largePages = (): LargePages => new LargePages({ settings: new KernelSettings(THP), log: silentLog });
