import type { Reporter, TestModule } from 'vitest/node';

/** Ends a run with one plain line, `N passed, N failed, N skipped`, and lists why tests were skipped, and which passed only when they were tried again, with what failed at first. */
export default class PlainTotals implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], errors: readonly unknown[]): void {
    const totals = { passed: 0, failed: errors.length, skipped: 0 };
    for (const module of modules) {
      if (module.errors().length > 0) totals.failed += 1;
      for (const test of module.children.allTests()) {
        const { state } = test.result();
        const tries = 1 + (test.diagnostic()?.retryCount ?? 0);
        if (state === 'passed' && tries > 1) {
          console.log(`passed at try ${tries}: ${test.fullName}`);
          for (const { message } of test.result().errors ?? [])
            console.log(`  at first: ${message.slice(0, 2_000).replaceAll('\n', '\n    ')}`);
        }
        if (state === 'passed') totals.passed += 1;
        else if (state === 'failed') totals.failed += 1;
        else {
          totals.skipped += 1;
          const result = test.result();
          console.log(`skipped: ${test.fullName}${'note' in result && result.note ? `: ${result.note}` : ''}`);
        }
      }
    }
    console.log(`${totals.passed} passed, ${totals.failed} failed, ${totals.skipped} skipped`);
  }
}
