import { describe, expect, test } from 'vitest';
import { encodeBytes, encodeNumber, joinImage, parseMessage, splitImage } from '../../../src/checkpoint/protobuf.ts';
import { rewindTimers } from '../../../src/checkpoint/timers.ts';

const HEADER = Buffer.from('4356543810560000', 'hex');
const SIGNAL_OWNER = Buffer.from('0800100018002000', 'hex');

/** An entry of files.img as CRIU writes it: type, id, and a timer (field 12). */
function timer(of: { ticks: number; valueNs: number; intervalNs: number; valueS?: number; intervalS?: number }): Buffer {
  const numbers = [of.ticks, 0, of.valueS ?? 0, of.valueNs, of.intervalS ?? 0, of.intervalNs];
  const fields = [
    encodeNumber(1, 7n),
    encodeNumber(2, 2050n),
    encodeBytes(3, SIGNAL_OWNER),
    encodeNumber(4, 1n),
    ...numbers.map((value, i) => encodeNumber(5 + i, BigInt(value))),
  ];
  return Buffer.concat([encodeNumber(1, 17n), encodeNumber(2, 7n), encodeBytes(12, Buffer.concat(fields))]);
}

const otherFile = Buffer.concat([encodeNumber(1, 1n), encodeNumber(2, 3n), encodeBytes(3, Buffer.from('whatever'))]);
const imageOf = (...entries: Buffer[]) => joinImage(HEADER, entries);

/** Field 8 of each timer: the nanoseconds until it expires. */
function nanoseconds(image: Buffer | undefined): unknown[] {
  return splitImage(image ?? Buffer.alloc(8)).entries.flatMap((entry) => {
    const value = parseMessage(entry).find(({ number }) => number === 12)?.value;
    return Buffer.isBuffer(value) ? [parseMessage(value).find(({ number }) => number === 8)?.value] : [];
  });
}

describe('a periodic timer', () => {
  test('that expired and was not read expires again at once', () => {
    const runDown = timer({ ticks: 1, valueNs: 0, intervalNs: 1_000_000 });
    const running = timer({ ticks: 0, valueNs: 400, intervalNs: 1_000_000 });

    const rewritten = rewindTimers(imageOf(otherFile, runDown, running));

    expect(nanoseconds(rewritten)).toEqual([1n, 400n]);
    expect(splitImage(rewritten ?? Buffer.alloc(8)).entries[0]?.equals(otherFile)).toBe(true);
    expect(splitImage(rewritten ?? Buffer.alloc(8)).entries[2]?.equals(running)).toBe(true);
  });

  test('of whole seconds does so too', () => {
    expect(nanoseconds(rewindTimers(imageOf(timer({ ticks: 3, valueNs: 0, intervalNs: 0, intervalS: 5 }))))).toEqual([1n]);
  });

  test('that still runs, that was stopped, or that fires once is left as it is', () => {
    expect(rewindTimers(imageOf(timer({ ticks: 0, valueNs: 0, valueS: 2, intervalNs: 0, intervalS: 2 })))).toBeUndefined();
    expect(rewindTimers(imageOf(timer({ ticks: 0, valueNs: 0, intervalNs: 1_000_000 })))).toBeUndefined();
    expect(rewindTimers(imageOf(timer({ ticks: 1, valueNs: 0, intervalNs: 0 })))).toBeUndefined();
    expect(rewindTimers(imageOf(otherFile))).toBeUndefined();
  });
});
