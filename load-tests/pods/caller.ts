import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { APPS } from '../../test/cluster/fixture/cluster.ts';
import { PORT } from '../../test/cluster/fixture/workloads.ts';
import type { Stage } from './stage.ts';

export type Asked = { readonly ms: number; readonly status: number; readonly start: string | null; readonly text: string };

const NAME = 'caller';
const TIMEOUT_MS = 70_000;

/** A pod that asks from within the cluster, where addresses of Services and pods are reached whatever the machine is (caller.cjs). */
export class Caller {
  readonly #stage: Stage;

  constructor(stage: Stage) {
    this.#stage = stage;
  }

  async start(): Promise<void> {
    const script = await readFile(join(import.meta.dirname, 'caller.cjs'), 'utf8');
    const readinessProbe = { httpGet: { path: '/', port: PORT }, periodSeconds: 1 };
    const container = { name: NAME, image: APPS, command: ['node', '-e', script], readinessProbe };
    const spec = { terminationGracePeriodSeconds: 0, containers: [container] };
    await this.#stage.space.apply({ apiVersion: 'v1', kind: 'Pod', metadata: { name: NAME, labels: { app: NAME } }, spec });
    await this.#stage.space.untilReady(`app=${NAME}`);
  }

  /** Holds so many connections to a Service from now on; resolves when they are there. */
  async hold(service: string, count: number): Promise<void> {
    await this.#get('/crowd', { host: service, count: String(count) });
  }

  /** One POST, and how it went as the caller saw it. Throws when it was not answered 200. */
  async ask(url: string): Promise<Asked> {
    const asked = (await this.#get('/ask', { url })) as Asked;
    if (asked.status !== 200) throw new Error(`${url} was answered ${asked.status}: ${asked.text}`);
    return asked;
  }

  #get(path: string, query: Readonly<Record<string, string>>): Promise<unknown> {
    const { space } = this.#stage;
    const at = `/api/v1/namespaces/${space.name}/pods/${NAME}:${PORT}/proxy${path}?${new URLSearchParams(query)}`;
    return space.kube.raw(at, AbortSignal.timeout(TIMEOUT_MS));
  }
}
