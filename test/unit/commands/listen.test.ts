import { expect, test } from 'vitest';
import { listenText, parseListen } from '../../../src/commands/listen.ts';

test.each([
  ['7070', '127.0.0.1', 7070],
  ['localhost:0', '127.0.0.1', 0],
  ['0.0.0.0:80', '0.0.0.0', 80],
  ['[::1]:65535', '::1', 65_535],
])('%s is an address to listen on', (text, host, port) => {
  expect(parseListen(text)).toEqual({ host, port });
  expect(parseListen(listenText({ host, port }))).toEqual({ host, port });
});

test.each(['', 'web', '65536', '::1:80', 'example.org:80', '127.0.0.1', '127.0.0.1:-1', '[::1]', ':80'])('%j is none', (text) => {
  expect(() => parseListen(text)).toThrow(/Give PORT/);
});
