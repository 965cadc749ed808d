import fc from 'fast-check';
import { expect, test } from 'vitest';
import { jsonPatch } from '../../../../src/cluster/webhook/json-patch.ts';
import { applyJsonPatch } from '../../../fixtures/fake-patches.ts';

test('a patch makes the one of the other, whatever they are', () => {
  const object = fc.dictionary(fc.string({ maxLength: 3 }), fc.jsonValue({ maxDepth: 3 }), { noNullPrototype: true });
  fc.assert(
    fc.property(object, object, (before, after) => {
      const [a, b]: unknown[] = JSON.parse(JSON.stringify([before, after]));
      expect(applyJsonPatch(structuredClone(a), jsonPatch(a, b))).toEqual(b);
    }),
  );
});

test('it says only what differs', () => {
  const before = { metadata: { labels: { 'a/b': '1', c: '2' } }, spec: { containers: [{ name: 'x', image: 'i' }, { name: 'y' }] } };
  const after = { metadata: { labels: { 'a/b': '3' } }, spec: { containers: [{ name: 'x', image: 'i', tty: true }, { name: 'y' }] } };

  expect(jsonPatch(before, after)).toEqual([
    { op: 'replace', path: '/metadata/labels/a~1b', value: '3' },
    { op: 'remove', path: '/metadata/labels/c' },
    { op: 'add', path: '/spec/containers/0/tty', value: true },
  ]);
  expect(jsonPatch(before, structuredClone(before))).toEqual([]);
});
