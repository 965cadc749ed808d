import { readFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import type { Config } from '../config.ts';
import { errno, RekindleError } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';
import { parseRekindleFile } from '../workloads/file.ts';
import { nearest } from '../workloads/nearest.ts';
import type { WorkloadSpec } from '../workloads/workload.ts';

/** What every command gets besides its own arguments. */
export type Context = {
  readonly config: Config;
  readonly log: Log;
  /** Aborts at the first SIGINT or SIGTERM. */
  readonly signal: AbortSignal;
  /** What the program ends with when the command does not throw. */
  exitCode: number;
};

/** Options that most commands have. */
export type JsonOption = { readonly json?: boolean };

/** A line of progress, for people: on standard error, so that standard output holds results only. */
export function say(line: string): void {
  process.stderr.write(`${line}\n`);
}

/** A result for people, or as one line of JSON for scripts. */
export function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

/** The workloads of a rekindle.yaml. Throws `config_invalid`, also when there is no such file. */
export async function readWorkloads(file: string): Promise<WorkloadSpec[]> {
  const path = resolve(file);
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if (errno(error) !== 'ENOENT') throw new RekindleError('config_invalid', `cannot read ${path}: ${String(error)}`, { cause: error });
    throw new RekindleError(
      'config_invalid',
      `there is no ${path}: name the file with -f, or write one (an example is images/samples/rekindle.yaml)`,
      { cause: error },
    );
  }
  return parseRekindleFile(text, file, dirname(path));
}

/** One of them by name. Throws `not_found`, with the names there are. */
export async function readWorkload(file: string, name: string): Promise<WorkloadSpec> {
  const all = await readWorkloads(file);
  const found = all.find((workload) => workload.name === name);
  if (found !== undefined) return found;
  const names = all.map((workload) => workload.name);
  const near = nearest(name, names);
  throw new RekindleError(
    'not_found',
    `${file} has no workload ${name}${near === undefined ? '' : `: did you mean ${near}?`} It has ${names.join(', ') || 'none'}`,
  );
}

const NUMBER = /^(–|[\d.]+(x| [a-zA-Z]+| of \d+)?)$/;

/** Columns as wide as their widest cell; those of numbers (`12`, `3.4 MB`, `5.6x`, `7 of 8`) to the right. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]?.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0))) ?? [];
  const right = widths.map((_, column) => rows.slice(1).every((row) => NUMBER.test(row[column] ?? '')));
  return rows
    .map((row) =>
      row
        .map((cell, column) => (right[column] ? cell.padStart(widths[column] ?? 0) : cell.padEnd(widths[column] ?? 0)))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

/** `12.3 MB`, in powers of ten as disks are sold. */
export function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

/** `3 s`, `12 min`, `5 h`, `2 d`. */
export function age(ms: number): string {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86_400)} d`;
}
