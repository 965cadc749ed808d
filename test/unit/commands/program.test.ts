import type { Command } from 'commander';
import { expect, test } from 'vitest';
import { program } from '../../../src/commands/program.ts';
import { readConfig } from '../../../src/config.ts';
import { silentLog } from '../../../src/lib/log.ts';

const aProgram = () => program({ config: readConfig({}), log: silentLog, signal: new AbortController().signal, exitCode: 0 });

/** Every command that does something, by its whole name. */
function verbs(command: Command, name = command.name()): [string, Command][] {
  return command.commands.flatMap((one) => {
    const whole = `${name} ${one.name()}`;
    return one.commands.length === 0 ? [[whole, one] as [string, Command]] : verbs(one, whole);
  });
}

const COMMANDS = verbs(aProgram());

test('every command can be asked for JSON', () => {
  expect(COMMANDS.length).toBeGreaterThan(14);
  expect(COMMANDS.filter(([, command]) => !command.options.some(({ long }) => long === '--json')).map(([name]) => name)).toEqual([]);
});

test.each(COMMANDS)('`%s --help` says what it does and gives an example of it', (name, command) => {
  let text = '';
  command.configureOutput({ writeOut: (part) => (text += part) });

  command.outputHelp();

  expect(command.description()).not.toBe('');
  expect(text).toMatch(new RegExp(`\nExamples:\n[\\s\\S]*\\b${name}\\b`));
});

test.each([
  [['frobnicate'], "unknown command 'frobnicate' [usage]; see `rekindle --help`"],
  [['run'], "missing required argument 'workload' [usage]; see `rekindle run --help`"],
  [['run', 'web', '-n', '0'], 'Give a whole number from 1 on. [usage]; see `rekindle run --help`'],
  [['run', 'web', '-n', '1e3'], 'Give a whole number from 1 on. [usage]; see `rekindle run --help`'],
  [['snapshots', 'inspect'], "missing required argument 'digest' [usage]; see `rekindle snapshots inspect --help`"],
])('%j is refused, saying where to read on', async (args, says) => {
  let text = '';
  const cli = aProgram();
  const listen = (command: Command): void => {
    command.configureOutput({ writeErr: (part) => (text += part) });
    for (const one of command.commands) listen(one);
  };
  listen(cli);

  await expect(cli.parseAsync(['node', 'rekindle', ...args])).rejects.toMatchObject({ code: expect.stringMatching(/^commander\./) });

  expect(text).toContain(says);
});
