import { expect, test } from 'vitest';
import { parsePolicyProperties } from '../../../src/workloads/configmap.ts';

test('the text of the talk is read as written there, stray spaces and all', () => {
  const text =
    '  cr.checkpoint.name = checkpoint  \r\n\r\n# who\n! what\ncr.checkpoint.directory=demo\n\tcr.container.readiness=curl -s -o /dev/null localhost:4000?a=b ';

  const policy = parsePolicyProperties(text, 'ConfigMap shop/web');

  expect(policy.checkpoint).toMatchObject({ name: 'checkpoint', directory: 'demo', keep: 3 });
  expect(policy.container).toEqual({ readiness: 'curl -s -o /dev/null localhost:4000?a=b' });
  expect(policy.restore).toMatchObject({ deadlineSeconds: 10 });
});

test('numbers and booleans are what the policy wants them to be', () => {
  const policy = parsePolicyProperties(
    'cr.restore.mergeMemory=true\ncr.checkpoint.keep=5\ncr.restore.after=true\ncr.checkpoint.name=007',
    'c',
  );

  expect(policy.restore).toMatchObject({ mergeMemory: true, after: 'true' });
  expect(policy.checkpoint).toMatchObject({ keep: 5, name: '007' });
});

test.each([
  ['cr.container.readyness=x', 'c:1: cr.container.readyness is not a known key; did you mean `cr.container.readiness`?'],
  ['\ncr.checkpoint.keep=many', 'c:2: cr.checkpoint.keep is the text "many", but must be a whole number from 1 to 100'],
  ['cr.checkpoint.keep=0', 'c:1: cr.checkpoint.keep is 0'],
  ['cr.container.readiness=', 'is an empty text'],
  ['cr.container.readiness', 'has no value: write `key=value`'],
  ['cr.restore.after=a\ncr.restore.after=b', 'c:2: cr.restore.after is given twice, first in line 1'],
  ['cr.restore.identity=fil', 'did you mean `file`?'],
  ['cr.checkpoint.keep=101', 'c:1: cr.checkpoint.keep is 101, but must be a whole number from 1 to 100'],
  ['cr.checkpoint.deadlineSeconds=86400', 'c:1: cr.checkpoint.deadlineSeconds is 86400, but must be a number above 0, at most 3600'],
  ['cr.checkpoint.gateDeadlineSeconds=86400', 'cr.checkpoint.gateDeadlineSeconds is 86400, but must be a number above 0, at most 3600'],
  ['cr.restore.deadlineSeconds=601', 'c:1: cr.restore.deadlineSeconds is 601, but must be a number above 0, at most 600'],
  ['cr.pool.maxWaiting=1000000', 'c:1: cr.pool.maxWaiting is 1000000, but must be a whole number from 0 to 10000'],
  ['cr.pool.max=10001', 'c:1: cr.pool.max is 10001, but must be a whole number from 1 to 10000'],
  ['cr.pool.deadlineSeconds=3601', 'c:1: cr.pool.deadlineSeconds is 3601, but must be a number above 0, at most 3600'],
  [`cr.container.warmup=${'x'.repeat(70_000)}`, 'c has more than 65536 bytes of properties'],
])('%j is refused in words', (text, sentence) => {
  expect(() => parsePolicyProperties(text, 'c')).toThrow(
    expect.objectContaining({ code: 'config_invalid', message: expect.stringContaining(sentence) }),
  );
});

test('a text of nothing but mistakes costs no more than the first of them, and names none at full length', () => {
  const text = `cr.${'x'.repeat(1_000)}=1\n`.repeat(60);

  expect(() => parsePolicyProperties(text, 'c')).toThrow(
    expect.objectContaining({ code: 'config_invalid', message: expect.stringMatching(/^c has 20 problems:\n {2}c:1: cr\.x{54}\.\.\. is/) }),
  );
});
