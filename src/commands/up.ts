import { untilAborted } from '../lib/abort.ts';
import { age, type Context, type JsonOption, print, readWorkloads, say } from './context.ts';
import type { Listen } from './listen.ts';
import { GRACE_MS, openService } from './local-service.ts';

export type UpOptions = JsonOption & {
  readonly file: string;
  readonly listen: Listen;
  /** Agents, see `LocalServiceOptions`. */
  readonly nodes: number;
  readonly keep?: boolean;
  /** Of the scaler; the agents' are at the ports after it. */
  readonly metrics?: Listen;
};

/** `rekindle up`: the whole service on one machine until it is told to end; see {@link openService}. */
export async function up(context: Context, options: UpOptions): Promise<void> {
  const { signal } = context;
  // A file that is wrong is said here, and not by one process after the other.
  const workloads = await readWorkloads(options.file);
  await using service = await openService(context, { ...options, onStart: (role, pid) => tell(options, { role, pid }) });
  const { url, redis, nodes } = service;
  tell(options, { ready: true, url, redis, nodes, workloads: workloads.map(({ name }) => name) });
  say(`up: ${url}, for example: curl ${url}/invoke/${workloads[0]?.name ?? 'WORKLOAD'}/`);
  await untilAborted(signal);
  say(`up: ending, within ${age(GRACE_MS)}${options.keep ? '; instances stay' : ''} …`);
}

function tell({ json }: JsonOption, what: Readonly<Record<string, unknown>>): void {
  if (json) print(JSON.stringify(what));
}
