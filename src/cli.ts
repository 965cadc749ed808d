import { CommanderError } from 'commander';
import type { Context } from './commands/context.ts';
import { program } from './commands/program.ts';
import { readConfig } from './config.ts';
import { ERRORS, toRekindleError } from './lib/errors.ts';
import { createLog, createLogForPeople, type Log } from './lib/log.ts';

/** 128 + the signal's number, as shells have it. */
const INTERRUPTED = { SIGINT: 130, SIGTERM: 143 } as const;

/** Runs the command line; resolves with the exit status. The one place where errors end. */
async function main(argv: readonly string[]): Promise<number> {
  const stop = new AbortController();
  let interrupted: number = INTERRUPTED.SIGINT;
  // The first signal asks everything to end in order; a second one, of whatever kind, is not waited for.
  for (const name of ['SIGINT', 'SIGTERM'] as const) {
    process.on(name, () => {
      if (stop.signal.aborted) process.exit(INTERRUPTED[name]);
      interrupted = INTERRUPTED[name];
      stop.abort(new Error(`stopped by ${name}`));
    });
  }
  try {
    const config = readConfig(process.env);
    const context: Context = { config, log: chooseLog(config.logLevel, argv), signal: stop.signal, exitCode: 0 };
    await program(context).parseAsync([...argv]);
    return context.exitCode;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : ERRORS.usage.exit;
    if (stop.signal.aborted) {
      process.stderr.write('rekindle: interrupted\n');
      return interrupted;
    }
    const { code, message, stack } = toRekindleError(error);
    process.stderr.write(`rekindle: ${message} [${code}]\n`);
    if (code === 'internal' && stack !== undefined) process.stderr.write(`${stack}\n`);
    return ERRORS[code].exit;
  }
}

/** What serves until it is told to end. */
const ROLES = ['agent', 'scaler', 'gateway'];

/** JSON lines where they were asked for, and of roles; else warnings in words. */
function chooseLog(level: string, [, , command]: readonly string[]): Log {
  if (process.env.REKINDLE_LOG) return createLog(level);
  return ROLES.includes(command ?? '') ? createLog('info') : createLogForPeople((line) => process.stderr.write(line));
}

// Whoever reads our output may have read enough (`| head`): what is left to do is done all the same.
process.stdout.on('error', () => undefined);
process.exit(await main(process.argv));
