import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { addressBytes, parseFibTrie, parseIfInet6, rewriteAddresses } from '../../../src/checkpoint/addresses.ts';
import { parseMessage, splitImage } from '../../../src/checkpoint/protobuf.ts';

// Of a dump of test/fixtures/survive/addressed.py: listens on 10.123.26.236:8080, and has a UDP socket from there to 10.123.26.1:9999.
const image = readFileSync(join(import.meta.dirname, '../../fixtures/criu/addressed-files.img'));
const SEED = '10.123.26.236';
const GATEWAY = '10.123.26.1';

/** `source -> target` of every socket of an image, found without the code under test. */
function sockets(bytes: Buffer): string[] {
  return splitImage(bytes).entries.flatMap((entry) => {
    const socket = parseMessage(entry).find(({ number }) => number === 4)?.value;
    if (!Buffer.isBuffer(socket)) return [];
    const fields = parseMessage(socket);
    const one = (number: number) => fields.find((field) => field.number === number)?.value;
    const address = (number: number) => {
      const word = Buffer.alloc(4);
      word.writeUInt32LE(Number(one(number)));
      return word.join('.');
    };
    return [`${one(5) === 6n ? 'tcp' : 'udp'} ${address(11)}:${one(7) === 8080n ? 8080 : 'any'} -> ${address(12)}:${one(8)}`];
  });
}

describe('sockets of an image', () => {
  test('are as the application made them', () => {
    expect(sockets(image).sort()).toEqual([`tcp ${SEED}:8080 -> 0.0.0.0:0`, `udp ${SEED}:any -> ${GATEWAY}:9999`]);
  });

  test('get the address of the slot where they had the seed’s, and nothing else changes', () => {
    const rewritten = rewriteAddresses(image, { own: new Map([[SEED, '10.123.26.7']]) });

    expect(rewritten && sockets(rewritten).sort()).toEqual(['tcp 10.123.26.7:8080 -> 0.0.0.0:0', `udp 10.123.26.7:any -> ${GATEWAY}:9999`]);
    const back = rewritten && rewriteAddresses(rewritten, { own: new Map([['10.123.26.7', SEED]]) });
    expect(back?.equals(image)).toBe(true);
  });

  test('that were connected to the seed itself are connected to the clone itself', () => {
    const rewritten = rewriteAddresses(image, { own: new Map([[GATEWAY, '10.123.26.9']]) });

    expect(rewritten && sockets(rewritten)).toContain(`udp ${SEED}:any -> 10.123.26.9:9999`);
  });

  test('where nothing outside is reached are connected to a place that is', () => {
    const rewritten = rewriteAddresses(image, { own: new Map([[SEED, '192.0.2.2']]), outside: ['fd00::2', '192.0.2.2'] });

    expect(rewritten && sockets(rewritten).sort()).toEqual(['tcp 192.0.2.2:8080 -> 0.0.0.0:0', 'udp 192.0.2.2:any -> 192.0.2.2:9999']);
  });

  test('stay untouched when none has the address', () => {
    expect(rewriteAddresses(image, { own: new Map([['10.0.0.1', '10.0.0.2']]) })).toBeUndefined();
  });
});

test('addresses are bytes in network order', () => {
  expect([...addressBytes('10.1.2.3')]).toEqual([10, 1, 2, 3]);
  expect(addressBytes('fd00::a:b').toString('hex')).toBe('fd0000000000000000000000000a000b');
  expect(addressBytes('::').toString('hex')).toBe('0'.repeat(32));
  expect(addressBytes('1:2:3:4:5:6:7:8').toString('hex')).toBe('00010002000300040005000600070008');
});

test('the kernel’s tables tell the addresses of a network, without loopback, link-local and broadcast', () => {
  const trie = `Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 127.0.0.0/8 2 0 2
        +-- 127.0.0.0/31 1 0 0
           |-- 127.0.0.0
              /8 host LOCAL
           |-- 127.0.0.1
              /32 host LOCAL
     +-- 192.0.2.0/24 2 0 2
        +-- 192.0.2.0/30 2 0 2
           |-- 192.0.2.0
              /24 link UNICAST
           |-- 192.0.2.2
              /32 host LOCAL
        |-- 192.0.2.255
           /32 link BROADCAST
Local:
        |-- 192.0.2.2
           /32 host LOCAL
`;
  const inet6 = `00000000000000000000000000000001 01 80 10 80       lo
fe80000000000000d8a812fffe0aa48b 17b 40 20 80     eth0
fd72656b0a6dc900000000000a6dc901 657 40 00 82     eth0
`;

  expect(parseFibTrie(trie)).toEqual(['192.0.2.2']);
  expect(parseIfInet6(inet6)).toEqual(['fd72:656b:0a6d:c900:0000:0000:0a6d:c901']);
});
