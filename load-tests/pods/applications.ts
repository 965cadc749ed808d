import { aDeployment, PORT } from '../../test/cluster/fixture/workloads.ts';

export type Application = { readonly name: string; readonly command: readonly string[]; readonly probePath: string };

const sample = (name: string): Application => ({ name, command: [`/app/${name}/start`], probePath: '/healthz' });

/** What the image of the cluster tests has (images/samples/Containerfile.apps). */
export const NODE = sample('node');
const NGINX: Application = { name: 'nginx', command: ['nginx', '-c', '/app/nginx/nginx.conf'], probePath: '/' };
export const APPLICATIONS = [NODE, sample('python'), sample('java'), NGINX] as const;
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
  const { name = application.name, periodSeconds = 1, probed = true, resources, ...rest } = options;
  return aDeployment({
    ...rest,
    name,
    replicas: 0,
    command: application.command,
    pod: { terminationGracePeriodSeconds: 1 },
    container: {
      readinessProbe: probed ? { httpGet: { path: application.probePath, port: PORT }, periodSeconds } : undefined,
      ...(resources === undefined ? {} : { resources }),
    },
  });
}

/** The policy of all that is not said to have another. */
export const QUICK = 'quick';

/** A ConfigMap with a policy. */
export function policy(name: string, lines: readonly string[]): object {
  return { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name }, data: { 'cr-properties': `${lines.join('\n')}\n` } };
}
