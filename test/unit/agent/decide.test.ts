import { expect, test } from 'vitest';
import { type DecisionFacts, decide } from '../../../src/agent/decide.ts';
import { parseRekindleFile } from '../../../src/workloads/file.ts';

function aWorkload(container = '', restore = '') {
  const [spec] = parseRekindleFile(
    `workloads: {web: {container: {rootfs: host, command: [x]${container}}${restore}}}`,
    'rekindle.yaml',
    '/',
  );
  if (spec === undefined) throw new Error('no workload');
  return spec;
}

function facts(changes: Partial<DecisionFacts<string>> = {}): DecisionFacts<string> {
  return { workload: aWorkload(), restarts: 0, snapshot: undefined, elsewhere: undefined, refusal: undefined, seedRuns: false, ...changes };
}

test('the first of its kind becomes the seed', () => {
  expect(decide(facts())).toEqual({ do: 'seed' });
});

test('a slot for which there is a snapshot is restored, even while another seed runs or after a failed attempt', () => {
  expect(decide(facts({ snapshot: 's', seedRuns: true, refusal: 'once' }))).toEqual({ do: 'restore', snapshot: 's' });
});

test('a snapshot of another node is brought here rather than another one made', () => {
  expect(decide(facts({ elsewhere: 'e', seedRuns: true }))).toEqual({ do: 'pull', digest: 'e' });
  expect(decide(facts({ elsewhere: 'e', snapshot: 's' }))).toEqual({ do: 'restore', snapshot: 's' });
  expect(decide(facts({ elsewhere: 'e', refusal: 'it holds a terminal' }))).toMatchObject({ do: 'cold', why: 'refused' });
});

test('there is one seed at a time', () => {
  expect(decide(facts({ seedRuns: true }))).toMatchObject({ do: 'cold', reason: expect.stringContaining('another container') });
});

test('what was refused is not tried again, and its reason is given', () => {
  expect(decide(facts({ refusal: 'it holds a terminal' }))).toEqual({ do: 'cold', why: 'refused', reason: 'it holds a terminal' });
});

test('a container that was started before is never a clone', () => {
  expect(decide(facts({ snapshot: 's', restarts: 1 }))).toMatchObject({ do: 'cold', reason: expect.stringContaining('restarted') });
});

test('variables that differ per instance mean cold, unless the policy says what to do about them', () => {
  const env = ', instanceEnv: {POD_IP: address}';

  expect(decide(facts({ workload: aWorkload(env), snapshot: 's' }))).toMatchObject({
    do: 'cold',
    reason: expect.stringContaining('POD_IP'),
  });
  expect(decide(facts({ workload: aWorkload(env, ', restore: {identity: file}'), snapshot: 's' }))).toMatchObject({ do: 'restore' });
});
