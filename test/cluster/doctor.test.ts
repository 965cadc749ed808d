import { expect, test } from 'vitest';
import { installed } from './fixture/cluster.ts';
import { amiss, doctor } from './fixture/doctor.ts';

test('rekindle doctor --cluster finds nothing wrong with a fresh installation, and names what is unproven', async () => {
  await installed();

  const examined = await doctor();

  const { status, ok, facts, stderr } = examined;
  expect(amiss(examined), stderr).toEqual([]);
  expect([status, ok]).toEqual([0, true]);
  const found = new Map(facts.map(({ group, name, says }) => [`${group}: ${name}`, says]));
  // Really asked: the API server had a pod admitted.
  expect(found.get('webhook: answer')).toBe('a pod that opts in becomes a slot');
  expect(found.get('webhook: certificate')).toContain('by the authority of caBundle');
  expect(found.get('rights: rekindle-agent')).toContain('has what it needs');
  expect([...found.keys()]).toEqual(
    expect.arrayContaining(['unproven: cgroup v2', 'unproven: CRI-O', 'unproven: GKE', 'unproven: SELinux']),
  );
});
