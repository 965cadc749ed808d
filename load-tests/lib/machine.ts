import { writeFile } from 'node:fs/promises';
import { availableParallelism, cpus, release, totalmem } from 'node:os';
import { exec } from '../../src/lib/exec.ts';

/** What a figure depends on: processor, memory, kernel, and the versions of the programs that were compared. */
export async function machineFacts(): Promise<Record<string, unknown>> {
  const version = async (program: string): Promise<string> => {
    const { stdout } = await exec(program, ['--version'], { timeoutMs: 10_000 });
    return /\d+(\.\d+)+/.exec(stdout)?.[0] ?? 'unknown';
  };
  const [criu, runc, crun, podman] = await Promise.all(['criu', 'runc', 'crun', 'podman'].map(version));
  return {
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: availableParallelism(),
    memoryMiB: Math.round(totalmem() / 2 ** 20),
    kernel: release(),
    node: process.versions.node,
    criu,
    runc,
    crun,
    podman,
  };
}

/**
 * Free memory in large pieces again, for whoever is measured: on a machine that has run for hours it lies in small ones, and then every restore, ours or
 * another's, takes up to half as long again. See Documentation/admin-guide/sysctl/vm.rst of Linux.
 */
export async function tidyMemory(): Promise<void> {
  await writeFile('/proc/sys/vm/drop_caches', '3');
  await writeFile('/proc/sys/vm/compact_memory', '1');
}
