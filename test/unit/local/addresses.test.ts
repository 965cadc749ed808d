import { mkdtemp, readdir, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { AddressPool, addressesAt, parseSubnet } from '../../../src/local/addresses.ts';

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(path.join(os.tmpdir(), 'rekindle-addresses-'));
});
afterEach(async () => {
  await rm(dir, { recursive: true });
});

test('a subnet begins where its prefix says', () => {
  expect(parseSubnet('10.87.3.9/16')).toEqual({ base: 0x0a570000, prefix: 16 });
});

test.each(['10.87.0.0', '10.87.0.0/30', '10.87.0.0/7', '10.256.0.0/16', 'fd00::/64', ''])('%s is no subnet', (text) => {
  expect(() => parseSubnet(text)).toThrow(expect.objectContaining({ code: 'usage' }));
});

test('the addresses of one container carry the same number', () => {
  const addresses = addressesAt(parseSubnet('10.87.0.0/16'), 258);

  expect(addresses).toEqual({
    v4: '10.87.1.2',
    v6: 'fd72:656b:a57::a57:102',
    prefix: 16,
    gateway4: '10.87.0.1',
    gateway6: 'fd72:656b:a57::a57:1',
    mac: '02:52:0a:57:01:02',
  });
});

test('several pools over one directory never give an address twice, nor the network, bridge or broadcast address', async () => {
  const subnet = parseSubnet('10.0.0.0/28');
  const pools = [0, 0.3, 0.9].map((at) => new AddressPool({ dir, subnet, random: () => at }));

  const taken = await Promise.all(Array.from({ length: 13 }, (_, i) => pools[i % 3]?.take(`uid-${i}`)));

  const numbers = taken.map((addresses) => Number(addresses?.v4.split('.')[3])).sort((a, b) => a - b);
  expect(numbers).toEqual([2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]);
  await expect(pools[0]?.take('one-more')).rejects.toMatchObject({ code: 'machine_unsupported' });
});

test('an address is given back only by whom it belongs to, and used again as late as possible', async () => {
  const pool = new AddressPool({ dir, subnet: parseSubnet('10.0.0.0/28'), random: () => 0 });
  const first = await pool.take('a');

  await pool.free(first.v4, 'b');
  expect(await readdir(dir)).toEqual([first.v4]);
  await pool.free(first.v4, 'a');
  await pool.free(first.v4, 'a');

  expect(await readdir(dir)).toEqual([]);
  expect((await pool.take('c')).v4).not.toBe(first.v4);
});

test('addresses of containers that are gone are freed', async () => {
  const pool = new AddressPool({ dir, subnet: parseSubnet('10.0.0.0/28') });
  await pool.take('gone');
  const kept = await pool.take('here');

  await pool.freeAllBut((uid) => uid === 'here');

  expect(await readdir(dir)).toEqual([kept.v4]);
});
