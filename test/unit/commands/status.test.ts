import { expect, test } from 'vitest';
import { drawer } from '../../../src/commands/status.ts';
import { type ServiceStatus, serviceText } from '../../../src/commands/status-service.ts';

const aService = (service: Partial<ServiceStatus> = {}): ServiceStatus => ({
  ...{ redis: 'redis://h:1', connected: true, gateways: [], pools: [], nodes: [] },
  ...service,
});

test('a screen is drawn over, as many lines and columns of it as there are', () => {
  let written = '';
  // Escape as a character that can be seen.
  const draw = drawer({ rows: 6, columns: 5, write: (text) => (written += text.replaceAll('\x1b', '^')) });

  draw('one\ntwo three');
  const first = written;
  written = '';
  draw('1\n2\n3\n4\n5\n6');

  expect(first).toMatch(/^\^\[2J\^\[Hone\^\[K\ntwo t\^\[K\n\d\d:\d\d\^\[K\n\^\[J$/);
  expect(written).toMatch(/^\^\[H1\^\[K\n2\^\[K\n3\^\[K\n… 3 m\^\[K\n\d\d:\d\d\^\[K\n\^\[J$/);
});

test('a screen that does not know its size is drawn on as if it were small', () => {
  let written = '';

  drawer({ rows: 0, columns: 0, write: (text) => (written += text) })('one\ntwo');

  expect(written).toContain('one');
  expect(written).toContain('two');
});

test.each([
  [aService({ connected: false }), 'service: Redis at redis://h:1 does not answer'],
  [aService(), 'service: Redis at redis://h:1 answers, but no part of a service has said anything there'],
  [aService({ gateways: ['http://g'] }), 'service: gateway http://g; no scaler leads: nothing more is woken; through redis://h:1'],
  [aService({ gateways: ['http://g'], connected: false }), 'service: Redis at redis://h:1 does not answer; what follows was heard before'],
])('what is missing of a service is said in words', (service, line) => {
  const [first] = serviceText(service);

  expect(first).toBe(line);
});
