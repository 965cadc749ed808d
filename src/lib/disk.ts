import { statfs } from 'node:fs/promises';
import { errno } from './errors.ts';

/** With less than this nothing of use can be written. */
const NOTHING_BYTES = 64 * 1024;

/** Bytes that can still be written below `dir`. */
export async function freeBytes(dir: string): Promise<number> {
  const { bavail, bsize } = await statfs(dir);
  return bavail * bsize;
}

/** Whether an error comes of a full disk: it says so itself, or in the words of a program; many programs fail without a word of it, hence the look at `dir`. */
export async function isOfFullDisk(dir: string, error: unknown): Promise<boolean> {
  if (errno(error) === 'ENOSPC' || errno(error) === 'EDQUOT') return true;
  if (/No space left on device|Disk quota exceeded/.test(String(error))) return true;
  return (await freeBytes(dir).catch(() => Number.POSITIVE_INFINITY)) < NOTHING_BYTES;
}

/** How much is free below `dir`, for people. */
export async function freeText(dir: string): Promise<string> {
  return freeBytes(dir).then(mebibytes, () => 'an unknown amount');
}

export function mebibytes(bytes: number): string {
  return `${(bytes / 1024 / 1024).toFixed(1)} MiB`;
}
