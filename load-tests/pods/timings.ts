import type { RestoreTiming } from '../../src/agent/events.ts';
import { kubectl } from '../../test/cluster/fixture/cluster.ts';

type Line = { readonly time: string; readonly workload?: string; readonly timing?: RestoreTiming };

/** Longer than the rounds of one application take. */
const SINCE = '10m';

/**
 * Where the time of a workload's last restores went (`NAMESPACE.NAME`; at most so many), as the agents of all nodes wrote it into their logs. None where their
 * logs have been rotated since.
 */
export async function lastTimings(workload: string, count: number): Promise<readonly RestoreTiming[]> {
  const log = await kubectl([
    '-n',
    'rekindle',
    'logs',
    '--selector=app.kubernetes.io/name=rekindle-agent',
    '--container=agent',
    '--tail=-1',
    `--since=${SINCE}`,
  ]);
  return log
    .split('\n')
    .filter((line) => line.includes('"timing"'))
    .map((line) => JSON.parse(line) as Line)
    .toSorted((a, b) => a.time.localeCompare(b.time))
    .flatMap(({ workload: of, timing }) => (of === workload && timing !== undefined ? [timing] : []))
    .slice(-count);
}
