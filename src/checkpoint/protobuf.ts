import { RekindleError } from '../lib/errors.ts';

/**
 * Just enough of the protocol buffers wire format to read CRIU's images and write them back with every unknown field kept (which
 * schema-based libraries drop). Format: protobuf.dev/programming-guides/encoding.
 */
export type Field = { readonly number: number; readonly wire: 0 | 1 | 2 | 5; readonly raw: Buffer; readonly value: bigint | Buffer };

/** The fields of one message, in order. `raw` is the field as it stood, key included. Throws `snapshot_corrupt`. */
export function parseMessage(bytes: Buffer): Field[] {
  const fields: Field[] = [];
  let at = 0;
  const varint = (): bigint => {
    let value = 0n;
    for (let shift = 0n; shift < 70n; shift += 7n) {
      const byte = bytes[at++];
      if (byte === undefined) break;
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    throw new RekindleError('snapshot_corrupt', 'a CRIU image ends within a number');
  };
  while (at < bytes.length) {
    const start = at;
    const key = varint();
    const wire = Number(key & 7n);
    let value: bigint | Buffer;
    if (wire === 0) value = varint();
    else if (wire === 1 || wire === 5 || wire === 2) {
      const length = wire === 2 ? Number(varint()) : wire === 1 ? 8 : 4;
      if (at + length > bytes.length) throw new RekindleError('snapshot_corrupt', 'a CRIU image ends within a field');
      value = bytes.subarray(at, at + length);
      at += length;
    } else throw new RekindleError('snapshot_corrupt', `a CRIU image has a field of unknown kind ${wire}`);
    fields.push({ number: Number(key >> 3n), wire, raw: bytes.subarray(start, at), value });
  }
  return fields;
}

export function encodeVarint(value: bigint): Buffer {
  const bytes: number[] = [];
  let left = value;
  do {
    bytes.push(Number(left & 0x7fn) | (left > 0x7fn ? 0x80 : 0));
    left >>= 7n;
  } while (left > 0n);
  return Buffer.from(bytes);
}

/** A length-delimited field. */
export function encodeBytes(number: number, value: Buffer): Buffer {
  return Buffer.concat([encodeVarint((BigInt(number) << 3n) | 2n), encodeVarint(BigInt(value.length)), value]);
}

/** A varint field. */
export function encodeNumber(number: number, value: bigint): Buffer {
  return Buffer.concat([encodeVarint(BigInt(number) << 3n), encodeVarint(value)]);
}

/** Splits a CRIU image (criu.org/Images) into its header and its entries: 8 bytes of magic, then length-prefixed messages. */
export function splitImage(bytes: Buffer): { header: Buffer; entries: Buffer[] } {
  const entries: Buffer[] = [];
  let at = 8;
  while (at < bytes.length) {
    if (at + 4 > bytes.length) throw new RekindleError('snapshot_corrupt', 'a CRIU image ends within a length');
    const length = bytes.readUInt32LE(at);
    if (at + 4 + length > bytes.length) throw new RekindleError('snapshot_corrupt', 'a CRIU image ends within an entry');
    entries.push(bytes.subarray(at + 4, at + 4 + length));
    at += 4 + length;
  }
  return { header: bytes.subarray(0, 8), entries };
}

export function joinImage(header: Buffer, entries: readonly Buffer[]): Buffer {
  const parts: Buffer[] = [header];
  for (const entry of entries) {
    const length = Buffer.alloc(4);
    length.writeUInt32LE(entry.length);
    parts.push(length, entry);
  }
  return Buffer.concat(parts);
}
