import { expect, test } from 'vitest';
import { parseLabelSelector, selects } from '../../../src/scaler/label-selector.ts';

const LABELS = { workload: 'web', 'app.kubernetes.io/name': 'shop' };

test.each([
  ['', true],
  ['workload=web', true],
  ['workload==web', true],
  ['workload = web', true],
  ['workload=api', false],
  ['workload!=api', true],
  ['workload!=web', false],
  ['other!=web', true],
  ['workload in (web,api)', true],
  ['workload in (api, db)', false],
  ['workload notin (api,db),app.kubernetes.io/name=shop', true],
  ['other notin (x)', true],
  ['workload,!other', true],
  ['!workload', false],
  ['workload=', false],
  ['workload=web,workload=api', false],
])('%o selects the labels: %s', (text, expected) => {
  const selector = parseLabelSelector(text);

  expect(selector && selects(selector, LABELS)).toBe(expected);
});

test.each([
  'workload=web=api',
  'workload in web',
  'workload in (a',
  '=web',
  'a,,b',
  'a b',
  'workload in (a b)',
  '-x=y',
])('%o is no selector', (text) => {
  expect(parseLabelSelector(text)).toBeUndefined();
});
