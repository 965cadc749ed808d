import { join } from 'node:path';
import { beforeAll, expect, test } from 'vitest';
import type { ClusterStatus } from '../../src/commands/status-cluster.ts';
import { exec } from '../../src/lib/exec.ts';
import { installed, kubeconfig } from './fixture/cluster.ts';
import { aNamespace } from './fixture/namespace.ts';
import { aDeployment } from './fixture/workloads.ts';

const ROOT = join(import.meta.dirname, '..', '..');
const space = aNamespace();
beforeAll(() => installed());

/** kubectl with the plugin on its PATH, and nothing else to know the cluster by than a kubeconfig. */
function plugin(...args: readonly string[]) {
  const PATH = [join(ROOT, 'scripts'), join(ROOT, '.build', 'cluster', 'bin'), process.env.PATH].join(':');
  const env = { PATH, HOME: process.env.HOME ?? '/root', KUBECONFIG: kubeconfig };
  return exec('kubectl', ['rekindle', ...args], { env, timeoutMs: 30_000 });
}

test('`kubectl rekindle status` shows pods with how they started, snapshots, and each node with its agent', async () => {
  await space.apply(aDeployment({ name: 'web' }));
  const [pod] = await space.untilReady('app=web');
  const status = await space.until('the snapshot, of all nodes', async () => {
    const { stdout } = await plugin('status', '-n', space.name, '--json');
    const told = JSON.parse(stdout) as ClusterStatus;
    // A node that is busy has at times told nothing for some seconds.
    const isTold = told.pools[0]?.phase === 'ready' && told.nodes.every(({ agent, told: node }) => agent === 'ready' && node !== undefined);
    return told.snapshots.length === 1 && isTold && told;
  });

  const shown = await plugin('status', '-n', space.name);

  expect(shown.status).toBe(0);
  expect(status.pools).toMatchObject([
    { workload: `${space.name}.web`, mode: 'restore', phase: 'ready', pods: [{ uid: pod?.metadata?.uid }] },
  ]);
  expect(status.nodes.length).toBeGreaterThan(0);
  expect(status.nodes.map(({ agent, told }) => [agent, told !== undefined])).toEqual(status.nodes.map(() => ['ready', true]));
  expect(shown.stdout).toMatch(new RegExp(`^${space.name}/web +restore +1 `, 'm'));
  expect(shown.stdout).toMatch(new RegExp(`^${space.name}/${pod?.metadata?.name} +${pod?.spec?.nodeName} +(cold: |seed)`, 'm'));
});

test('a context that there is not is refused with those there are', async () => {
  const { status, stderr } = await plugin('status', '--context', 'elsewhere');

  expect([status, stderr]).toEqual([3, expect.stringContaining('no context elsewhere')]);
});
