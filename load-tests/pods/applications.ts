import { aDeployment, PORT, propertiesOf } from '../../test/cluster/fixture/workloads.ts';

export type Application = {
  readonly name: string;
  readonly command: readonly string[];
  readonly probePath: string;
  readonly memoryMiB?: number;
  /** Run in its container before it is checkpointed. */
  readonly warmup?: string;
};

/** What the image of the cluster tests has (images/samples/Containerfile.apps), limited and warmed as images/samples/rekindle.yaml says. */
const sample = (name: string, memoryMiB: number, warmPath: string, warmCount: number): Application => ({
  name,
  command: [`/app/${name}/start`],
  probePath: '/healthz',
  memoryMiB,
  warmup: `for i in $(seq ${warmCount}); do curl -sfo /dev/null 'http://localhost:${PORT}${warmPath}'; done`,
});

export const NODE = sample('node', 512, '/warm?n=50', 5);
const NGINX: Application = { name: 'nginx', command: ['nginx', '-c', '/app/nginx/nginx.conf'], probePath: '/' };
export const APPLICATIONS = [NODE, sample('python', 512, '/warm?n=200', 3), sample('java', 768, '/warm?n=1000', 3), NGINX] as const;
/** Ready as soon as its container runs: what Kubernetes itself takes for a pod with this probe. */
export const EMPTY = NGINX;

/** Seconds of a probe that says nothing else. */
export const DEFAULT_PERIOD = 10;

export type Options = {
  /** Default: the application's. */
  readonly name?: string;
  /** Whether rekindle sees its pods. */
  readonly enabled: boolean;
  /** Of every probe; what rekindle's webhook writes is 1. */
  readonly periodSeconds?: number;
  readonly properties?: string;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly resources?: object;
  /** Default: true. */
  readonly probed?: boolean;
};

/** A Deployment without replicas. */
export function deploymentOf(application: Application, options: Options): object {
  const { name = application.name, periodSeconds = 1, probed = true, resources = resourcesOf(application), ...rest } = options;
  return aDeployment({
    ...rest,
    name,
    replicas: 0,
    command: application.command,
    pod: { terminationGracePeriodSeconds: 1 },
    container: {
      readinessProbe: probed ? { httpGet: { path: application.probePath, port: PORT }, periodSeconds } : undefined,
      resources,
    },
  });
}

function resourcesOf({ memoryMiB }: Application): object {
  const requests = { cpu: '10m', memory: '64Mi' };
  return memoryMiB === undefined ? { requests } : { requests, limits: { memory: `${memoryMiB}Mi` } };
}

/** The policy of an application, with further lines; named after it, or as `name` says. */
export function policyOf(
  { name: own, warmup }: Application,
  { name = own, lines = [] }: { name?: string; lines?: readonly string[] } = {},
): object {
  // The first restore of all is the trial.
  const quick = ['cr.checkpoint.verify=first-restore', 'cr.checkpoint.allowSharedRandom=true'];
  return propertiesOf(name, [...quick, ...(warmup === undefined ? [] : [`cr.container.warmup=${warmup}`]), ...lines]);
}
