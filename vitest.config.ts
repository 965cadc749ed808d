import { defineConfig } from 'vitest/config';

/** Files that disturb rekindle itself, or fill the nodes: after the others, one at a time. */
const ALONE = ['install', 'bursts', 'faults', 'certificates', 'zz-uninstall'].map((name) => `test/cluster/${name}.test.ts`);

/** One cluster for all, after everything else: the machine is its. */
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
    expect: { poll: { timeout: 10_000 } },
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
      { extends: true, test: { ...cluster, name: 'cluster', exclude: ALONE, maxWorkers: 2, sequence: { groupOrder: 1 } } },
      { extends: true, test: { ...cluster, name: 'cluster-alone', include: ALONE, maxWorkers: 1, sequence: { groupOrder: 2 } } },
    ],
  },
});
