import { createServer, type RequestListener, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Guard } from '../../../src/gateway/guard.ts';
import { createHttpServer } from '../../../src/gateway/http-server.ts';
import type { GatewayMetrics } from '../../../src/gateway/metrics.ts';
import { Problems } from '../../../src/gateway/problems.ts';
import { Traffic } from '../../../src/gateway/traffic.ts';
import type { SlotTruth } from '../../../src/queue/truth.ts';
import { aSlot, FakeView } from '../../fixtures/fake-view.ts';

export const noMetrics: GatewayMetrics = { answered: () => undefined, waited: () => undefined, sentAgain: () => undefined };

/** The part of a gateway that passes requests on, on a port of its own, with a view that the test fills. */
export class Rig implements AsyncDisposable {
  readonly view = new FakeView();
  readonly problems = new Problems({ wallMs: () => Date.now() });
  readonly server: Server;
  readonly traffic: Traffic;
  readonly #stack = new AsyncDisposableStack();
  url = '';
  port = 0;

  constructor(options: { readonly token?: string } = {}) {
    const guard = new Guard({ token: options.token, loopback: true });
    this.traffic = this.#stack.use(
      new Traffic({
        namespaced: false,
        id: 'gw-1',
        url: () => this.url,
        view: this.view,
        guard,
        problems: this.problems,
        metrics: noMetrics,
        onReady: () => undefined,
        onDemand: () => undefined,
      }),
    );
    this.traffic.follow();
    this.server = createHttpServer(this.traffic.invoker, (_, response) => response.writeHead(404).end());
    this.#stack.defer(() => closeServer(this.server));
  }

  static async open(options: { readonly token?: string } = {}): Promise<Rig> {
    const rig = new Rig(options);
    rig.port = await listen(rig.server);
    rig.url = `http://127.0.0.1:${rig.port}`;
    return rig;
  }

  /** Starts an application; it serves nothing before the view says that it is ready. */
  async application(listener: RequestListener, setUp?: (server: Server) => void): Promise<Application> {
    const server = createServer(listener);
    setUp?.(server);
    const address = `127.0.0.1:${await listen(server)}`;
    this.#stack.defer(() => closeServer(server));
    return { address, server };
  }

  /** A workload with one ready instance. */
  async serving(listener: RequestListener, pool: Record<string, unknown> = {}, setUp?: (server: Server) => void): Promise<Application> {
    const application = await this.application(listener, setUp);
    this.view.workloads({ demo: { deadlineSeconds: 5, maxConcurrency: 100, ...pool } });
    this.ready([application]);
    return application;
  }

  /** Says that these are all the ready instances of `demo`. */
  ready(applications: readonly Application[], more: Partial<SlotTruth> = {}): void {
    this.view.node(
      'n1',
      applications.map(({ address }) => aSlot('demo', { uid: `uid-${address}`, address, ...more })),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#stack.disposeAsync();
  }
}

export type Application = { readonly address: string; readonly server: Server };

export async function listen(server: Server): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return (server.address() as AddressInfo).port;
}

export async function closeServer(server: Server): Promise<void> {
  server.closeAllConnections();
  await new Promise<void>((resolve) => server.close(() => resolve()));
}
