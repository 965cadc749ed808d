import fc from 'fast-check';
import { expect, test } from 'vitest';
import { RekindleError } from '../../../src/lib/errors.ts';
import { parseRedisUrl } from '../../../src/queue/redis-url.ts';

test('a host, a port, a database', () => {
  expect(parseRedisUrl('redis://cache')).toMatchObject({ kind: 'single', options: { host: 'cache', port: 6379 } });
  expect(parseRedisUrl('redis://cache:7000/3')).toMatchObject({ options: { host: 'cache', port: 7000, db: 3 } });
  expect(parseRedisUrl('redis://[::1]:7000')).toMatchObject({ options: { host: '::1', port: 7000 } });
});

test('a password, with a user or without, is decoded and is not in the name', () => {
  const alone = parseRedisUrl('redis://:p%40ss@cache');
  const withUser = parseRedisUrl('rediss://me:secret@cache:1/2');

  expect(alone.options).toMatchObject({ password: 'p@ss' });
  expect(alone.options.username).toBeUndefined();
  expect(withUser).toMatchObject({ name: 'rediss://cache:1/2', options: { username: 'me', password: 'secret', tls: {} } });
});

test('a unix socket by its path', () => {
  expect(parseRedisUrl('/run/redis.sock')).toMatchObject({ name: 'unix:/run/redis.sock', options: { path: '/run/redis.sock' } });
  expect(parseRedisUrl('unix:/run/my redis.sock?db=2')).toMatchObject({ options: { path: '/run/my redis.sock', db: 2 } });
});

test('sentinels with the name of their master, over TLS too', () => {
  const { options } = parseRedisUrl('rediss+sentinel://:pw@s1,s2:1234/main/1');

  expect(options).toMatchObject({ name: 'main', db: 1, password: 'pw', tls: {}, enableTLSForSentinelMode: true });
  expect(options.sentinels).toEqual([
    { host: 's1', port: 26379 },
    { host: 's2', port: 1234 },
  ]);
});

test('a cluster by some of its nodes', () => {
  const target = parseRedisUrl('redis+cluster://n1,n2:7001');

  expect(target).toMatchObject({
    kind: 'cluster',
    nodes: [
      { host: 'n1', port: 6379 },
      { host: 'n2', port: 7001 },
    ],
  });
});

test.each([
  '',
  'cache:6379',
  'http://cache',
  'redis://',
  'redis://a,b',
  'redis://cache:0',
  'redis://cache:99999',
  'redis://cache/one',
  'redis://cache/1/2',
  'redis://user@cache',
  'redis+sentinel://s1',
  'redis+cluster://n1/2',
  `unix:/${'x'.repeat(120)}`,
  'redis://:%zz@cache',
])('%s is refused with the forms there are', (url) => {
  expect(() => parseRedisUrl(url)).toThrow(
    expect.objectContaining({ code: 'config_invalid', message: expect.stringContaining('redis+sentinel://') }),
  );
});

test('no text makes it fail otherwise, and no password is in a message', () => {
  const parts = fc.constantFrom(
    'redis',
    'rediss',
    '+sentinel',
    '+cluster',
    '://',
    ':',
    '@',
    '/',
    ',',
    'h',
    '1',
    '%',
    '?',
    'unix',
    '[',
    ']',
  );
  fc.assert(
    fc.property(fc.array(fc.oneof(parts, fc.string()), { maxLength: 12 }), (pieces) => {
      try {
        expect(parseRedisUrl(pieces.join('')).kind).toMatch(/single|cluster/);
      } catch (error) {
        expect(error).toBeInstanceOf(RekindleError);
      }
    }),
    { numRuns: 5_000 },
  );
  expect(() => parseRedisUrl('redis://:hunter2@cache/one')).toThrow(
    expect.not.objectContaining({ message: expect.stringContaining('hunter2') }),
  );
});
