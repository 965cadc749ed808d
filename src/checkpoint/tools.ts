import { join } from 'node:path';
import type { Exec } from '../lib/exec.ts';
import { criuPreload } from './machine.ts';

/** The programs that checkpoint/ runs, by absolute path. */
export type CheckpointTools = {
  readonly criu: string;
  /** images/agent/helper.c, built. */
  readonly helper: string;
  /** See {@link criuPreload}. */
  readonly preload: string | undefined;
  /** A directory on a tmpfs that stands at /run while criu runs: its cache of kernel features saves about 20 ms and is kept on a tmpfs only. */
  readonly criuRunDir: string;
  /** Where the machine's own files are: empty, or `/proc/1/root` for an agent in a container with the machine's PIDs. */
  readonly hostRoot: string;
};

/** The tools of an agent that has its own programs in `buildDir`/agent and its files in `runDir`. */
export async function checkpointTools(
  exec: Exec,
  {
    criu,
    buildDir,
    runDir,
    hostRoot,
  }: { readonly criu: string; readonly buildDir: string; readonly runDir: string; readonly hostRoot: string },
): Promise<CheckpointTools> {
  const dir = join(buildDir, 'agent');
  return {
    criu,
    helper: join(dir, 'helper'),
    preload: await criuPreload(exec, criu, dir),
    criuRunDir: join(runDir, 'criu'),
    hostRoot,
  };
}
