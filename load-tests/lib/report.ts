import type { Summary } from './stats.ts';

export type Figure = {
  readonly name: string;
  readonly value: number;
  readonly limit: number;
  readonly better: 'higher' | 'lower';
  readonly unit: string;
  readonly passed: boolean;
};

/** Collects a load test's figures and prints as it goes; the last line is one JSON object where that was asked for. */
export class Report {
  readonly #name: string;
  readonly #json: boolean;
  readonly #figures: Figure[] = [];

  constructor(options: { name: string; json: boolean }) {
    this.#name = options.name;
    this.#json = options.json;
  }

  /** A line for people. */
  say(line = ''): void {
    process.stdout.write(`${line}\n`);
  }

  /** A row of n, p50, p99 and max in milliseconds. */
  times(what: string, { count, p50, p99, max }: Summary): void {
    const ms = (value: number): string => value.toFixed(1).padStart(9);
    this.say(`  ${what.padEnd(44)}${ms(p50)}${ms(p99)}${ms(max)}  n=${count}`);
  }

  header(title: string): void {
    this.say();
    this.say(`${title.padEnd(46)}   p50 ms   p99 ms   max ms`);
  }

  /** Something with a limit. `aim`, printed only, is what we would like. */
  figure(name: string, value: number, limit: number, better: Figure['better'], unit: string, aim?: number): void {
    const rounded = Number(value.toPrecision(4));
    const passed = better === 'higher' ? rounded >= limit : rounded <= limit;
    this.#figures.push({ name, value: rounded, limit, better, unit, passed });
    const sign = better === 'higher' ? '≥' : '≤';
    const wished = aim === undefined ? '' : `, aim ${sign} ${aim}`;
    this.say(`  ${passed ? 'ok    ' : 'MISSED'} ${name}: ${rounded} ${unit} (limit ${sign} ${limit}${wished})`);
  }

  /** Prints the verdict and returns the exit code: 1 when a limit was missed, or when nothing was measured. */
  end(machine: Readonly<Record<string, unknown>>): number {
    const passed = this.#figures.length > 0 && this.#figures.every((figure) => figure.passed);
    this.say();
    this.say(`${this.#name}: ${passed ? 'passed' : 'FAILED'} on ${JSON.stringify(machine)}`);
    if (this.#json) this.say(JSON.stringify({ name: this.#name, passed, figures: this.#figures, machine }));
    return passed ? 0 : 1;
  }
}
