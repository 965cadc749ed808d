import { expect, test } from 'vitest';
import { Restorer } from '../../../src/agent/restorer.ts';
import { RestoreHelpers } from '../../../src/checkpoint/restore-helpers.ts';
import { monotonicClock } from '../../../src/lib/clock.ts';
import { spawnDuplex } from '../../../src/lib/exec.ts';
import { parseRekindleFile } from '../../../src/workloads/file.ts';
import type { Host } from '../../../src/workloads/host.ts';
import { never } from '../snapshots/builders.ts';
import { aContainer } from './rig.ts';

function aRestorer(exec: Host['exec']): Restorer {
  const unused = async () => {
    throw new Error('not in this test');
  };
  return new Restorer({
    host: { exec, find: unused, isLeaving: unused, list: unused },
    tools: {
      criu: '',
      helper: '',
      preload: undefined,
      criuRunDir: '',
      hostRoot: '',
      helpers: new RestoreHelpers({ helper: '', spares: 0 }),
    },
    dial: { spawnDuplex, connect: '' },
    largePages: { hold: () => ({ [Symbol.dispose]: () => {} }) },
    clock: monotonicClock,
    workDir: '',
    concurrency: 1,
  });
}

test('a readiness command of a restored instance may take longer than its timeout on a busy node, not than the deadline', async () => {
  const policy =
    '{container: {rootfs: host, command: [x], readiness: {command: check, timeoutSeconds: 0.05}}, restore: {deadlineSeconds: 0.9}}';
  const [workload] = parseRekindleFile(`workloads: {web: ${policy}}`, 'rekindle.yaml', '/');
  if (workload === undefined) throw new Error('no workload');
  const container = aContainer({ uid: 'u', pid: process.pid, workload });
  const takes =
    (ms: number): Host['exec'] =>
    async (_container, _command, { signal }) => {
      await monotonicClock.sleep(ms, signal);
      return { status: 0, output: '' };
    };

  await expect(aRestorer(takes(200)).enliven(container, { ended: new Promise(() => undefined) }, never)).resolves.toBeUndefined();
  await expect(aRestorer(takes(5_000)).enliven(container, { ended: new Promise(() => undefined) }, never)).rejects.toMatchObject({
    code: 'not_ready',
  });
});
