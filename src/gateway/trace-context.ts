import { randomFillSync } from 'node:crypto';

/** `traceparent` of W3C Trace Context (https://www.w3.org/TR/trace-context/#traceparent-header): ids that are all zeros and version ff are not valid. */
const TRACEPARENT = /^(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?$/;

export function isTraceparent(value: string): boolean {
  // Version 00 has exactly these four fields.
  return TRACEPARENT.test(value) && (value.length === 55 || (!value.startsWith('00') && value[55] === '-'));
}

const BYTES = 24;
const pool = Buffer.alloc(BYTES * 128);
let used = pool.length;

/**
 * A trace that begins here. Marked as sampled: applications that follow their caller's decision then record as they would have without a gateway.
 */
export function newTraceparent(): string {
  // One draw of random bytes for many requests: each costs more than all the rest here.
  if (used === pool.length) {
    randomFillSync(pool);
    used = 0;
  }
  const id = pool.toString('hex', used, used + BYTES);
  used += BYTES;
  return `00-${id.slice(0, 32)}-${id.slice(32)}-01`;
}
