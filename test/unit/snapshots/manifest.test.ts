import { posix } from 'node:path';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { MAX_ENTRIES, MAX_MANIFEST_BYTES, parseManifest, whyBadPath } from '../../../src/snapshots/manifest.ts';
import { someFacts } from './builders.ts';

const dir = (path: string) => ({ type: 'dir', path, mode: 0o755, uid: 0, gid: 0, mtimeMs: 0 });
const sound = (changes: object = {}) => ({ schema: 1, ...someFacts(), totalBytes: 0, files: [dir('files/data')], ...changes });
const bytes = (value: unknown) => Buffer.from(JSON.stringify(value));

test('a manifest comes back as it was written, and keys of a later rekindle do no harm', () => {
  expect(parseManifest(bytes(sound()), 'here')).toEqual(sound());
  expect(() => parseManifest(bytes(sound({ later: { more: true } })), 'here')).not.toThrow();
});

test('another schema version is incompatible, not corrupt', () => {
  expect(() => parseManifest(bytes({ schema: 2 }), 'here')).toThrow(
    expect.objectContaining({ code: 'snapshot_incompatible', message: expect.stringContaining('schema 2') }),
  );
});

test.each<[string, Uint8Array]>([
  ['is empty', Buffer.alloc(0)],
  ['is no object', bytes(null)],
  ['is not UTF-8', Buffer.from([0x22, 0xff, 0x22])],
  ['is cut off', bytes(sound()).subarray(0, -1)],
  ['is huge', Buffer.alloc(MAX_MANIFEST_BYTES + 1, ' ')],
  [
    'has a negative size',
    bytes(sound({ files: [dir('files/data'), { ...dir('files/x'), type: 'file', size: -1, sha256: '0'.repeat(64) }] })),
  ],
  ['has a device', bytes(sound({ files: [dir('files/data'), { ...dir('files/x'), type: 'device' }] }))],
  ['has more mode bits than there are', bytes(sound({ files: [{ ...dir('files/data'), mode: 0o10000 }] }))],
  ['has the owner that means "none"', bytes(sound({ files: [{ ...dir('files/data'), uid: 4_294_967_295 }] }))],
  [
    'has too many entries',
    bytes(sound({ files: Array.from({ length: MAX_ENTRIES + 1 }, (_, i) => dir(`files/${String(i).padStart(9, '0')}`)) })),
  ],
  ['lacks the directory of a volume', bytes(sound({ files: [] }))],
])('a manifest that %s is corrupt, and the message says where', (_what, raw) => {
  expect(() => parseManifest(raw, '/store/abc')).toThrow(
    expect.objectContaining({ code: 'snapshot_corrupt', message: expect.stringContaining('/store/abc') }),
  );
});

test('the first fault is named', () => {
  expect(() => parseManifest(bytes(sound({ specHash: 7 })), 'here')).toThrow(/\/specHash must be string/);
});

test('whatever the segments, a good path stays below its tree', () => {
  const segment = fc.oneof(fc.constantFrom('', '.', '..', '/', 'a', 'files', '\0'), fc.string({ unit: 'binary', maxLength: 5 }));
  fc.assert(
    fc.property(fc.constantFrom('files', 'images', '', '..', 'etc'), fc.array(segment, { maxLength: 5 }), (root, rest) => {
      const path = [root, ...rest].join('/');

      if (whyBadPath(path) !== undefined) return;
      expect(posix.normalize(path)).toBe(path);
      expect(path).toMatch(/^(files|images)\/./s);
      expect(Buffer.from(path).toString()).toBe(path);
    }),
    { numRuns: 2000 },
  );
});
