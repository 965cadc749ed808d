import fc from 'fast-check';
import { expect, test } from 'vitest';
import { RekindleError } from '../../../src/lib/errors.ts';
import { checkJob } from '../../../src/queue/job-worker.ts';
import { JOBS, jobId, priorityOf } from '../../../src/queue/jobs.ts';

const restore = { name: 'restore', data: { slot: 's', parks: 3, workload: 'web', why: 'waiting' } } as const;

test('an id says what the job does, and another life of a slot is another job', () => {
  expect(jobId(restore)).toBe('restore.s.3');
  expect(jobId({ name: 'remove', data: { slot: 's', parks: 4, park: true, why: 'idle' } })).toBe('remove.s.4');
  expect(jobId({ name: 'pull', data: { workload: 'web', digest: 'd', from: 'b' } })).toBe('pull.d');
});

test('a request that waits comes before everything, and what only brings snapshots nearer comes last', () => {
  const others = Object.values(JOBS).map(({ priority }) => priority);

  expect(priorityOf(restore)).toBeLessThan(Math.min(...others));
  expect(JOBS.pull.priority).toBe(Math.max(...others));
});

test('a job that fits its schema is taken as it is', () => {
  expect(checkJob('restore', restore.data)).toEqual(restore);
});

test('any other says what is wrong with it', () => {
  expect(() => checkJob('restore', { ...restore.data, parks: -1 })).toThrow(/restore has wrong data: \/parks/);
  expect(() => checkJob('toString', {})).toThrow('there is no job toString');
});

test('no data crashes the check', () => {
  const names = fc.oneof(fc.constantFrom(...Object.keys(JOBS), '__proto__', 'constructor'), fc.string());
  fc.assert(
    fc.property(names, fc.oneof(fc.anything(), fc.object({ key: fc.constantFrom('slot', 'parks', 'workload', 'why') })), (name, data) => {
      try {
        expect(checkJob(name, data)).toEqual({ name, data });
      } catch (error) {
        expect(error).toBeInstanceOf(RekindleError);
      }
    }),
    { numRuns: 5_000 },
  );
});
