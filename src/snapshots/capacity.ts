import { freeBytes, freeText, mebibytes } from '../lib/disk.ts';
import { errno, RekindleError } from '../lib/errors.ts';

/** Throws `disk_full`, with the numbers, unless `bytes` more fit below `dir`. */
export async function ensureRoom(dir: string, bytes: number): Promise<void> {
  const free = await freeBytes(dir);
  if (free < bytes)
    throw new RekindleError(
      'disk_full',
      `a snapshot of ${mebibytes(bytes)} does not fit into ${dir}: ${mebibytes(free)} are free. ${REMEDY}`,
    );
}

/** A full disk as `disk_full` with the numbers; every other error as it is. */
export async function explainFull(dir: string, error: unknown): Promise<unknown> {
  if (errno(error) !== 'ENOSPC' && errno(error) !== 'EDQUOT') return error;
  const free = await freeText(dir);
  return new RekindleError('disk_full', `writing a snapshot into ${dir} filled the disk (${free} free now). ${REMEDY}`, { cause: error });
}

const REMEDY = 'Free some, `rekindle snapshots prune`, or keep fewer (checkpoint.keep, checkpoint.maxTotalMiB)';
