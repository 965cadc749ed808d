import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { errno } from '../lib/errors.ts';

/** A nonce for `SlotConnection.prove` that nobody can guess: 15 characters, 88 random bits. */
export function newNonce(): string {
  return randomBytes(11).toString('base64url');
}

/**
 * Whether the process `pid`, as this process numbers it, has `nonce` as its name: then the connection that was asked for it belongs to
 * that very process. False too when there is no such process (any more). Synchronous: every
 * restore waits for it, and no disk is behind it.
 */
export function proveProcess(pid: number, nonce: string): boolean {
  try {
    return readFileSync(`/proc/${pid}/comm`, 'latin1') === `${nonce}\n`;
  } catch (error) {
    if (errno(error) === 'ENOENT' || errno(error) === 'ESRCH') return false;
    throw error;
  }
}
