import { DAEMON_SETS, NAMESPACES } from '../cluster/kinds.ts';
import { Uninstall } from '../cluster/uninstall.ts';
import { systemClock } from '../lib/clock.ts';
import { RekindleError } from '../lib/errors.ts';
import { KEYS } from '../queue/view-wire.ts';
import { type Context, type JsonOption, print, say } from './context.ts';
import { type ClusterOptions, namespaceOf, openCluster } from './status-cluster.ts';

export type UninstallCommand = JsonOption &
  ClusterOptions & {
    readonly yes?: boolean;
    readonly keepSnapshots?: boolean;
    /** Seconds, for all nodes. */
    readonly timeout: number;
    /** False: the namespace goes after this has ended. */
    readonly wait: boolean;
  };

/** `rekindle uninstall`: see cluster/uninstall.ts. May be interrupted, and run again. */
export async function uninstall(context: Context, options: UninstallCommand): Promise<void> {
  const { signal } = context;
  const cluster = openCluster(context, options);
  const namespace = namespaceOf(context);
  if (options.yes !== true) {
    const agents = await cluster.get(DAEMON_SETS, { name: 'rekindle-agent', namespace }, signal);
    const there = agents !== undefined || (await cluster.get(NAMESPACES, { name: namespace }, signal)) !== undefined;
    const nodes = agents?.status?.desiredNumberScheduled ?? 0;
    const what = there ? `rekindle of namespace ${namespace}, with agents on ${nodes} nodes` : `what may be left of rekindle`;
    throw new RekindleError(
      'usage',
      `this removes ${what}; live pods go on, parked ones are started${options.keepSnapshots ? '' : ', snapshots are deleted'}. Say so by --yes`,
    );
  }
  const done = await new Uninstall(
    { cluster, clock: systemClock, say },
    {
      namespace,
      keepSnapshots: options.keepSnapshots ?? false,
      redisPrefix: KEYS.prefix,
      nodesMs: options.timeout * 1000,
      waitForNamespace: options.wait,
    },
  ).run(signal);
  if (options.json) return print(JSON.stringify(done));
  for (const note of done.notes) say(`note: ${note}`);
  print(`rekindle is uninstalled: ${done.nodes.length} nodes are clean. Labels and annotations of your pods stay, and do nothing`);
}
