import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Kube } from '../../../src/cluster/kube.ts';
import { systemClock } from '../../../src/lib/clock.ts';
import { silentLog } from '../../../src/lib/log.ts';

const deps = { clock: systemClock, log: silentLog };
let dir: string;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'rekindle-kube-'));
  vi.stubEnv('HOME', dir);
  vi.stubEnv('KUBECONFIG', '');
});
afterEach(async () => {
  vi.unstubAllEnvs();
  await rm(dir, { recursive: true });
});

const NO_CONTEXT = 'apiVersion: v1\nkind: Config\nclusters: []\nusers: []\ncontexts: []\n';

test.each([
  ['nothing says where the API server is', undefined, /neither a kubeconfig nor the service account of a pod: set KUBECONFIG/],
  ['the kubeconfig is no YAML', '{', /the kubeconfig cannot be read/],
  ['the kubeconfig chooses no cluster', NO_CONTEXT, /names no cluster/],
])('when %s that is said, with what to do', async (_, text, says) => {
  const file = join(dir, 'config');
  if (text !== undefined) await writeFile(file, text);

  const open = () => Kube.open(deps, text === undefined ? undefined : file);

  expect(open).toThrow(expect.objectContaining({ code: 'config_invalid', message: expect.stringMatching(says) }));
});

test('an API server that does not answer may answer later', async () => {
  const server = 'https://127.0.0.1:1';
  const config = {
    clusters: [{ name: 'c', cluster: { server } }],
    users: [],
    contexts: [{ name: 'c', context: { cluster: 'c', user: '' } }],
  };
  const file = join(dir, 'config');
  await writeFile(file, JSON.stringify({ ...config, 'current-context': 'c' }));

  const asked = Kube.open(deps, file).minorVersion(AbortSignal.timeout(5_000));

  await expect(asked).rejects.toMatchObject({ code: 'cluster_unavailable', retryable: true });
});
