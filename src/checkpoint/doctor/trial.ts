import { readFile } from 'node:fs/promises';
import { release } from 'node:os';
import type { Exec, ExecResult } from '../../lib/exec.ts';

const TIMEOUT_MS = 2_500;

/**
 * Runs a program in a namespace of its own, which ends with it and takes along what the program made there. Throws where no such namespace
 * can be made: then nothing was tried.
 */
export async function tryAlone(exec: Exec, namespace: 'mount' | 'net', program: string, args: readonly string[]): Promise<ExecResult> {
  const options = namespace === 'mount' ? ['--mount', '--propagation', 'private'] : ['--net'];
  const result = await exec('unshare', [...options, '--', program, ...args], { timeoutMs: TIMEOUT_MS });
  if (result.stderr.startsWith('unshare:')) throw new Error(`nothing could be tried (${result.stderr.trim()})`);
  return result;
}

/** Whether using this part of the kernel would load a module, which a look must not do: it lies on the disk and is not loaded yet. */
export async function couldLoad(name: string): Promise<boolean> {
  const [loaded, onDisk] = await Promise.all(
    ['/proc/modules', `/lib/modules/${release()}/modules.dep`].map((path) => readFile(path, 'utf8').catch(() => '')),
  );
  return wouldLoad(name, loaded ?? '', onDisk ?? '');
}

/** The same from the texts of /proc/modules and modules.dep (modules.dep(5)). */
export function wouldLoad(name: string, loaded: string, onDisk: string): boolean {
  const isLoaded = loaded.split('\n').some((line) => line.split(' ')[0] === name);
  return !isLoaded && new RegExp(`(?:^|/)${name}\\.ko(?:\\.\\w+)?:`, 'm').test(onDisk);
}
