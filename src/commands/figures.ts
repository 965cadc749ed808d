import { megabytes, table } from './context.ts';

/** The figures of one sample, as `--json` prints them; times in milliseconds. */
export type Figures = {
  readonly name: string;
  /** From the slot's hello to the first answer, and so are the restores. */
  readonly coldMs: number;
  readonly snapshotBytes: number;
  readonly freezeMs: number;
  readonly restoreMsP50: number;
  readonly restoreMsP99: number;
  readonly timesFaster: number;
  readonly clones: number;
  readonly failed: number;
};

/** Also the memory that a clone has for itself, for people. */
export type Outcome = { readonly figures: Figures; readonly cloneBytes: number };

const HEADINGS = ['WORKLOAD', 'COLD START', 'SNAPSHOT', 'FREEZE', 'RESTORE P50', 'P99', 'FASTER', 'CLONES', 'MEMORY/CLONE'];

/** Where the number of clones stands among the figures. */
const CLONES = HEADINGS.indexOf('CLONES') - 1;

/** One line per sample, for people. */
export function resultTable(outcomes: readonly Outcome[]): string {
  return table([HEADINGS, ...outcomes.map(row)]);
}

function row({ figures: one, cloneBytes }: Outcome): string[] {
  const ms = (value: number) => `${Math.round(value)} ms`;
  const figures = [
    ms(one.coldMs),
    megabytes(one.snapshotBytes),
    ms(one.freezeMs),
    ms(one.restoreMsP50),
    ms(one.restoreMsP99),
    `${one.timesFaster.toFixed(1)}x`,
    `${one.clones - one.failed} of ${one.clones}`,
    megabytes(cloneBytes),
  ];
  // What was never measured is not zero.
  const restored = one.failed < one.clones;
  return [one.name, ...figures.map((figure, column) => (restored || column === CLONES ? figure : '–'))];
}

/** Of any values, the smallest that at least this share of them does not exceed; 0 of none. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? 0;
}

/** What a burst at one sample came to, as `--json` prints it; times in milliseconds from when all its requests were sent. */
export type BurstFigures = {
  readonly name: string;
  readonly requests: number;
  readonly answered: number;
  readonly failed: number;
  /** Instances that were woken by a restore, and those that started cold all the same. */
  readonly restored: number;
  readonly cold: number;
  readonly firstMs: number;
  readonly allMs: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  /** One cold start, to compare with. */
  readonly coldMs: number;
};

const BURST_HEADINGS = ['WORKLOAD', 'ANSWERED', 'FAILED', 'RESTORED', 'FIRST ANSWER', 'ALL ANSWERED', 'P50', 'P99', 'ONE COLD START'];

/** One line per burst, for people. */
export function burstTable(bursts: readonly BurstFigures[]): string {
  const ms = (value: number) => `${Math.round(value)} ms`;
  const rows = bursts.map((one) => [
    one.name,
    `${one.answered} of ${one.requests}`,
    String(one.failed),
    `${one.restored} of ${one.restored + one.cold}`,
    // What never came took no time.
    ...[one.firstMs, one.allMs, one.p50Ms, one.p99Ms].map((value) => (one.answered > 0 ? ms(value) : '–')),
    ms(one.coldMs),
  ]);
  return table([BURST_HEADINGS, ...rows]);
}
