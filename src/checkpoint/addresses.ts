import { readFileSync } from 'node:fs';
import { encodeBytes, encodeNumber, type Field, joinImage, parseMessage, splitImage } from './protobuf.ts';

// Field numbers of criu/images/fdinfo.proto (file_entry) and sk-inet.proto (inet_sk_entry).
const FILE_ENTRY_INET = 4;
const INET_FAMILY = 3;
const INET_PROTOCOL = 5;
const INET_DST_PORT = 8;
const INET_SRC_ADDR = 11;
const INET_DST_ADDR = 12;
const IPPROTO_TCP = 6n;
const FAMILY_BYTES: Readonly<Record<string, number>> = { '2': 4, '10': 16 };

export type AddressChange = {
  /** An address of the seed's to the one (of the same family) to put in its place. */
  readonly own: ReadonlyMap<string, string>;
  /**
   * Where nothing outside can be reached, which is so in a trial: addresses of this place, one of which stands for all that is outside, because
   * a socket cannot be connected to what has no route.
   */
  readonly outside?: readonly string[];
};

/**
 * Rewrites the addresses of sockets in a `files.img`: one bound to the seed's own address could not be bound in a clone, which has another,
 * and one connected to it would reach the seed. Connections of TCP stay as they are, they are closed anyway. Returns undefined when there is
 * nothing to change.
 */
export function rewriteAddresses(image: Buffer, change: AddressChange): Buffer | undefined {
  const own = new Map([...change.own].map(([from, to]) => [addressBytes(from).toString('hex'), addressBytes(to)]));
  const outside = (change.outside ?? []).map(addressBytes);
  const { header, entries } = splitImage(image);
  let changed = false;
  const rewriteSocket = (field: Field): Buffer => {
    if (field.number !== FILE_ENTRY_INET || !Buffer.isBuffer(field.value)) return field.raw;
    const socket = parseMessage(field.value);
    const source = addressIn(socket, INET_SRC_ADDR);
    const target = connectedTo(socket);
    const newSource = source && own.get(source.toString('hex'));
    const newTarget = target && (own.get(target.toString('hex')) ?? (isLoopback(target) ? undefined : outside.find(sameFamily(target))));
    if (newSource === undefined && newTarget === undefined) return field.raw;
    changed = true;
    const moved = newSource === undefined ? socket : withAddress(socket, INET_SRC_ADDR, newSource);
    const both = newTarget === undefined ? moved : withAddress(moved, INET_DST_ADDR, newTarget);
    return encodeBytes(FILE_ENTRY_INET, Buffer.concat(both.map(({ raw }) => raw)));
  };
  const rewritten = entries.map((entry) => {
    const fields = parseMessage(entry);
    return fields.some(({ number }) => number === FILE_ENTRY_INET) ? Buffer.concat(fields.map(rewriteSocket)) : entry;
  });
  return changed ? joinImage(header, rewritten) : undefined;
}

/** The addresses of the network namespace of `pid` as its kernel tells them, without loopback and link-local ones. Throws when it is gone. */
export function addressesOf(pid: number): string[] {
  return [
    ...parseFibTrie(readFileSync(`/proc/${pid}/net/fib_trie`, 'utf8')),
    ...parseIfInet6(readFileSync(`/proc/${pid}/net/if_inet6`, 'utf8')),
  ];
}

/** The machine's own IPv4 addresses in the text of /proc/PID/net/fib_trie: those whose /32 route is a local one. */
export function parseFibTrie(text: string): string[] {
  const found = [...text.matchAll(/\|-- (\S+)\n\s+\/32 host LOCAL/g)].map(([, address = '']) => address);
  return [...new Set(found)].filter((address) => !address.startsWith('127.'));
}

const SCOPE_GLOBAL = '00';

/** The IPv6 addresses of global scope in the text of /proc/PID/net/if_inet6. */
export function parseIfInet6(text: string): string[] {
  return text.split('\n').flatMap((line) => {
    const [hex, , , scope] = line.split(/\s+/);
    return hex?.length === 32 && scope === SCOPE_GLOBAL ? [(hex.match(/.{4}/g) ?? []).join(':')] : [];
  });
}

/** The bytes of an address in network order. */
export function addressBytes(address: string): Buffer {
  if (address.includes('.') && !address.includes(':')) return Buffer.from(address.split('.').map(Number));
  const [head = '', tail] = address.split('::');
  const words = (part: string) => (part === '' ? [] : part.split(':'));
  const front = words(head);
  const back = tail === undefined ? [] : words(tail);
  const all = [...front, ...Array<string>(8 - front.length - back.length).fill('0'), ...back];
  const bytes = Buffer.alloc(16);
  all.forEach((word, i) => {
    bytes.writeUInt16BE(Number.parseInt(word, 16), i * 2);
  });
  return bytes;
}

// CRIU keeps an address as the 32-bit words that the kernel has, read in the machine's byte order (little-endian on what we run on).
function addressIn(socket: readonly Field[], which: number): Buffer | undefined {
  const length = FAMILY_BYTES[String(valueIn(socket, INET_FAMILY))];
  const words = socket.filter(({ number }) => number === which);
  if (length === undefined || words.length * 4 < length) return undefined;
  const bytes = Buffer.alloc(length);
  words.slice(0, length / 4).forEach((word, i) => {
    if (typeof word.value === 'bigint') bytes.writeUInt32LE(Number(word.value & 0xffffffffn), i * 4);
  });
  return bytes;
}

function connectedTo(socket: readonly Field[]): Buffer | undefined {
  if (valueIn(socket, INET_PROTOCOL) === IPPROTO_TCP || valueIn(socket, INET_DST_PORT) === 0n) return undefined;
  return addressIn(socket, INET_DST_ADDR);
}

function valueIn(socket: readonly Field[], wanted: number): Field['value'] | undefined {
  return socket.find(({ number }) => number === wanted)?.value;
}

function withAddress(socket: readonly Field[], which: number, address: Buffer): Field[] {
  let word = 0;
  return socket.map((field) => {
    if (field.number !== which || word * 4 >= address.length) return field;
    const value = BigInt(address.readUInt32LE(word++ * 4));
    return { ...field, value, raw: encodeNumber(which, value) };
  });
}

const sameFamily = (address: Buffer) => (other: Buffer) => other.length === address.length;

function isLoopback(address: Buffer): boolean {
  return address.length === 4 ? address[0] === 127 : address.equals(addressBytes('::1'));
}
