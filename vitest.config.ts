import { defineConfig } from 'vitest/config';

/** Files that disturb rekindle itself, or fill the nodes: one at a time, after the others or on a cluster of their own (scripts/test). */
const FAULTS = ['test/cluster/faults.test.ts', 'test/cluster/bursts.test.ts'];
const INSTALL = ['install', 'certificates', 'uninstall'].map((name) => `test/cluster/${name}.test.ts`);

/** After everything else: the machine is its. */
const cluster = {
  include: ['test/cluster/*.test.ts'],
  globalSetup: ['test/cluster/fixture/global-setup.ts'],
  setupFiles: ['test/cluster/fixture/bring-up.ts'],
  testTimeout: 120_000,
  hookTimeout: 300_000,
  // Of tests that mostly wait.
  maxConcurrency: 3,
};

export default defineConfig({
  test: {
    testTimeout: 60_000,
    hookTimeout: 120_000,
    // A machine that builds other things beside may keep one from its deadline; which one is said at the end.
    retry: process.env.CI === undefined ? 0 : 1,
    reporters: ['default', './test/reporter.ts'],
    projects: [
      {
        extends: true,
        test: {
          name: 'machine',
          include: ['test/**/*.test.ts'],
          exclude: ['test/cluster/**'],
          // Integration tests start real containers: two at a time is what two cores carry without disturbing each other's deadlines.
          maxWorkers: 2,
          sequence: { groupOrder: 0 },
        },
      },
      {
        extends: true,
        test: { ...cluster, name: 'cluster', exclude: [...FAULTS, ...INSTALL], maxWorkers: 2, sequence: { groupOrder: 1 } },
      },
      { extends: true, test: { ...cluster, name: 'cluster-faults', include: FAULTS, maxWorkers: 1, sequence: { groupOrder: 2 } } },
      { extends: true, test: { ...cluster, name: 'cluster-install', include: INSTALL, maxWorkers: 1, sequence: { groupOrder: 3 } } },
    ],
  },
});
