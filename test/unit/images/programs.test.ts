import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const ROOT = join(import.meta.dirname, '../../..');
/** Type of a program header (elf(5)). */
const PT_INTERP = 3;

/** Whether a program asks for a dynamic loader. 64-bit, little-endian. */
function isStatic(path: string): boolean {
  const elf = readFileSync(path);
  expect(elf.subarray(0, 6).toString('latin1')).toBe('\x7fELF\x02\x01');
  const [at, size, count] = [Number(elf.readBigUInt64LE(32)), elf.readUInt16LE(54), elf.readUInt16LE(56)];
  return Array.from({ length: count }, (_, i) => elf.readUInt32LE(at + i * size)).every((type) => type !== PT_INTERP);
}

test.each(['slot/slot', 'agent/helper'])('%s needs nothing of the container or machine that it runs in', (name) => {
  expect(isStatic(join(ROOT, '.build', name))).toBe(true);
});

test('the slot, which every container gets, is as small as the README says', () => {
  const { size } = statSync(join(ROOT, '.build/slot/slot'));
  const said = Number(/as PID 1 \((\d+) KB\)/.exec(readFileSync(join(ROOT, 'README.md'), 'utf8'))?.[1]);

  expect(size).toBeLessThan(100_000);
  expect(said * 1000).toBeGreaterThan(size * 0.95);
  expect(said * 1000).toBeLessThan(size * 1.2);
});
