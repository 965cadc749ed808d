import { expect, test } from 'vitest';
import { keysOf, soak } from '../../load-tests/soak/rounds.ts';
import { soakWorkload } from '../../load-tests/soak/workload.ts';
import { TestEngine } from '../fixtures/engine.ts';

const MIB = 2 ** 20;

test('thirty restores in a row leave no process, mount, namespace, cgroup, veth, file or descriptor behind', async () => {
  await using engine = await TestEngine.open();

  const { before, after, rssGrowthBytes } = await soak(engine, soakWorkload(), 30);

  const left = keysOf(after).flatMap((what) => (after[what] > before[what] ? [`${what}: ${after[what] - before[what]}`] : []));
  expect(left).toEqual([]);
  expect(rssGrowthBytes / MIB).toBeLessThan(100);
});
