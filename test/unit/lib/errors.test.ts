import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { ERRORS, RekindleError, toRekindleError } from '../../../src/lib/errors.ts';

const README = readFileSync(join(import.meta.dirname, '..', '..', '..', 'README.md'), 'utf8');

test.each(Object.entries(ERRORS))('the README lists %s with its exit code and meaning', (code, { exit, meaning }) => {
  expect(README).toContain(`| \`${code}\` | ${exit} | ${meaning} |`);
});

test('every error has an exit code of its own', () => {
  const codes = Object.values(ERRORS).map(({ exit }) => exit);

  expect(new Set(codes).size).toBe(codes.length);
});

test('a full disk is told as such, wherever it shows', () => {
  const error = Object.assign(new Error('write ENOSPC'), { code: 'ENOSPC' });

  expect(toRekindleError(error).code).toBe('disk_full');
});

test('an error of ours stays itself, a foreign one becomes the cause of an internal one', () => {
  const ours = new RekindleError('not_found', 'no such thing');
  const foreign = new Error('boom');

  expect(toRekindleError(ours)).toBe(ours);
  expect(toRekindleError(foreign)).toMatchObject({ code: 'internal', cause: foreign });
});
