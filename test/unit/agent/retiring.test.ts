import { expect, onTestFinished, test } from 'vitest';
import type { AgentEvent } from '../../../src/agent/events.ts';
import { Retiring } from '../../../src/agent/retiring.ts';
import { monotonicClock as clock } from '../../../src/lib/clock.ts';
import { spawnDuplex } from '../../../src/lib/exec.ts';
import { silentLog as log } from '../../../src/lib/log.ts';
import { SlotServer } from '../../../src/slots/slot-server.ts';
import type { Container } from '../../../src/workloads/host.ts';
import { SLOT, SlotProcess } from '../../fixtures/slot-process.ts';
import { aWorkloadTruth } from '../../fixtures/truths.ts';
import { until } from '../../fixtures/until.ts';

/** As a pod's, whose command line says that it is a slot. */
const PROGRAM = ['bash', '-c', 'exec -a /rekindle/slot "$0" "$@"', SLOT];
const POD = { namespace: 'shop', serviceAccount: 'default', container: 'web', security: '', sysctls: {}, revision: 'r', held: true };

/** A node whose slots an earlier agent parked, and which then ended. */
async function aNode(uids: readonly string[]) {
  const stop = new AbortController();
  onTestFinished(() => stop.abort());
  const earlier = new SlotServer({ onConnection: (connection) => connection.park(), clock, log, tcp: { host: '127.0.0.1', port: 0 } });
  await earlier.listen();
  const port = earlier.tcpPort ?? 0;
  const slots = uids.map(
    (uid) =>
      new SlotProcess({
        agent: `tcp:127.0.0.1:${port}`,
        program: PROGRAM,
        command: ['sh', '-c', 'echo runs; exec sleep 60'],
        env: { REKINDLE_POD_UID: uid },
      }),
  );
  const containers = await Promise.all(slots.map(async (slot, i) => aContainer(uids[i] ?? '', await slot.pid())));
  await new Promise((resolve) => setTimeout(resolve, 300));
  await earlier.close();
  const events: AgentEvent[] = [];
  const host = {
    find: async (uid: string) => containers.find((one) => one.uid === uid),
    list: async () => containers,
    exec: () => Promise.reject(new Error('no')),
  };
  const deps = { host, dial: { spawnDuplex, connect: '' }, listener: (event: AgentEvent) => void events.push(event), clock, log };
  const retiring = new Retiring({ ...deps, stop: stop.signal });
  const listen = async () => {
    const server = new SlotServer({ onConnection: retiring.onConnection, clock, log, tcp: { host: '127.0.0.1', port } });
    onTestFinished(() => server.close());
    await server.listen();
  };
  return { slots, retiring, events, listen };
}

function aContainer(uid: string, pid: number): Container {
  const { name, spec } = aWorkloadTruth();
  // Without checks: a moment is waited.
  const workload = { name: `shop.${name}`, ...spec, container: { ...spec.container, ports: [] } };
  return { uid, name: `web-${uid}`, workload, pid, restarts: 0, addresses: [], imageDigest: '', volumes: [], createdAtMs: 0, pod: POD };
}

test('every parked slot starts its application, a few at a time, and each is told', async () => {
  const node = await aNode(['a', 'b', 'c', 'd', 'e']);
  const left: number[] = [];

  await node.listen();
  const silent = await node.retiring.untilNoneParked((many) => void left.push(many));

  expect(silent).toEqual([]);
  expect(node.retiring.started).toBe(5);
  for (const slot of node.slots) await until('its application', () => slot.output.includes('runs'));
  expect(left[0]).toBe(5);
  // Not all at once.
  expect(new Set(left).size).toBeGreaterThan(2);
  expect(node.events.map((event) => event.type === 'instance' && event.state)).toEqual(
    Array(5).fill({ at: 'cold', why: 'policy', reason: 'rekindle is being uninstalled' }),
  );
});

test('a slot that does not come is named instead of being waited for without end', async () => {
  const node = await aNode(['a']);

  const silent = await node.retiring.untilNoneParked(() => undefined);

  expect(silent).toEqual(['web-a']);
});

test('where nothing is parked it is done at once', async () => {
  const node = await aNode([]);

  expect(await node.retiring.untilNoneParked(() => undefined)).toEqual([]);
});
