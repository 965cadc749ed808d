import type { InstanceState } from '../agent/events.ts';
import type { ApiSlot } from '../gateway/schemas.ts';
import { systemClock } from '../lib/clock.ts';
import { RekindleError } from '../lib/errors.ts';
import { agentFile, readAgentFile, withoutAgent } from './agent-file.ts';
import { age, type Context, type JsonOption, megabytes, print, table } from './context.ts';
import { agentRuns, type Machine, openMachine } from './engine.ts';
import { oneLine, ServiceReader, type ServiceStatus, serviceText } from './status-service.ts';

export type StatusOptions = JsonOption & {
  /** Again every second, until Ctrl-C. */
  readonly watch?: boolean;
  /** A Kubernetes cluster instead of this machine; `namespace`: only what is in it. */
  readonly cluster?: boolean;
  readonly namespace?: string;
  readonly kubeconfig?: string;
  readonly context?: string;
};

const WATCH_EVERY_MS = 1_000;

/** `rekindle status`: what runs here, what is kept, whether an agent serves it, and the service that this machine is of. */
export async function status(context: Context, options: StatusOptions): Promise<void> {
  const { config, log, signal } = context;
  if (options.cluster) return clusterStatus(context, options);
  if (options.namespace !== undefined || options.context !== undefined || options.kubeconfig !== undefined)
    throw new RekindleError('usage', '--namespace, --context and --kubeconfig are of a cluster: give --cluster too');
  const machine = await openMachine(config, log);
  await using service = new ServiceReader(config);
  const look = async () => {
    const found = await lookAt(context, machine, await service.read(signal));
    return options.json ? JSON.stringify(found) : textOf(found);
  };
  // Not returned as it is: the service is read until it has ended.
  await showAll(look, options, signal);
}

/** That of a cluster, which is not this machine's: nothing is opened here. The client of Kubernetes is large, and loaded only now. */
async function clusterStatus(context: Context, options: StatusOptions): Promise<void> {
  const { openCluster, namespaceOf, readClusterStatus, onlyOf, clusterText } = await import('./status-cluster.ts');
  const cluster = openCluster(context, options);
  const look = async () => {
    const whole = await readClusterStatus(cluster, namespaceOf(context), context.signal);
    const found = options.namespace === undefined ? whole : onlyOf(whole, options.namespace);
    return options.json ? JSON.stringify(found) : clusterText(found, systemClock.now());
  };
  return showAll(look, options, context.signal);
}

/** Once, or again and again. */
async function showAll(look: () => Promise<string>, options: StatusOptions, signal: AbortSignal): Promise<void> {
  if (!options.watch) return print(await look());
  const isScreen = process.stdout.isTTY && !options.json;
  const show = isScreen ? drawer(process.stdout) : (text: string) => print(options.json ? text : `${text}\n`);
  while (!signal.aborted) {
    show(await look());
    await systemClock.sleep(WATCH_EVERY_MS, signal).catch(() => undefined);
  }
}

type Found = Awaited<ReturnType<typeof lookAt>>;

async function lookAt({ config }: Context, { host, store }: Machine, service: ServiceStatus | null) {
  const runs = await agentRuns(host.agentSocket);
  const told = await readAgentFile(agentFile(config));
  const events = runs ? told?.events : told?.events.map(withoutAgent);
  const states = new Map(events?.flatMap((event) => (event.type === 'instance' ? [[event.uid, event.state] as const] : [])));
  const slots = new Map(service?.pools.flatMap((pool) => pool.slots.map((slot) => [slot.uid, slot] as const)));
  const instances = (await host.list()).map((container) => ({
    name: container.name,
    uid: container.uid,
    workload: container.workload.name,
    addresses: container.addresses,
    restarts: container.restarts,
    ageMs: Date.now() - container.createdAtMs,
    logFile: host.logFile(container),
    state: container.pool === undefined ? (states.get(container.uid) ?? UNSEEN) : pooled(slots.get(container.uid)),
  }));
  const snapshots = (await store.list()).map(({ digest, manifest }) => ({
    digest,
    workload: manifest.workload,
    totalBytes: manifest.totalBytes,
    ageMs: Date.now() - Date.parse(manifest.createdAt),
  }));
  return { agent: runs ? { pid: told?.pid } : null, instances, snapshots, service };
}

const UNSEEN: InstanceState = { at: 'cold', reason: 'no agent saw how it started' };

/** A slot of a pool: its agent tells of it in the shared view only. */
type PooledState = { readonly at: 'pooled'; readonly slot: ApiSlot['state'] | 'unknown'; readonly start?: NonNullable<ApiSlot['start']> };

function pooled(slot: ApiSlot | undefined): PooledState {
  return { at: 'pooled', slot: slot?.state ?? 'unknown', ...(slot?.start === undefined ? {} : { start: slot.start }) };
}

function textOf({ agent, instances, snapshots, service }: Found): string {
  const blocks = [
    agent !== null ? `agent: runs (process ${agent.pid ?? '?'})` : 'agent: none; instances start cold (start one with `rekindle agent`)',
    instances.length === 0
      ? 'instances: none'
      : table([
          ['INSTANCE', 'WORKLOAD', 'ADDRESS', 'AGE', 'STATE'],
          ...instances.map((one) => [one.name, one.workload, one.addresses[0] ?? '', age(one.ageMs), inWords(one.state)]),
        ]),
    snapshots.length === 0
      ? 'snapshots: none'
      : table([
          ['SNAPSHOT', 'WORKLOAD', 'SIZE', 'AGE'],
          ...snapshots.map((one) => [one.digest.slice(0, 12), one.workload, megabytes(one.totalBytes), age(one.ageMs)]),
        ]),
  ];
  // First what is looked for: lists of instances may be longer than a screen.
  return [...(service === null ? [] : serviceText(service)), ...blocks].join('\n');
}

type Screen = { readonly rows: number; readonly columns: number; write(text: string): unknown };

/** Draws over what was drawn before, as much as fits. Escape codes: ECMA-48 CUP, EL, ED. */
export function drawer(screen: Screen): (text: string) => void {
  let first = true;
  return (text) => {
    const lines = text.split('\n');
    // A terminal that does not know its size says 0.
    const fit = Math.max(2, (screen.rows || 24) - 2);
    const columns = screen.columns || 80;
    const shown = lines.length > fit ? [...lines.slice(0, fit - 1), `… ${lines.length - fit + 1} more lines`] : lines;
    const all = [...shown, `${new Date().toTimeString().slice(0, 8)}, Ctrl-C ends`];
    const drawn = all.map((line) => `${line.slice(0, columns)}\x1b[K\n`).join('');
    screen.write(`${first ? '\x1b[2J' : ''}\x1b[H${drawn}\x1b[J`);
    first = false;
  };
}

function inWords(state: InstanceState | PooledState): string {
  switch (state.at) {
    case 'pooled':
      return pooledInWords(state);
    case 'live':
      return `live, restored in ${Math.round(state.timing.readyMs ?? state.timing.restoredMs)} ms`;
    case 'back':
      return 'live, restored under an earlier agent';
    case 'cold':
      return `cold: ${state.reason}`;
    case 'seed':
      return `seed, ${state.step}`;
    case 'expected':
      return 'being made, to be restored';
    case 'restoring':
      return 'restoring';
    case 'parked':
      return 'parked';
    case 'ended':
      return 'ended';
  }
}

function pooledInWords({ slot, start }: PooledState): string {
  if (slot === 'unknown') return 'of a pool; nothing is heard of it';
  if (slot === 'live' && start?.ms !== undefined) return `of a pool: live, restored in ${Math.round(start.ms)} ms`;
  return `of a pool: ${slot}${slot === 'cold' && start?.reason !== undefined ? `: ${oneLine(start.reason)}` : ''}`;
}
