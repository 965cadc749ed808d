import { expect, test } from 'vitest';
import { whyIncompatible } from '../../../src/snapshots/compatibility.ts';
import { machine } from './builders.ts';

test('a snapshot fits the machine it was made on, whatever its versions look like', () => {
  expect(whyIncompatible(machine, machine)).toBeUndefined();
  expect(whyIncompatible({ ...machine, kernel: 'strange' }, { ...machine, kernel: 'strange' })).toBeUndefined();
});

test('a machine may have more CPU features and a newer kernel and CRIU', () => {
  const newer = { ...machine, cpuFeatures: ['avx', 'avx2', 'sse2'], kernel: '6.19.0-rc1', criu: '4.10' };

  expect(whyIncompatible(machine, newer)).toBeUndefined();
  expect(whyIncompatible({ ...machine, kernel: '6.18.1-cloud-amd64' }, { ...machine, kernel: '6.18.1+deb14' })).toBeUndefined();
});

test.each([
  [{ arch: 'aarch64' }, 'made for x86_64, this machine is aarch64'],
  [{ cpuFeatures: ['sse2'] }, 'made with CPU features that this machine lacks: avx'],
  [{ kernel: '6.17.99' }, 'made under kernel 6.18.1, this machine runs the older 6.17.99'],
  [{ kernel: '6.18.0' }, 'made under kernel 6.18.1, this machine runs the older 6.18.0'],
  [{ kernel: '5.100' }, 'made under kernel 6.18.1, this machine runs the older 5.100'],
  [{ criu: '4.2' }, 'made by CRIU 4.2.1, this machine has the older 4.2'],
  [{ criu: 'unknown' }, 'made by CRIU 4.2.1, this machine has the older unknown'],
])('a machine with %j does not fit, and the reason says why', (changes, reason) => {
  expect(whyIncompatible(machine, { ...machine, ...changes })).toBe(reason);
});
