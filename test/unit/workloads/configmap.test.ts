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
  ['\ncr.checkpoint.keep=many', 'c:2: cr.checkpoint.keep is the text "many", but must be a whole number of at least 1'],
  ['cr.checkpoint.keep=0', 'c:1: cr.checkpoint.keep is 0'],
  ['cr.container.readiness=', 'is an empty text'],
  ['cr.container.readiness', 'has no value: write `key=value`'],
  ['cr.restore.after=a\ncr.restore.after=b', 'c:2: cr.restore.after is given twice, first in line 1'],
  ['cr.restore.identity=fil', 'did you mean `file`?'],
])('%j is refused in words', (text, sentence) => {
  expect(() => parsePolicyProperties(text, 'c')).toThrow(
    expect.objectContaining({ code: 'config_invalid', message: expect.stringContaining(sentence) }),
  );
});
