import { readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { Command, InvalidArgumentError } from 'commander';
import { Report } from './report.ts';

/** What the command line of the load test in the folder says, and where its figures go. Ends the process after `--help`, or when the line is wrong. */
export function loadTest<T extends object>(
  folder: string,
  define: (command: Command) => Command = (command) => command,
): { readonly options: T; readonly report: Report } {
  const name = basename(folder);
  // As `scripts/load` lists it.
  const about =
    readFileSync(join(folder, 'main.ts'), 'utf8')
      .split('\n', 1)[0]
      ?.replace(/^\/\/ /, '') ?? '';
  const command = new Command(`npm run load -- ${name}`)
    .description(about)
    .option('--json', 'one JSON object as the last line')
    .showHelpAfterError('(--help says what there is)')
    .addHelpText('after', '\nEnds with 1 when a limit was missed. Needs root, and a machine that does nothing else.');
  const options = define(command).parse().opts<T & { json?: boolean }>();
  return { options, report: new Report({ name, json: options.json === true }) };
}

/** How often each thing is measured. */
export const withRounds = (rounds: number) => (command: Command) =>
  command
    .option('--rounds <n>', 'how often each thing is measured', wholeNumber, rounds)
    .addHelpText('after', `\nExample: ${command.name()} --rounds ${2 * rounds} --json`);

/** An option's number from 1 on. */
export function wholeNumber(text: string): number {
  if (!/^[1-9]\d{0,8}$/.test(text)) throw new InvalidArgumentError('Give a whole number from 1 on.');
  return Number(text);
}

/** An option that lists some of these names, with commas between. */
export function someOf<T extends string>(names: readonly T[]): (text: string) => readonly T[] {
  return (text) => {
    const chosen = text.split(',').map((one) => names.find((name) => name === one));
    const known = chosen.filter((one) => one !== undefined);
    if (known.length < chosen.length) throw new InvalidArgumentError(`Choose of ${names.join(',')}.`);
    return known;
  };
}
