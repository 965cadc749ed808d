import type { ActionSpec, HttpRequestSpec, ProbeSpec, WorkloadSpec } from './workload.ts';

/** When attempts are made and how many count, as in Kubernetes probes, in milliseconds. */
export type ProbeTiming = {
  readonly initialDelayMs: number;
  readonly periodMs: number;
  readonly timeoutMs: number;
  readonly successThreshold: number;
  readonly failureThreshold: number;
};

export type ProbeCheck =
  | { readonly kind: 'command'; readonly command: string }
  | { readonly kind: 'http'; readonly port: number; readonly path: string; readonly headers: Readonly<Record<string, string>> }
  | { readonly kind: 'tcp'; readonly port: number }
  | { readonly kind: 'grpc'; readonly port: number; readonly service: string };

/** A probe with every short form written out. */
export type NormalProbe = ProbeTiming & ProbeCheck;

export type HttpCall = {
  readonly method: HttpRequestSpec['method'];
  readonly port: number;
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string;
};

/** An action with every short form written out. `timeoutMs` is for the whole action. */
export type NormalAction = { readonly timeoutMs: number } & (
  | { readonly kind: 'command'; readonly command: string }
  | { readonly kind: 'requests'; readonly request: HttpCall; readonly count: number; readonly concurrency: number }
);

/** The check that says when the application is ready; undefined if the workload names none. */
export function readinessOf(spec: Pick<WorkloadSpec, 'container'>): NormalProbe | undefined {
  return spec.container.readiness === undefined ? undefined : normalProbe(spec.container.readiness);
}

/** What is done once between readiness and checkpoint, in order. */
export function warmupOf(spec: Pick<WorkloadSpec, 'container'>): NormalAction[] {
  return normalActions(spec.container.warmup);
}

/** What a restored instance does before it counts as live. */
export function afterRestoreOf(spec: Pick<WorkloadSpec, 'restore'>): NormalAction[] {
  return normalActions(spec.restore.after);
}

/** What must give different output in two clones. */
export function randomChecksOf(spec: Pick<WorkloadSpec, 'checkpoint'>): NormalAction[] {
  return normalActions(spec.checkpoint.random);
}

/** Why instances of this workload always start cold, as the end of a sentence; undefined if they may be clones. */
export function coldReason({ container, restore }: Pick<WorkloadSpec, 'container' | 'restore'>): string | undefined {
  if (restore.cold !== undefined) return restore.cold;
  const names = Object.keys(container.instanceEnv);
  if (names.length === 0 || restore.identity !== undefined) return undefined;
  return `${names.join(', ')} differ${names.length === 1 ? 's' : ''} per instance and a clone would have the seed's: set restore.identity to file or ignore to allow clones`;
}

/** How many snapshots of the workload are kept, and for how long; as `chooseForRemoval` of snapshots/ takes it. */
export function retentionOf({ checkpoint }: Pick<WorkloadSpec, 'checkpoint'>): { keep: number; maxTotalBytes?: number; maxAgeMs?: number } {
  return {
    keep: checkpoint.keep,
    ...(checkpoint.maxTotalMiB === undefined ? {} : { maxTotalBytes: checkpoint.maxTotalMiB * 1024 * 1024 }),
    ...(checkpoint.maxAgeSeconds === undefined ? {} : { maxAgeMs: checkpoint.maxAgeSeconds * 1000 }),
  };
}

function normalProbe(probe: ProbeSpec): NormalProbe {
  if (typeof probe === 'string') {
    return {
      kind: 'command',
      command: probe,
      initialDelayMs: 0,
      periodMs: 1_000,
      timeoutMs: 1_000,
      successThreshold: 1,
      failureThreshold: 300,
    };
  }
  const timing: ProbeTiming = {
    initialDelayMs: probe.initialDelaySeconds * 1_000,
    periodMs: probe.periodSeconds * 1_000,
    timeoutMs: probe.timeoutSeconds * 1_000,
    successThreshold: probe.successThreshold,
    failureThreshold: probe.failureThreshold,
  };
  if ('command' in probe) return { kind: 'command', command: probe.command, ...timing };
  if ('http' in probe) return { kind: 'http', port: probe.http.port, path: probe.http.path, headers: probe.http.headers ?? {}, ...timing };
  if ('tcp' in probe) return { kind: 'tcp', port: probe.tcp.port, ...timing };
  return { kind: 'grpc', port: probe.grpc.port, service: probe.grpc.service, ...timing };
}

function normalActions(actions: ActionSpec | readonly ActionSpec[] | undefined): NormalAction[] {
  if (actions === undefined) return [];
  return isList(actions) ? actions.map(normalAction) : [normalAction(actions)];
}

// Array.isArray does not narrow a union with a readonly array.
function isList(actions: ActionSpec | readonly ActionSpec[]): actions is readonly ActionSpec[] {
  return Array.isArray(actions);
}

function normalAction(action: ActionSpec): NormalAction {
  if (typeof action === 'string') return { kind: 'command', command: action, timeoutMs: 60_000 };
  const timeoutMs = action.timeoutSeconds * 1_000;
  if ('command' in action) return { kind: 'command', command: action.command, timeoutMs };
  const { method, port, path, headers = {}, body } = action.request;
  const request: HttpCall = { method, port, path, headers, ...(body === undefined ? {} : { body }) };
  return { kind: 'requests', request, count: action.count, concurrency: action.concurrency, timeoutMs };
}
