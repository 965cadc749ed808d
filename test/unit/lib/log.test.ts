import { expect, test } from 'vitest';
import { createLogForPeople } from '../../../src/lib/log.ts';

test('a person reads warnings and errors as sentences, each once, and nothing less', () => {
  const lines: string[] = [];
  const log = createLogForPeople((line) => lines.push(line));

  log.info('changed');
  log.warn({ image: 'web', tries: 3 }, 'registry not reached');
  for (let i = 0; i < 2; i++) log.child({ component: 'snapshots' }).warn({ snapshot: 'd1', problem: 'one bit is wrong' }, 'removed');
  log.error({ err: new Error('no room') }, 'loop failed');

  expect(lines).toEqual([
    'warning: registry not reached: image web, tries 3\n',
    'warning: removed: one bit is wrong\n',
    'warning: loop failed: no room\n',
  ]);
});

test("the agent's warnings are left out, its errors are not", () => {
  const lines: string[] = [];
  const log = createLogForPeople((line) => lines.push(line)).child({ component: 'agent' });

  log.warn('no snapshot could be made');
  log.error('broken');

  expect(lines).toEqual(['warning: broken\n']);
});
