import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { rekindleJsonSchema } from '../../../src/workloads/json-schema.ts';

type Found = { path: string; schema: Record<string, unknown> };

function properties(node: unknown, path = ''): Found[] {
  if (typeof node !== 'object' || node === null) return [];
  return Object.entries(node).flatMap(([key, value]: [string, unknown]) => {
    const below = properties(value, `${path}/${key}`);
    if (key !== 'properties' || typeof value !== 'object' || value === null) return below;
    return [
      ...Object.entries(value).map(([name, schema]: [string, Record<string, unknown>]) => ({ path: `${path}/${name}`, schema })),
      ...below,
    ];
  });
}

test('every property that an editor offers has a description', () => {
  const found = properties(rekindleJsonSchema());

  expect(found.length).toBeGreaterThan(50);
  expect(found.filter(({ schema }) => typeof schema.description !== 'string').map(({ path }) => path)).toEqual([]);
});

test('nothing with a default is demanded of the user', () => {
  const demanded = JSON.stringify(rekindleJsonSchema()).match(/"required":\[[^\]]*\]/g) ?? [];

  expect(new Set(demanded)).toEqual(
    new Set(
      ['container', 'command', 'http', 'tcp', 'grpc', 'port', 'request', 'at","private', 'at","from']
        .map((keys) => `"required":["${keys}"]`)
        .concat('"required":["workloads"]'),
    ),
  );
});

test('the schema that editors load is the one of this source', () => {
  const kept = readFileSync(join(import.meta.dirname, '..', '..', '..', 'src', 'workloads', 'rekindle.schema.json'), 'utf8');

  expect(JSON.parse(kept)).toEqual(rekindleJsonSchema());
});
