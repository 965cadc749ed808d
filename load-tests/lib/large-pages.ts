import { KernelSettings } from '../../src/checkpoint/kernel-settings.ts';
import { LargePages } from '../../src/checkpoint/large-pages.ts';
import { silentLog } from '../../src/lib/log.ts';

const THP = { dir: '/sys/kernel/mm/transparent_hugepage', saved: '/run/rekindle-load-transparent_hugepage.json' };

/** As the engine's: what a restore without an agent needs to be as fast. */
export const largePages = (): LargePages => new LargePages({ settings: new KernelSettings(THP), log: silentLog });
