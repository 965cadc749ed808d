import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import { ERRORS, type ErrorCode } from './errors.ts';

export type Role = 'agent' | 'scaler' | 'gateway';

/** Why an instance started cold: what the README says of `rekindle_cold_starts_total`, or the error of the restore that was tried. */
export const COLD_REASONS = ['seed', 'no_snapshot', 'refused', 'policy', 'restarted', ...(Object.keys(ERRORS) as ErrorCode[])] as const;
export type ColdReason = (typeof COLD_REASONS)[number];

export const PHASES = ['decided', 'files', 'criu', 'restored', 'ready'] as const;
type Phase = (typeof PHASES)[number];

/** What the shared view says at one moment. */
export type ViewFacts = {
  readonly workloads: Iterable<string>;
  readonly slots: Iterable<{ readonly workload: string; readonly state: string }>;
  readonly snapshots: Iterable<{ readonly workload: string; readonly totalBytes: number; readonly quarantined: boolean }>;
  readonly demand: Iterable<{ readonly workload: string; readonly waiting: number; readonly inFlight: number }>;
  /** Of the leading scaler; empty while none leads. */
  readonly desired: Readonly<Record<string, number>>;
};

/** A millisecond is much here, and after ten seconds it no longer matters how long it took. */
const BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10];

/**
 * Every metric there is, as one process counts it. The README lists them with their help texts; a test holds the two together. Labels are from closed
 * sets: a `workload` is one that exists. All series have the label `role`. Gauges are told only where a source was named for them. No method throws.
 */
export class Metrics {
  readonly registry = new Registry();
  readonly #restores = this.#counter('restores_total', 'Restores that were tried: `live`, or `cold` if it had to be a cold start instead', [
    'workload',
    'outcome',
  ]);
  readonly #phases = this.#histogram(
    'restore_phase_seconds',
    'Live restores: from hello (or the job’s begin) until `decided`, `restored` and `ready`; `files` and `criu` are spans of it',
    ['phase'],
  );
  readonly #coldStarts = this.#counter(
    'cold_starts_total',
    'Instances that started cold: as the `seed`; with `no_snapshot` yet; `refused`, since none could be made or it is quarantined; by `policy`; `restarted` containers; else the error of the restore',
    ['workload', 'reason'],
  );
  readonly #checkpoints = this.#counter('checkpoints_total', 'Snapshots that were made: `published`, or the error', [
    'workload',
    'outcome',
  ]);
  readonly #freezes = this.#histogram('freeze_seconds', 'How long an application stood still for its snapshot', []);
  readonly #pulls = this.#counter('pulls_total', 'Snapshots fetched from other nodes: `pulled`, or the error', ['outcome']);
  readonly #pulledBytes = this.#counter('pulled_bytes_total', 'Size of the snapshots that were fetched', []);
  readonly #queueWaits = this.#histogram('queue_wait_seconds', 'From queueing a job until its node begins it', ['job_name']);
  readonly #jobs = this.#counter('jobs_total', 'Jobs that ended: `done`, `failed`, or `again` if it will be tried again', [
    'job_name',
    'outcome',
  ]);
  readonly #requests = this.#histogram(
    'request_seconds',
    'From the arrival of a request to the end of its answer; `start` as in `rekindle-start`, or `none`; `status` is `2xx` to `5xx`, or `gone` if the client was',
    ['workload', 'start', 'status'],
  );
  readonly #requestWaits = this.#histogram(
    'request_wait_seconds',
    'Requests that waited for an instance: `served`, refused since the queue was `full`, `deadline` reached, client `gone`',
    ['workload', 'outcome'],
  );
  readonly #sentAgain = this.#counter('requests_sent_again_total', 'Requests given to another instance than the first', ['workload']);
  readonly #plans = this.#histogram('plan_seconds', 'One look of the leading scaler at all pools', []);
  readonly #actions = this.#counter('actions_total', 'What the leading scaler decided', ['action']);
  readonly #passes = this.#counter('loop_passes_total', 'Passes of control loops: `ok`, `failed`', ['loop', 'outcome']);

  constructor({ role }: { readonly role: Role }) {
    this.registry.setDefaultLabels({ role });
  }

  /** The process itself, under the names that prom-client gives everywhere. */
  countProcess(): void {
    collectDefaultMetrics({ register: this.registry });
  }

  /** A restore is live. `ready` is undefined for a workload that does not say when it is. */
  restored(workload: string, seconds: Readonly<Record<Exclude<Phase, 'ready'>, number>> & { readonly ready: number | undefined }): void {
    this.#restores.inc({ workload, outcome: 'live' });
    for (const phase of PHASES) {
      const took = seconds[phase];
      if (took !== undefined) this.#phases.observe({ phase }, took);
    }
  }

  /** An instance started cold; `instead`: of a restore that was tried. */
  startedCold(workload: string, reason: ColdReason, { instead }: { readonly instead: boolean }): void {
    this.#coldStarts.inc({ workload, reason });
    if (instead) this.#restores.inc({ workload, outcome: 'cold' });
  }

  snapshotMade(workload: string, freezeSeconds: number): void {
    this.#checkpoints.inc({ workload, outcome: 'published' });
    this.#freezes.observe(freezeSeconds);
  }

  snapshotFailed(workload: string, code: ErrorCode): void {
    this.#checkpoints.inc({ workload, outcome: code });
  }

  /** `bytes`: of a snapshot that is here now. */
  pulled(outcome: 'pulled' | ErrorCode, bytes: number): void {
    this.#pulls.inc({ outcome });
    this.#pulledBytes.inc(bytes);
  }

  jobBegan(name: string, waitedSeconds: number): void {
    this.#queueWaits.observe({ job_name: name }, waitedSeconds);
  }

  jobEnded(name: string, outcome: 'done' | 'failed' | 'again'): void {
    this.#jobs.inc({ job_name: name, outcome });
  }

  /** `status` 0: the client had gone. */
  answered(
    labels: { readonly workload: string; readonly start: 'warm' | 'restore' | 'cold' | 'none'; readonly status: number },
    seconds: number,
  ): void {
    const { workload, start, status } = labels;
    this.#requests.observe({ workload, start, status: status === 0 ? 'gone' : `${Math.trunc(status / 100)}xx` }, seconds);
  }

  waited(workload: string, outcome: 'served' | 'full' | 'deadline' | 'gone', seconds: number): void {
    this.#requestWaits.observe({ workload, outcome }, seconds);
  }

  sentAgain(workload: string): void {
    this.#sentAgain.inc({ workload });
  }

  /** The leading scaler has planned; `actions` are the words of what is to be done, each as often as it is. */
  planned(seconds: number, actions: readonly string[]): void {
    this.#plans.observe(seconds);
    for (const action of actions) this.#actions.inc({ action });
  }

  /** As `runLoop` calls it. */
  readonly passed = (loop: string, outcome: 'ok' | 'failed'): void => {
    this.#passes.inc({ loop, outcome });
  };

  followRedis(up: () => boolean): void {
    this.#gauge('redis_connected', '1 while Redis answers this process, else 0', [], (gauge) => gauge.set(up() ? 1 : 0));
  }

  followLeader(leads: () => boolean): void {
    this.#gauge('leader', '1 at the scaler that leads, else 0', [], (gauge) => gauge.set(leads() ? 1 : 0));
  }

  /** Gauges of what everybody tells: the same whoever follows it. `read` is called at every scrape. */
  followView(read: () => ViewFacts): void {
    this.#gauge('pool_slots', 'Slots and instances in each state', ['workload', 'state'], (gauge) => {
      for (const { workload, state } of read().slots) gauge.inc({ workload, state });
    });
    this.#gauge('desired_instances', 'Instances that the leading scaler wants', ['workload'], (gauge) => {
      for (const [workload, instances] of Object.entries(read().desired)) gauge.set({ workload }, instances);
    });
    this.#perWorkload('requests_waiting', 'Requests that wait for an instance, at all gateways', read, (gauge, { demand }) => {
      for (const { workload, waiting } of demand) gauge.inc({ workload }, waiting);
    });
    this.#perWorkload('requests_in_flight', 'Requests at instances, of all gateways', read, (gauge, { demand }) => {
      for (const { workload, inFlight } of demand) gauge.inc({ workload }, inFlight);
    });
    this.#perWorkload('snapshots', 'Snapshots, counted on each node that has them', read, (gauge, { snapshots }) => {
      for (const { workload } of snapshots) gauge.inc({ workload });
    });
    this.#perWorkload('snapshot_bytes', 'Their size on all nodes', read, (gauge, { snapshots }) => {
      for (const { workload, totalBytes } of snapshots) gauge.inc({ workload }, totalBytes);
    });
    this.#perWorkload('snapshots_quarantined', 'Those that are left alone since restores of them failed', read, (gauge, { snapshots }) => {
      for (const { workload, quarantined } of snapshots) if (quarantined) gauge.inc({ workload });
    });
  }

  /** A workload that has nothing to add is told as 0. */
  #perWorkload(name: string, help: string, read: () => ViewFacts, fill: (gauge: Gauge, facts: ViewFacts) => void): void {
    this.#gauge(name, help, ['workload'], (gauge) => {
      const facts = read();
      for (const workload of facts.workloads) gauge.set({ workload }, 0);
      fill(gauge, facts);
    });
  }

  #counter(name: string, help: string, labelNames: string[]): Counter {
    return new Counter({ name: `rekindle_${name}`, help, labelNames, registers: [this.registry] });
  }

  #histogram(name: string, help: string, labelNames: string[]): Histogram {
    return new Histogram({ name: `rekindle_${name}`, help, labelNames, buckets: BUCKETS, registers: [this.registry] });
  }

  #gauge(name: string, help: string, labelNames: string[], fill: (gauge: Gauge) => void): void {
    new Gauge({
      name: `rekindle_${name}`,
      help,
      labelNames,
      registers: [this.registry],
      collect() {
        // What is no more is told no more.
        this.reset();
        fill(this);
      },
    });
  }
}
