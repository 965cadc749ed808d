import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { age, megabytes, readWorkload, readWorkloads, table } from '../../../src/commands/context.ts';

let dir = '';
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'rekindle-context-'));
});
afterAll(() => rm(dir, { recursive: true, force: true }));

test('columns are as wide as their widest cell, and lines end without spaces', () => {
  expect(
    table([
      ['NAME', 'STATE'],
      ['a', 'live'],
      ['longer', ''],
    ]),
  ).toBe('NAME    STATE\na       live\nlonger');
});

test('columns of numbers stand to the right; digests and addresses among words do not', () => {
  const rows = [
    ['SNAPSHOT', 'SIZE', 'FASTER', 'CLONES'],
    ['3245c79c4c7f', '9.1 MB', '8.1x', '10 of 10'],
    ['904c9df783c7', '116.2 MB', '18.5x', '9 of 10'],
  ];

  expect(table(rows).split('\n')).toEqual([
    'SNAPSHOT          SIZE  FASTER    CLONES',
    '3245c79c4c7f    9.1 MB    8.1x  10 of 10',
    '904c9df783c7  116.2 MB   18.5x   9 of 10',
  ]);
});

test('an empty table is empty', () => {
  expect(table([])).toBe('');
});

test.each([
  [-5, '0 s'],
  [0, '0 s'],
  [119_400, '119 s'],
  [120_000, '2 min'],
  [7_199_000, '120 min'],
  [7_200_000, '2 h'],
  [172_799_000, '48 h'],
  [172_800_000, '2 d'],
])('an age of %i ms reads %s', (ms, text) => {
  expect(age(ms)).toBe(text);
});

test('megabytes are millions of bytes', () => {
  expect([megabytes(0), megabytes(16_181_348), megabytes(1_048_576)]).toEqual(['0.0 MB', '16.2 MB', '1.0 MB']);
});

test('a file that is not there, and one that cannot be read, are told with what to do', async () => {
  await expect(readWorkloads(join(dir, 'none.yaml'))).rejects.toMatchObject({
    code: 'config_invalid',
    message: expect.stringMatching(/there is no .*none\.yaml: name the file with -f/),
  });
  await expect(readWorkloads(dir)).rejects.toMatchObject({ code: 'config_invalid', message: expect.stringContaining('cannot read') });
});

test('a workload that is not in the file is told with those that are, and the nearest', async () => {
  const file = join(dir, 'rekindle.yaml');
  await writeFile(file, 'workloads:\n  web: { container: { rootfs: host, command: [/bin/true] } }\n');

  expect((await readWorkload(file, 'web')).container.command).toEqual(['/bin/true']);
  await expect(readWorkload(file, 'wep')).rejects.toMatchObject({
    code: 'not_found',
    message: expect.stringMatching(/no workload wep: did you mean web\? It has web/),
  });
});
