import { chmod, mkdir, readdir, readFile, rename, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { RekindleError } from '../lib/errors.ts';

/**
 * Brings the directory that every container sees at /rekindle up to date with the built one. A file that changed is replaced by rename:
 * containers that run the old one keep it. What else lies there (the agent's socket) is left alone. Throws `machine_unsupported` when
 * the slot was not built.
 */
export async function installSlotFiles(builtDir: string, slotDir: string): Promise<void> {
  const files = await readdir(builtDir).catch((): string[] => []);
  if (!files.includes('slot'))
    throw new RekindleError('machine_unsupported', `the slot is not built (no ${builtDir}/slot): run scripts/setup`);
  await mkdir(slotDir, { recursive: true });
  // Whatever user a container runs as must come to the socket.
  await chmod(slotDir, 0o755);
  for (const file of files) {
    const from = path.join(builtDir, file);
    const { mode } = await stat(from);
    const wanted = await readFile(from);
    const there = await readFile(path.join(slotDir, file)).catch(() => undefined);
    if (there?.equals(wanted)) continue;
    const written = path.join(slotDir, `.${file}.${process.pid}`);
    await writeFile(written, wanted);
    await chmod(written, mode & 0o111 ? 0o755 : 0o644);
    await rename(written, path.join(slotDir, file));
  }
}
