import { randomInt } from 'node:crypto';
import { DEPLOYMENTS, NODES, PODS } from '../../src/cluster/kinds.ts';
import { Namespace } from '../../test/cluster/fixture/kube-namespace.ts';
import { snapshotsOf } from '../../test/cluster/fixture/snapshots.ts';
import { type Moment, type Timeline, Timelines } from './timelines.ts';

/** Also on a machine that has much else to do. */
const WITHIN_MS = 120_000;
const REQUEST_MS = 10_000;

/** A namespace of the cluster in which Deployments are scaled out and in, and every pod is timed. Disposing ends all that is in it. */
export class Stage implements AsyncDisposable {
  readonly space = new Namespace(`load-${randomInt(36 ** 6).toString(36)}`, {});
  readonly timelines = new Timelines();

  static async open(): Promise<Stage> {
    const stage = new Stage();
    await stage.space.make();
    await stage.timelines.follow(stage.space);
    return stage;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.timelines.stop();
    await this.space.remove();
  }

  /** What a figure depends on besides the machine. */
  async versions(): Promise<Readonly<Record<string, unknown>>> {
    const nodes = await this.space.kube.list(NODES, {}, AbortSignal.timeout(REQUEST_MS));
    const { kubeletVersion, containerRuntimeVersion } = nodes[0]?.status?.nodeInfo ?? {};
    return { kubernetes: kubeletVersion, runtime: containerRuntimeVersion, nodes: nodes.length };
  }

  /** Where agents run: the addresses of the nodes. */
  async agents(): Promise<readonly string[]> {
    const labels = 'app.kubernetes.io/name=rekindle-agent';
    const pods = await this.space.kube.list(PODS, { namespace: 'rekindle', labels }, AbortSignal.timeout(REQUEST_MS));
    return pods.flatMap(({ status, metadata }) => (metadata?.deletionTimestamp === undefined ? (status?.hostIP ?? []) : []));
  }

  /** Says how many replicas there are to be, and does not wait for them. */
  async resize(app: string, replicas: number): Promise<void> {
    const at = { name: app, namespace: this.space.name, subresource: 'scale' } as const;
    await this.space.kube.patch(DEPLOYMENTS, at, { spec: { replicas } }, 'merge', AbortSignal.timeout(REQUEST_MS));
  }

  /** Resolves with the pods when so many have come to this. */
  async scaleOut(app: string, replicas: number, moment: Moment = 'ready'): Promise<readonly Timeline[]> {
    await this.resize(app, replicas);
    return this.untilAll(app, replicas, moment);
  }

  /** Waits until so many pods have come to this, and there are no others. */
  untilAll(app: string, count: number, moment: Moment): Promise<readonly Timeline[]> {
    return this.timelines.until(
      `${count} pods of ${app} that are ${moment}`,
      (all) => {
        const pods = all.filter((pod) => pod.app === app && !pod.gone && pod.pod.metadata?.deletionTimestamp === undefined);
        return pods.length === count && pods.every(({ at }) => at[moment] !== undefined) ? pods : undefined;
      },
      WITHIN_MS,
    );
  }

  /** The same from none at all, as one pod. */
  async startOne(app: string, moment: Moment = 'ready'): Promise<Timeline> {
    await this.untilNone(app);
    const [pod] = await this.scaleOut(app, 1, moment);
    if (pod === undefined) throw new Error(`${app} has no pod`);
    return pod;
  }

  async clear(app: string): Promise<void> {
    await this.resize(app, 0);
    await this.untilNone(app);
  }

  /** Makes the snapshot of a Deployment without pods, has it brought to every node, restores pods from it there, and leaves none. */
  async makeSnapshot(app: string): Promise<void> {
    const nodes = (await this.agents()).length;
    await this.scaleOut(app, 1);
    const everywhere = async () => (await snapshotsOf(this.space, app)).some((snapshot) => snapshot.nodes.length >= nodes);
    await this.space.until(`the snapshot of ${app} on ${nodes} nodes`, everywhere, WITHIN_MS);
    await this.scaleOut(app, 1 + nodes);
    await this.clear(app);
  }

  /** Waits until nothing of its pods is left. */
  async untilNone(app: string): Promise<void> {
    const none = (all: readonly Timeline[]) => all.every((pod) => pod.app !== app || pod.gone) || undefined;
    await this.timelines.until(`the end of all pods of ${app}`, none, WITHIN_MS);
  }
}
