import { expect, test } from 'vitest';
import { Restorer } from '../../../src/agent/restorer.ts';
import { RestoreHelpers } from '../../../src/checkpoint/restore-helpers.ts';
import { monotonicClock } from '../../../src/lib/clock.ts';
import { spawnDuplex } from '../../../src/lib/exec.ts';
import { parseRekindleFile } from '../../../src/workloads/file.ts';
import type { Container, Host } from '../../../src/workloads/host.ts';
import { never } from '../snapshots/builders.ts';

function aContainer(policy: string): Container {
  // Port 1 of this machine's loopback: nobody listens there.
  const [workload] = parseRekindleFile(
    `workloads: { web: { container: { rootfs: host, command: [x], ports: [1] }, restore: { ${policy} } } }`,
    'rekindle.yaml',
  );
  if (workload === undefined) throw new Error('no workload');
  const facts = { restarts: 0, addresses: ['127.0.0.1'], imageDigest: 'host', volumes: [], createdAtMs: 0 };
  return { uid: 'u', name: 'web-1', workload, pid: process.pid, ...facts };
}

function aRestorer(): Restorer {
  const host: Host = {
    find: async () => undefined,
    isLeaving: async () => false,
    list: async () => [],
    exec: (_container, _command, { signal }) =>
      new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason), { once: true })),
  };
  const tools = {
    criu: '',
    helper: '',
    preload: undefined,
    criuRunDir: '',
    hostRoot: '',
    helpers: new RestoreHelpers({ helper: '', spares: 0 }),
  };
  const largePages = { hold: () => ({ [Symbol.dispose]: () => {} }) };
  return new Restorer({ host, tools, largePages, clock: monotonicClock, workDir: '/', concurrency: 1, dial: { spawnDuplex, connect: '' } });
}

test.each([
  ['is asked whether it is ready', ''],
  ['runs its hook', 'after: "sleep 60"'],
])('an application that ends while it %s is told as that at once', async (_when, policy) => {
  const ended = Promise.withResolvers<number | undefined>();
  const live = aRestorer().enliven(aContainer(policy), { ended: ended.promise }, never);
  const from = performance.now();

  setTimeout(() => ended.resolve(3), 30);

  await expect(live).rejects.toMatchObject({
    code: 'container_failed',
    message: 'the application ended with status 3 as soon as it was restored',
  });
  expect(performance.now() - from).toBeLessThan(2_000);
});

test('one that does not get ready has until its deadline', async () => {
  const live = aRestorer().enliven(aContainer('deadlineSeconds: 0.2'), { ended: new Promise(() => {}) }, never);

  await expect(live).rejects.toMatchObject({ code: 'not_ready', message: expect.stringContaining('TCP port 1') });
});
