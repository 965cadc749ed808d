import { expect, test } from 'vitest';
import { exec } from '../../src/lib/exec.ts';
import { installed, kubeconfig } from './fixture/cluster.ts';

const CLI = new URL('../../src/cli.ts', import.meta.url).pathname;

test('rekindle doctor --cluster finds nothing wrong with a fresh installation, and names what is unproven', async () => {
  await installed();

  const { status, stdout, stderr } = await exec(process.execPath, [CLI, 'doctor', '--cluster', '--json'], {
    env: { KUBECONFIG: kubeconfig },
    timeoutMs: 60_000,
  });

  const { ok, facts } = JSON.parse(stdout) as {
    readonly ok: boolean;
    readonly facts: readonly { readonly group: string; readonly name: string; readonly level: string; readonly says: string }[];
  };
  const bad = facts.filter(({ group, level }) => level === 'fail' || (level === 'warn' && group !== 'unproven' && group !== 'pods'));
  expect(bad, stderr).toEqual([]);
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
