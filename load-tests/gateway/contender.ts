// Our gateway in a process of its own, told of one ready instance at the port given. Prints its port.
import { Registry } from 'prom-client';
import { openGateway } from '../../src/gateway/gateway.ts';
import type { GatewayMetrics } from '../../src/gateway/metrics.ts';
import { silentLog } from '../../src/lib/log.ts';
import { aSlot, FakeView } from '../../test/fixtures/fake-view.ts';

const view = new FakeView();
view.workloads({ demo: { maxConcurrency: 1000 } });
view.node('n1', [aSlot('demo', { address: `127.0.0.1:${process.argv[2]}` })]);
const metrics: GatewayMetrics = { answered: () => undefined, waited: () => undefined, sentAgain: () => undefined };
const deps = { id: 'gw-1', view, metrics, registry: new Registry(), log: silentLog };
const gateway = await openGateway(deps, { listen: { host: '127.0.0.1', port: 0 } });
process.stdout.write(`${new URL(gateway.url).port}\n`);
