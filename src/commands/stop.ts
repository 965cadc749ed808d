import { RekindleError, toRekindleError } from '../lib/errors.ts';
import { type Context, type JsonOption, print, say } from './context.ts';
import { agentRuns, openMachine, takeDown } from './engine.ts';

/** `rekindle stop`: ends instances that were left running. With `--all`, and where no agent waits for more, nothing made for them is left. */
export async function stop(
  context: Context,
  names: readonly string[],
  options: JsonOption & { readonly all?: boolean; readonly grace: number },
): Promise<void> {
  if (names.length === 0 && !options.all) throw new RekindleError('usage', 'say which instances to end, or --all');
  const { host } = await openMachine(context.config, context.log);
  const running = await host.list();
  const chosen = options.all
    ? running
    : names.map((name) => {
        const found = running.find((container) => container.name === name || container.uid === name);
        if (found === undefined)
          throw new RekindleError(
            'not_found',
            `no instance ${name} runs here. There are: ${running.map((one) => one.name).join(', ') || 'none'}`,
          );
        return found;
      });
  if (chosen.length > 0) say(`ending ${chosen.length}, within ${options.grace} s …`);
  await Promise.all(chosen.map(({ uid }) => host.remove(uid, { graceMs: options.grace * 1000 })));
  if (options.all && !(await agentRuns(host.agentSocket))) {
    await takeDown(context.config, host).catch((error: unknown) => {
      say(`warning: what was made for instances stays, another command may use it: ${toRekindleError(error).message}`);
    });
  }
  const ended = chosen.map(({ name }) => name);
  print(options.json ? JSON.stringify({ ended }) : ended.length === 0 ? 'nothing was running' : `ended ${ended.join(', ')}`);
}
