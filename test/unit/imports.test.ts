import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve, sep } from 'node:path';
import { expect, test } from 'vitest';

/**
 * Who may import whom: a folder imports those of the lines below its own, itself, and nothing else of ours. Folders of one line never import
 * each other.
 */
const LEVELS = [
  ['commands'],
  ['agent', 'scaler', 'gateway'],
  ['slots', 'checkpoint', 'probes', 'snapshots', 'queue', 'local', 'cluster'],
  ['workloads', 'pool'],
  ['lib'],
] as const;

const SRC = join(import.meta.dirname, '..', '..', 'src');

function level(folder: string): number {
  return LEVELS.findIndex((folders) => folders.some((name) => name === folder));
}

function importsOf(file: string): string[] {
  const text = readFileSync(file, 'utf8');
  return [...text.matchAll(/(?:from|import)\s*\(?\s*'(\.[^']+)'/g)].map(([, path]) => resolve(dirname(file), path ?? ''));
}

const files = readdirSync(SRC, { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.ts'))
  .map((name) => join(SRC, name));
const folderOf = (file: string) => relative(SRC, file).split(sep).slice(0, -1)[0] ?? '';

test('every folder of src has its place in the table', () => {
  const folders = new Set(files.map(folderOf).filter((folder) => folder !== ''));

  expect(folders.size).toBeGreaterThan(5);
  expect([...folders].filter((folder) => level(folder) < 0)).toEqual([]);
});

test('imports go down only', () => {
  const wrong: string[] = [];
  let seen = 0;
  for (const file of files) {
    const from = folderOf(file);
    if (from === '') continue; // cli.ts and config.ts put everything together
    for (const target of importsOf(file)) {
      seen += 1;
      const to = folderOf(target);
      // config.ts (and package.json, for the version) is what commands hand down, and nobody else's.
      const allowed = to === '' || to === '..' ? from === 'commands' : from === to || level(from) < level(to);
      if (!allowed) wrong.push(`${relative(SRC, file)} imports ${relative(SRC, target)}`);
    }
  }

  expect(seen).toBeGreaterThan(50);
  expect(wrong).toEqual([]);
});

test('only lib/exec.ts starts processes, and only config.ts and cli.ts look at the environment', () => {
  const starts = files.filter((file) => /from 'node:child_process'|from 'execa'/.test(readFileSync(file, 'utf8')));
  const looks = files.filter((file) => /process\.env\b/.test(readFileSync(file, 'utf8')));
  const ends = files.filter((file) => /process\.exit\(/.test(readFileSync(file, 'utf8')));

  expect(starts.map((file) => relative(SRC, file))).toEqual(['lib/exec.ts']);
  expect(looks.map((file) => relative(SRC, file))).toEqual(['cli.ts']);
  expect(ends.map((file) => relative(SRC, file))).toEqual(['cli.ts']);
});
