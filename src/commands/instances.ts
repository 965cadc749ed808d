import { join } from 'node:path';
import type { AgentEvent, AgentListener, InstanceState } from '../agent/events.ts';
import type { Config } from '../config.ts';
import { orAborted } from '../lib/abort.ts';
import { systemClock } from '../lib/clock.ts';
import { RekindleError } from '../lib/errors.ts';
import type { Container } from '../workloads/host.ts';
import { agentFile, followAgentFile, readAgentFile } from './agent-file.ts';
import { type Context, say } from './context.ts';
import { agentRuns, type Engine, type Machine, openEngine, openMachine } from './engine.ts';

/** Containers and their agent, wherever that runs: in this process (`own`), or in one that was there before. */
export type Served = Machine &
  AsyncDisposable & {
    readonly events: EventLog;
    readonly own: Engine | undefined;
    /** Aborts with the command, and with `agent_unavailable` when an agent elsewhere has ended. */
    readonly signal: AbortSignal;
  };

type Settled = Extract<InstanceState, { at: 'live' | 'cold' | 'seed' }>;
type Checkpointed = Exclude<AgentEvent, { type: 'instance' }>;

/** The events so far, and a way to wait for more. */
export class EventLog {
  readonly #events: AgentEvent[] = [];
  #wake = Promise.withResolvers<void>();

  readonly add: AgentListener = (event) => {
    this.#events.push(event);
    this.#wake.resolve();
    this.#wake = Promise.withResolvers<void>();
  };

  /** What `find` makes of the events, as soon as that is not undefined. Rejects with the signal's reason. */
  async until<T>(find: (events: readonly AgentEvent[]) => T | undefined, signal: AbortSignal): Promise<T> {
    for (;;) {
      signal.throwIfAborted();
      const found = find(this.#events);
      if (found !== undefined) return found;
      await orAborted(this.#wake.promise, signal);
    }
  }

  /** What became of an instance that has just been created. */
  settled(uid: string, signal: AbortSignal): Promise<Settled> {
    return this.until((events) => {
      for (const event of events.toReversed()) {
        if (event.type !== 'instance' || event.uid !== uid) continue;
        const { state } = event;
        if (state.at === 'live' || state.at === 'cold' || state.at === 'seed') return state;
      }
      return undefined;
    }, signal);
  }

  /** Resolves when no restore is under way. */
  nothingRestores(signal: AbortSignal): Promise<true> {
    return this.until((events) => {
      const last = new Map(events.flatMap((event) => (event.type === 'instance' ? [[event.uid, event.state.at] as const] : [])));
      return [...last.values()].includes('restoring') ? undefined : true;
    }, signal);
  }

  /** The outcome of the first checkpoint of a workload, from the events so far or to come; tells the seed's steps meanwhile. */
  async checkpointed(workload: string, signal: AbortSignal, onStep?: (text: string) => void): Promise<Checkpointed> {
    let told = 0;
    return this.until((events) => {
      for (; told < events.length; told++) {
        const event = events[told];
        if (event?.workload !== workload) continue;
        if (event.type !== 'instance') return event;
        if (event.state.at === 'seed') onStep?.(`${event.name}: ${event.state.step} …`);
      }
      return undefined;
    }, signal);
  }
}

const LOOK_FOR_AGENT_EVERY_MS = 200;
/** An agent verifies every snapshot while it starts. */
const AGENT_STARTS_MS = 60_000;
/** The agent of a command that is done finishes for others what takes no longer. */
const AGENT_LINGERS_MS = 5_000;
/** So many agents may end while a command uses them. */
const MAX_AGENTS = 5;
/** How long after its end a container may turn out to have been started over: its application did not survive the restore. */
const STARTED_OVER_MS = 2_000;

/**
 * Acts with the agent of this machine if one runs, else as the agent until that has ended. Live instances go on without it. An agent of another
 * command may end with that: then `act`, which has undone what it did, is repeated with the next agent or as it.
 */
export async function serve(context: Context, act: (served: Served) => Promise<void>): Promise<void> {
  for (let tries = 1; ; tries++) {
    await using served = await openServed(context);
    try {
      return await act(served);
    } catch (error) {
      const agentLost = error instanceof RekindleError && error.code === 'agent_unavailable';
      if (!agentLost || context.signal.aborted || tries === MAX_AGENTS) throw error;
      say('the agent has ended meanwhile: starting again without it');
    }
  }
}

async function openServed(context: Context): Promise<Served> {
  const { config, log, signal } = context;
  const events = new EventLog();
  const socket = join(config.runDir, 'slot', 'agent.sock');
  const until = systemClock.now() + AGENT_STARTS_MS;
  for (;;) {
    if (await agentRuns(socket)) return useAgent(context, events, socket);
    try {
      const engine = await openEngine(config, { log, signal, listener: events.add });
      const end = async () => {
        // Other commands may use this agent too: what it has begun for them it ends.
        await events.nothingRestores(AbortSignal.any([signal, AbortSignal.timeout(AGENT_LINGERS_MS)])).catch(() => undefined);
        await engine[Symbol.asyncDispose]();
      };
      return { ...engine, events, own: engine, signal, [Symbol.asyncDispose]: end };
    } catch (error) {
      // Another command was faster to become the agent, and will be there soon.
      if (!(error instanceof RekindleError && error.retryable && error.code === 'usage') || systemClock.now() > until) throw error;
      await systemClock.sleep(LOOK_FOR_AGENT_EVERY_MS, signal);
    }
  }
}

async function useAgent(context: Context, events: EventLog, socket: string): Promise<Served> {
  const { config, log } = context;
  const stop = new AbortController();
  const lost = new AbortController();
  const machine = await openMachine(config, log);
  const until = AbortSignal.any([context.signal, stop.signal]);
  const following = await followAgentFile(agentFile(config), events.add, until);
  const watching = watchAgent(config, socket, lost, until);
  return {
    ...machine,
    events,
    own: undefined,
    signal: AbortSignal.any([context.signal, lost.signal]),
    [Symbol.asyncDispose]: async () => {
      stop.abort();
      await Promise.all([following.ended, watching]);
    },
  };
}

/** Also when another one has taken its place: that knows nothing of what this one was asked. */
async function watchAgent(config: Config, socket: string, lost: AbortController, signal: AbortSignal): Promise<void> {
  const pid = async () => (await readAgentFile(agentFile(config)))?.pid;
  const first = await pid();
  while (!signal.aborted) {
    await systemClock.sleep(LOOK_FOR_AGENT_EVERY_MS, signal).catch(() => undefined);
    if (signal.aborted || ((await agentRuns(socket)) && (await pid()) === first)) continue;
    const message = 'the agent of this machine has ended; instances that run go on. Start it again with `rekindle agent`';
    return lost.abort(new RekindleError('agent_unavailable', message, { retryable: true }));
  }
}

/** What became of an instance that has just been created; one that ended first has the state `ended`. */
export async function settledOrEnded(served: Served, container: Container): Promise<InstanceState> {
  const stop = new AbortController();
  const signal = AbortSignal.any([served.signal, stop.signal]);
  try {
    const settled = served.events.settled(container.uid, signal);
    const ended = served.host.wait(container, signal).then(async (status): Promise<InstanceState> => {
      await systemClock.sleep(STARTED_OVER_MS, signal);
      return { at: 'ended', status };
    });
    return await Promise.race([settled, ended]);
  } finally {
    stop.abort();
  }
}
