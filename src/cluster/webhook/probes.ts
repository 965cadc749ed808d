import { SLOT_PROGRAM } from '../../workloads/kubernetes.ts';
import { MOST, type ProbeSpec } from '../../workloads/workload.ts';
import type { PodContainer, PodProbe } from '../kinds.ts';

/** Kubernetes' defaults (https://kubernetes.io/docs/tasks/configure-pod-container/configure-liveness-readiness-startup-probes/). */
const PERIOD_SECONDS = 10;
const TIMEOUT_SECONDS = 1;
const FAILURE_THRESHOLD = 3;
/** Seconds after which an application that gives no other budget is not waited for any more. */
const START_SECONDS = 300;

/** What a container's probes have to say about when a snapshot of it can be made. */
export type DerivedProbe = { readonly probe: ProbeSpec | undefined; readonly warnings: readonly string[] };

/** The container's own readiness check (else its startup check) as the agent asks it: every second, for as long as the application may take to start. */
export function readinessOfContainer(container: PodContainer): DerivedProbe {
  const asked = container.readinessProbe ?? container.startupProbe;
  if (asked === undefined) return { probe: undefined, warnings: [] };
  // Kubernetes takes larger numbers than any agent waits for.
  const timing = {
    initialDelaySeconds: Math.min(MOST.seconds, asked.initialDelaySeconds ?? 0),
    periodSeconds: 1,
    timeoutSeconds: Math.min(MOST.seconds, asked.timeoutSeconds ?? TIMEOUT_SECONDS),
    successThreshold: Math.min(MOST.successes, asked.successThreshold ?? 1),
    failureThreshold: Math.min(MOST.failures, Math.max(START_SECONDS, startSeconds(container))),
  };
  const { exec, httpGet, tcpSocket, grpc } = asked;
  if (exec?.command?.length) return { probe: { command: shellCommand(exec.command), ...timing }, warnings: [] };
  if (grpc !== undefined) return { probe: { grpc: { port: grpc.port, service: grpc.service ?? '' }, ...timing }, warnings: [] };
  const port = portNumber(container, (httpGet ?? tcpSocket)?.port);
  if (port === undefined)
    return { probe: undefined, warnings: [`readiness of container ${container.name} asks a port that it does not name`] };
  if (httpGet === undefined) return { probe: { tcp: { port }, ...timing }, warnings: [] };
  if (httpGet.scheme === 'HTTPS')
    return {
      probe: { tcp: { port }, ...timing },
      warnings: [
        `readiness of container ${container.name} is over HTTPS: before a checkpoint only the connection is tried; cr.container.readiness can say more`,
      ],
    };
  const headers = Object.fromEntries((httpGet.httpHeaders ?? []).map(({ name, value }) => [name, value]));
  const some = Object.keys(headers).length > 0 ? { headers } : {};
  return { probe: { http: { path: urlPath(httpGet.path), port, ...some }, ...timing }, warnings: [] };
}

/**
 * A startup probe that is asked every second. Kubelet's first attempt is before the restore, and with the usual period the next one comes ten seconds later.
 * It has as many attempts as its budget has seconds: while an application starts they are refused at once, and one killed too early never starts.
 */
export function startupEverySecond(probe: PodProbe): PodProbe {
  const { periodSeconds = PERIOD_SECONDS, failureThreshold = FAILURE_THRESHOLD } = probe;
  return { ...probe, periodSeconds: 1, failureThreshold: periodSeconds * failureThreshold };
}

/**
 * A readiness probe that is asked every second, and takes an application that hangs out of service after the same time as before. Kubelet makes one attempt
 * after the other, so each that gets no answer takes as long as the timeout, where that is more than the period. With such a timeout, attempts that are
 * refused at once are over sooner than before.
 */
export function readinessEverySecond(probe: PodProbe): PodProbe {
  const { periodSeconds = PERIOD_SECONDS, timeoutSeconds = TIMEOUT_SECONDS, failureThreshold = FAILURE_THRESHOLD } = probe;
  const attempt = (period: number) => Math.max(period, timeoutSeconds);
  return { ...probe, periodSeconds: 1, failureThreshold: Math.ceil((failureThreshold * attempt(periodSeconds)) / attempt(1)) };
}

/** Why a slot cannot answer this probe while it is parked; undefined if it can. */
export function cannotPark(container: PodContainer): string | undefined {
  for (const kind of PROBES) {
    const probe = container[kind];
    if (probe?.grpc !== undefined) return `its ${kind} is gRPC, which a parked slot cannot answer: use exec, httpGet or tcpSocket`;
    if (probe?.httpGet?.scheme === 'HTTPS')
      return `its ${kind} is over HTTPS, which a parked slot cannot answer: use exec, HTTP or tcpSocket`;
    if (probe?.httpGet?.host !== undefined || probe?.tcpSocket?.host !== undefined)
      return `its ${kind} asks another host than the pod, which a parked slot cannot answer for`;
    const target = probe?.httpGet ?? probe?.tcpSocket;
    if (target !== undefined && portNumber(container, target.port) === undefined) return `its ${kind} asks a port that it does not name`;
  }
  return undefined;
}

/** Ports on which a parked slot answers probes. */
export function parkedPorts(container: PodContainer): number[] {
  const ports = PROBES.flatMap((kind) => portNumber(container, (container[kind]?.httpGet ?? container[kind]?.tcpSocket)?.port) ?? []);
  return [...new Set(ports)].sort((a, b) => a - b);
}

/**
 * Probes of a container that parks: commands go through the slot, which answers while there is no application, and liveness waits as long as a start
 * may take, since kubelet's startup probe is over once the slot has parked.
 */
export function parkingProbes(container: PodContainer): Pick<PodContainer, (typeof PROBES)[number]> {
  const { readinessProbe, startupProbe, livenessProbe } = container;
  return {
    ...(readinessProbe === undefined ? {} : { readinessProbe: throughSlot(readinessProbe) }),
    ...(startupProbe === undefined ? {} : { startupProbe: throughSlot(startupProbe) }),
    ...(livenessProbe === undefined ? {} : { livenessProbe: throughSlot(patient(livenessProbe, startSeconds(container))) }),
  };
}

const PROBES = ['startupProbe', 'readinessProbe', 'livenessProbe'] as const;

function throughSlot(probe: PodProbe): PodProbe {
  const command = probe.exec?.command ?? [];
  return command.length === 0 ? probe : { ...probe, exec: { command: [SLOT_PROGRAM, 'probe', '--', ...command] } };
}

function patient(probe: PodProbe, budgetSeconds: number): PodProbe {
  const { periodSeconds = PERIOD_SECONDS, failureThreshold = FAILURE_THRESHOLD } = probe;
  return { ...probe, failureThreshold: failureThreshold + Math.ceil(budgetSeconds / periodSeconds) };
}

/** How long kubelet would wait for the application to start before it kills it. */
function startSeconds({ startupProbe, livenessProbe }: PodContainer): number {
  if (startupProbe === undefined) return livenessProbe?.initialDelaySeconds ?? 0;
  const { initialDelaySeconds = 0, periodSeconds = PERIOD_SECONDS, failureThreshold = FAILURE_THRESHOLD } = startupProbe;
  return initialDelaySeconds + periodSeconds * failureThreshold;
}

function portNumber({ ports = [] }: PodContainer, port: unknown): number | undefined {
  if (typeof port === 'number') return port;
  return ports.find(({ name }) => name !== undefined && name === port)?.containerPort;
}

/** As kubelet, which takes what stands there relative to the root. */
function urlPath(path = '/'): string {
  const absolute = path.startsWith('/') ? path : `/${path}`;
  return absolute.replace(/[^\x21-\x7e]/gu, encodeURIComponent);
}

/** The arguments as one line for `/bin/sh -c`. */
function shellCommand(command: readonly string[]): string {
  const [shell, option, line] = command;
  if (command.length === 3 && (shell === 'sh' || shell === '/bin/sh') && option === '-c' && line) return line;
  return `exec ${command.map((argument) => `'${argument.replaceAll("'", "'\\''")}'`).join(' ')}`;
}
