import { readFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { membership, PodGroups } from '../../src/cluster/cgroups.ts';
import { BOX, containerIdOf, missingNodes, nodeInit, somePods } from './node-fixture.ts';

const reason = missingNodes();

test.skipIf(reason !== undefined)('PID 1 of a container is found by its pod, in less than 2 ms', async () => {
  await using pods = await somePods();
  const pod = await pods.start({ containers: [{ name: 'box', image: BOX, command: ['sh', '-c', 'sleep 3600 & sleep 3601 & wait'] }] });
  const [podUid, id] = [pod.metadata?.uid ?? '', containerIdOf(pod)];
  const groups = PodGroups.of(await nodeInit(), () => performance.now());

  const init = groups.init(podUid, id);

  expect((await readFile(`/proc/${init}/cmdline`, 'utf8')).split('\0')).toContain('sleep 3600 & sleep 3601 & wait');
  expect(membership(init ?? 0)).toEqual({ podUid, containerId: id });
  expect(groups.processes(podUid, id)).toHaveLength(3);
  // The pod's sandbox is the second.
  expect(groups.containers(podUid)).toContain(id);
  expect(groups.containers(podUid)).toHaveLength(2);
  const times = Array.from({ length: 100 }, () => {
    const begun = performance.now();
    groups.init(podUid, id);
    return performance.now() - begun;
  });
  expect(times.sort((a, b) => a - b)[50]).toBeLessThan(2);
  await pods.remove(pod);
  expect(groups.init(podUid, id)).toBeUndefined();
});
