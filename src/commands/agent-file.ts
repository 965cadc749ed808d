import { readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { AgentEvent, AgentListener } from '../agent/events.ts';
import type { Config } from '../config.ts';
import { systemClock } from '../lib/clock.ts';

/** Where the agent of this machine tells what becomes of instances. */
export const agentFile = (config: Config): string => join(config.runDir, 'agent.json');

/** `agent.json` in the run directory: what the agent tells other processes (`rekindle status`, commands that use an agent that runs already). */
export type AgentFile = { readonly pid: number; readonly events: readonly (AgentEvent & { readonly atMs: number })[] };

/** Instances that ended cold say nothing when they go, so only so many are remembered. */
const MAX_EVENTS = 1_000;
const LOOK_EVERY_MS = 50;

/** What the last agent has told: the last event of each instance and of each kind of snapshot. Undefined before there was one. */
export async function readAgentFile(path: string): Promise<AgentFile | undefined> {
  const text = await readFile(path, 'utf8').catch(() => undefined);
  return text === undefined ? undefined : JSON.parse(text);
}

/** `written` resolves when the file says all that has been told so far. */
export type AgentFileKeeper = AgentListener & { readonly written: () => Promise<void> };

/**
 * A listener that keeps the file, beginning with what an earlier agent said about those instances that live on (`uids`). A file that cannot be
 * written loses nothing that matters.
 */
export async function keepAgentFile(path: string, uids: readonly string[]): Promise<AgentFileKeeper> {
  const last = new Map<string, AgentFile['events'][number]>();
  let changed = false;
  let writing: Promise<void> | undefined;
  const writeAll = async (): Promise<void> => {
    while (changed) {
      changed = false;
      await writeFile(`${path}.new`, JSON.stringify({ pid: process.pid, events: [...last.values()] }), { mode: 0o600 })
        .then(() => rename(`${path}.new`, path))
        .catch(() => undefined);
    }
    // In the same turn as the last look at `changed`, so that no event falls between.
    writing = undefined;
  };
  const write = (): Promise<void> => {
    changed = true;
    writing ??= writeAll();
    return writing;
  };
  const remember = (event: AgentFile['events'][number]): void => {
    const key = event.type === 'instance' ? event.uid : `${event.workload} ${event.specHash}`;
    // That it is heard again says less than what the earlier agent said of its restore.
    const known = last.get(key);
    if (event.type === 'instance' && event.state.at === 'back' && known?.type === 'instance' && known.state.at === 'live') return;
    // Behind the others, so that the oldest are first.
    last.delete(key);
    if (event.type !== 'instance' || event.state.at !== 'ended') last.set(key, event);
    const [oldest] = last.keys();
    if (last.size > MAX_EVENTS && oldest !== undefined) last.delete(oldest);
    void write();
  };
  const before = (await readAgentFile(path).catch(() => undefined))?.events ?? [];
  for (const event of before) {
    // Nobody knows how a restore ended that the last agent did not see through.
    const known = event.type === 'instance' && uids.includes(event.uid) && event.state.at !== 'restoring';
    if (known) remember(withoutAgent(event));
  }
  // The process id is news too.
  await write();
  const listen: AgentListener = (event) => remember({ ...event, atMs: systemClock.now() });
  return Object.assign(listen, { written: async () => writing });
}

/** What an event means once the agent that said it has gone: a snapshot that was in the making was dropped. */
export function withoutAgent<E extends AgentEvent>(event: E): E {
  if (event.type !== 'instance' || (event.state.at !== 'seed' && event.state.at !== 'restoring')) return event;
  const reason = event.state.at === 'seed' ? 'the first of its kind' : 'unknown: its agent ended while it was being restored';
  return { ...event, state: { at: 'cold', reason } };
}

/** Tells `listener` what comes into the file from now on, until `signal` aborts. Resolves with the end of that as soon as it has begun. */
export async function followAgentFile(
  path: string,
  listener: AgentListener,
  signal: AbortSignal,
): Promise<{ readonly ended: Promise<void> }> {
  const seen = new Set<string>();
  const look = async (tell: AgentListener): Promise<void> => {
    for (const event of (await readAgentFile(path))?.events ?? []) {
      const text = JSON.stringify(event);
      if (seen.has(text)) continue;
      seen.add(text);
      tell(event);
    }
  };
  await look(() => undefined);
  const looks = async (): Promise<void> => {
    while (!signal.aborted) {
      await look(listener);
      await systemClock.sleep(LOOK_EVERY_MS, signal).catch(() => undefined);
    }
  };
  return { ended: looks() };
}
