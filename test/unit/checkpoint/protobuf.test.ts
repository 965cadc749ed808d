import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { encodeBytes, encodeNumber, encodeVarint, joinImage, parseMessage, splitImage } from '../../../src/checkpoint/protobuf.ts';

const image = readFileSync(join(import.meta.dirname, '../../fixtures/criu/addressed-files.img'));

test('a real image comes out of its parts as it went in, byte for byte', () => {
  const { header, entries } = splitImage(image);

  const again = entries.map((entry) => Buffer.concat(parseMessage(entry).map(({ raw }) => raw)));

  expect(entries.length).toBeGreaterThan(5);
  expect(joinImage(header, again).equals(image)).toBe(true);
});

test('what is encoded is read back', () => {
  const number = fc.bigInt({ min: 0n, max: (1n << 64n) - 1n });
  fc.assert(
    fc.property(number, fc.uint8Array(), (value, bytes) => {
      const [one, other] = parseMessage(Buffer.concat([encodeNumber(7, value), encodeBytes(300, Buffer.from(bytes))]));

      expect(one).toMatchObject({ number: 7, wire: 0, value });
      expect(other).toMatchObject({ number: 300, wire: 2, value: Buffer.from(bytes) });
    }),
  );
});

test('numbers have the length that the format gives them', () => {
  expect([0n, 127n, 128n, 300n, (1n << 64n) - 1n].map((value) => encodeVarint(value).toString('hex'))).toEqual([
    '00',
    '7f',
    '8001',
    'ac02',
    'ffffffffffffffffff01',
  ]);
});

test('what is cut short anywhere is corrupt, never half read', () => {
  const entry = Buffer.concat([encodeNumber(1, 300n), encodeBytes(2, Buffer.from('abc'))]);
  for (const cut of [1, 2, 4, 5, 7]) expect(() => parseMessage(entry.subarray(0, cut)), String(cut)).toThrow(/ends within/);
  expect(() => splitImage(image.subarray(0, image.length - 1))).toThrow(/ends within an entry/);
  expect(() => splitImage(image.subarray(0, 10))).toThrow(/ends within a length/);
  expect(() => parseMessage(Buffer.from([0x0b]))).toThrow(/unknown kind 3/);
});
