import type { AgentListener, Cold } from '../agent/events.ts';
import { type ColdReason, Metrics, type Role, type ViewFacts } from '../lib/metrics.ts';
import type { JobWorkerDeps } from '../queue/job-worker.ts';
import type { View } from '../queue/truth.ts';

/** The metrics of a role's process. */
export function openMetrics(role: Role): Metrics {
  const metrics = new Metrics({ role });
  metrics.countProcess();
  return metrics;
}

/** Counts what happens in an agent. */
export function countEvents(metrics: Metrics): AgentListener {
  return (event) => {
    const { workload } = event;
    if (event.type === 'snapshot') return metrics.snapshotMade(workload, event.freezeMs / 1000);
    if (event.type === 'checkpoint-failed') return metrics.snapshotFailed(workload, event.code);
    const { state } = event;
    if (state.at === 'cold') return metrics.startedCold(workload, coldReasonOf(state), { instead: state.why === 'failed' });
    if (state.at !== 'live') return;
    const { decidedMs, filesMs, criuMs, restoredMs, readyMs } = state.timing;
    metrics.restored(workload, {
      decided: decidedMs / 1000,
      files: filesMs / 1000,
      criu: criuMs / 1000,
      restored: restoredMs / 1000,
      ready: readyMs === undefined ? undefined : readyMs / 1000,
    });
  };
}

function coldReasonOf({ why, code }: Partial<Cold>): ColdReason {
  return why === undefined || why === 'failed' ? (code ?? 'internal') : why;
}

/** Counts the jobs of a node's worker. */
export function countJobs(metrics: Metrics): Required<Pick<JobWorkerDeps, 'onStart' | 'onEnd'>> {
  return {
    onStart: (job, waitedMs) => metrics.jobBegan(job.name, waitedMs / 1000),
    onEnd: (job, outcome) => metrics.jobEnded(job.name, outcome),
  };
}

/** What the shared view says, as gauges tell it. */
export function viewFacts({ nodes, gateways, scaler, workloads }: View): ViewFacts {
  const saidByNodes = [...nodes.values()].map(({ said }) => said);
  return {
    workloads: workloads?.keys() ?? [],
    slots: saidByNodes.flatMap(({ slots }) => slots),
    snapshots: saidByNodes.flatMap(({ snapshots }) =>
      snapshots.map(({ workload, totalBytes, quarantined }) => ({ workload, totalBytes, quarantined: quarantined !== undefined })),
    ),
    demand: [...gateways.values()].flatMap(({ said }) => said.demand),
    desired: scaler?.said.desired ?? {},
  };
}
