import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { errno } from '../lib/errors.ts';

/** A nonce for `SlotConnection.prove` that nobody can guess: 15 characters, 88 random bits. */
export function newNonce(): string {
  return randomBytes(11).toString('base64url');
}

/**
 * Whether the process `pid`, as this process numbers it, has `nonce` as its name: then the connection that was asked for it belongs to
 * that very process. False too when there is no such process (any more).
 */
export async function proveProcess(pid: number, nonce: string): Promise<boolean> {
  try {
    return (await readFile(`/proc/${pid}/comm`, 'latin1')) === `${nonce}\n`;
  } catch (error) {
    if (errno(error) === 'ENOENT' || errno(error) === 'ESRCH') return false;
    throw error;
  }
}
