import { defineConfig } from 'vitest/config';

/** Tests that run among the processes of a node of the test cluster, as its agent does; host.test.ts starts them there. */
export default defineConfig({
  test: { include: ['test/cluster/inside/*.test.ts'], testTimeout: 60_000, hookTimeout: 120_000, maxWorkers: 1 },
});
