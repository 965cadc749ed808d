/**
 * The states of a slot in words, in the order in which they are counted and explained.
 *
 * @import { ApiSlot } from '../schemas.ts'
 */
import { clock, count, duration, plural } from './words.js';

/** @type {Record<ApiSlot['state'], string>} */
export const STATES = {
  live: 'restored from the snapshot, serves',
  restoring: 'is being restored',
  cold: 'started without a snapshot',
  parked: 'waits, without application',
  suspended: 'waits, its state is kept in a snapshot',
  making: 'its container is being made',
  ending: 'is being ended',
  failed: 'could not be started, or broke',
};

/**
 * @param {ApiSlot} slot
 * @param {number} sinceMs by this browser's clock
 */
export function describe(slot, sinceMs) {
  const words = [`${slot.name}: ${slot.state} since ${clock(sinceMs)}`, `on ${slot.node}`];
  if ((slot.state === 'live' || slot.state === 'cold') && !slot.ready) words.push('not ready yet');
  if (slot.seed) words.push('the seed of its snapshot');
  if (slot.draining) words.push('takes no new requests');
  if (slot.inFlight > 0) words.push(`${plural(slot.inFlight, 'request')} in flight`);
  const { start } = slot;
  if (start !== undefined) {
    words.push(`${start.how === 'restore' ? 'restored' : 'started cold'}${start.ms === undefined ? '' : ` in ${duration(start.ms)}`}`);
    if (start.reason !== undefined) words.push(`because ${start.reason}`);
  }
  if (slot.error !== undefined) words.push(slot.error);
  return words.join(', ');
}

/** @param {readonly ApiSlot[]} slots */
export function countStates(slots) {
  /** @type {Map<ApiSlot['state'], number>} */
  const counts = new Map();
  for (const { state } of slots) counts.set(state, (counts.get(state) ?? 0) + 1);
  return counts;
}

/** "12 live, 3 restoring, 4 parked": states that none is in are left out. @param {readonly ApiSlot[]} slots */
export function tally(slots) {
  const counts = countStates(slots);
  const states = /** @type {ApiSlot['state'][]} */ (Object.keys(STATES));
  return states.flatMap((state) => (counts.get(state) ? [`${count(counts.get(state) ?? 0)} ${state}`] : [])).join(', ');
}
