import { readFileSync, writeFileSync } from 'node:fs';
import { relative } from 'node:path';
import type { Reporter, TestModule } from 'vitest/node';

type Counts = { passed: number; failed: number; skipped: number };

/** What a run leaves for one that repeats files of it. */
type Outcome = {
  /** By file, relative to the project. */
  readonly files: Readonly<Record<string, Counts>>;
  /** Errors that belong to no file. */
  readonly errors: number;
  /** The tests that failed, by name, and how. */
  readonly failures: Readonly<Record<string, string>>;
};

/**
 * Ends a run with one plain line, `N passed, N failed, N skipped`, and lists why tests were skipped. `scripts/test` runs files in which a test failed once
 * more: the first run leaves its outcome in the file of REKINDLE_OUTCOME, the second one reads it there (REKINDLE_BEFORE), counts both together and lists
 * the tests that passed only then, with how they failed at first.
 */
export default class PlainTotals implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], errors: readonly unknown[]): void {
    const { REKINDLE_BEFORE, REKINDLE_OUTCOME } = process.env;
    const before: Outcome =
      REKINDLE_BEFORE === undefined ? { files: {}, errors: 0, failures: {} } : JSON.parse(readFileSync(REKINDLE_BEFORE, 'utf8'));
    const files: Record<string, Counts> = { ...before.files };
    const failures: Record<string, string> = {};
    for (const module of modules) {
      const counts = { passed: 0, failed: module.errors().length > 0 ? 1 : 0, skipped: 0 };
      files[relative(process.cwd(), module.moduleId)] = counts;
      for (const test of module.children.allTests()) {
        const result = test.result();
        const first = before.failures[test.fullName];
        if (result.state === 'passed') {
          counts.passed += 1;
          if (first !== undefined)
            console.log(`passed at the second try: ${test.fullName}\n  at first: ${first.slice(0, 2_000).replaceAll('\n', '\n    ')}`);
        } else if (result.state === 'failed') {
          counts.failed += 1;
          failures[test.fullName] = result.errors.map(({ message }) => message).join('\n');
        } else {
          counts.skipped += 1;
          console.log(`skipped: ${test.fullName}${'note' in result && result.note ? `: ${result.note}` : ''}`);
        }
      }
    }
    const outcome: Outcome = { files, errors: before.errors + errors.length, failures };
    if (REKINDLE_OUTCOME !== undefined) writeFileSync(REKINDLE_OUTCOME, JSON.stringify(outcome));
    const all = Object.values(files);
    const sum = (of: keyof Counts) => all.reduce((total, counts) => total + counts[of], 0);
    console.log(`${sum('passed')} passed, ${sum('failed') + outcome.errors} failed, ${sum('skipped')} skipped`);
  }
}
