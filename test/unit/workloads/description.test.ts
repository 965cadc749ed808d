import { expect, test } from 'vitest';
import { parsePolicyProperties } from '../../../src/workloads/configmap.ts';
import { formatDescription, parseDescription } from '../../../src/workloads/description.ts';
import { coldReason } from '../../../src/workloads/normalise.ts';
import { brokenAnywhere, brokenRules } from '../../../src/workloads/rules.ts';

const aDescription = (container: object = {}, restore: object = {}) => parseDescription(JSON.stringify({ container, restore }), 'the pod');

test('a description comes back as it was written, with every default', () => {
  const description = aDescription({ ports: [80], readiness: 'true' }, { identity: 'file' });

  expect(parseDescription(formatDescription(description), 'the pod')).toEqual(description);
  expect(description).toMatchObject({ checkpoint: { keep: 3 }, restore: { deadlineSeconds: 10 }, pool: { max: 10 } });
});

test.each([
  ['', 'is not JSON'],
  ['[]', 'is a list'],
  ['{}', 'lacks `container`'],
  ['{"container":{"ports":["x"]}}', 'container.ports.0'],
  [JSON.stringify({ container: { env: { A: 'x'.repeat(70_000) } } }), 'more than 65536 bytes'],
  ['{"container":{"__proto__":{"ports":[1]}}}', '__proto__'],
  ['{"container":{},"pool":{"min":5,"max":4}}', 'pool.min, which is 5, above max, which is 4'],
])('what the webhook did not write is refused, and the pod named: %s', (text, says) => {
  expect(() => parseDescription(text, 'pod shop/web')).toThrow(
    expect.objectContaining({ code: 'config_invalid', message: expect.stringContaining(says) }),
  );
  expect(() => parseDescription(text, 'pod shop/web')).toThrow(/pod shop\/web/);
});

test.each([
  [
    { warmup: { request: { port: 80 }, count: 1_000_000 } },
    'container.warmup.count, which is 1000000, but must be a whole number from 1 to 100000',
  ],
  [
    { warmup: { request: { port: 80 }, concurrency: 101 } },
    'container.warmup.concurrency, which is 101, but must be a whole number from 1 to 100',
  ],
  [
    { warmup: { command: 'x', timeoutSeconds: 4_000 } },
    'container.warmup.timeoutSeconds, which is 4000, but must be a number above 0, at most 3600',
  ],
  [{ warmup: Array(21).fill('x') }, 'container.warmup, which has 21 entries, but must have at most 20'],
  [{ readiness: { tcp: { port: 80 }, periodSeconds: 4_000 } }, 'container.readiness.periodSeconds, which is 4000'],
  [{ readiness: { tcp: { port: 80 }, initialDelaySeconds: 4_000 } }, 'container.readiness.initialDelaySeconds, which is 4000'],
  [{ readiness: { tcp: { port: 80 }, timeoutSeconds: 4_000 } }, 'container.readiness.timeoutSeconds, which is 4000'],
  [{ readiness: { tcp: { port: 80 }, failureThreshold: 2e9 } }, 'container.readiness.failureThreshold, which is 2000000000'],
  [{ readiness: { tcp: { port: 80 }, successThreshold: 2e9 } }, 'container.readiness.successThreshold, which is 2000000000'],
])('no workload may ask an agent for more than it gives anybody: %j', (container, says) => {
  expect(() => aDescription(container)).toThrow(
    expect.objectContaining({ code: 'config_invalid', message: expect.stringContaining(says) }),
  );
});

test('what agents would not take for its length is not written into a pod', () => {
  const description = aDescription();

  expect(() => formatDescription({ ...description, restore: { ...description.restore, after: 'x'.repeat(70_000) } })).toThrow(
    expect.objectContaining({ code: 'config_invalid', message: expect.stringContaining('more than 65536 bytes') }),
  );
});

test('a reason to start cold is given as it stands, before all others', () => {
  expect(coldReason(aDescription({ instanceEnv: { A: 'pod' } }, { cold: 'because' }))).toBe('because');
  expect(coldReason(aDescription({ instanceEnv: { A: 'pod' } }))).toContain('A differs per instance');
  expect(coldReason(aDescription({}))).toBeUndefined();
});

test('a variable of a pod is for pods only', () => {
  const spec = { name: 'web', ...aDescription({ instanceEnv: { NODE: 'pod' } }) };

  expect(brokenAnywhere(spec)).toEqual([]);
  expect(brokenRules(spec).map(({ path }) => path.join('.'))).toContain('container.instanceEnv.NODE');
});

test('a ConfigMap says what only pods have: pools, jobs, persistent volumes, the deadline of gates', () => {
  const text = 'cr.pool.idleSeconds=5\ncr.restore.jobs=true\ncr.restore.persistentVolumes=true\ncr.checkpoint.gateDeadlineSeconds=7';

  const policy = parsePolicyProperties(text, 'c');

  expect(policy).toMatchObject({
    pool: { idleSeconds: 5, max: 10 },
    restore: { jobs: true, persistentVolumes: true },
    checkpoint: { gateDeadlineSeconds: 7 },
  });
});
