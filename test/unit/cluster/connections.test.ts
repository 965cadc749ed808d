import { createServer } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { expect, test } from 'vitest';
import {
  ConnectionCounter,
  type Counting,
  countConnections,
  nodeAddresses,
  parseSockets,
  socketsOf,
} from '../../../src/cluster/connections.ts';

/** As the kernel writes them, of a pod with the address 10.90.1.3 (its node: 10.90.1.1): an application at 8080 on every address, clients at 10.90.2.7 and 2001:db8::2. */
const TCP = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:2382 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 41102 1 0000000054a6b8a6 100 0 0 10 0
   1: 03015A0A:C2A4 0B00590A:1DE6 01 00000000:00000000 00:00000000 00000000  1000        0 41001 2 0000000064909572 20 0 0 10 -1
   2: 0100007F:D178 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 61539 2 0000000064909573 20 0 0 10 -1
`;
const TCP6 = `  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 26153 1 0000000054a6b8a6 100 0 0 10 0
   1: 0000000000000000FFFF00000100007F:1F90 0000000000000000FFFF00000100007F:D178 01 00000000:00000000 00:00000000 00000000  1000        0 26154 1 0000000009182fc6 20 0 0 10 -1
   2: 0000000000000000FFFF000003015A0A:1F90 0000000000000000FFFF000007025A0A:9C41 01 00000000:00000000 00:00000000 00000000  1000        0 26155 1 0000000009182fc7 20 0 0 10 -1
   3: 0000000000000000FFFF000003015A0A:1F90 0000000000000000FFFF000001015A0A:9C42 01 00000000:00000000 00:00000000 00000000     0        0     0 1 0000000009182fc8 20 0 0 10 -1
   4: 0000000000000000FFFF000003015A0A:1F90 0000000000000000FFFF000007025A0A:9C43 06 00000000:00000000 03:000017AC 00000000     0        0     0 3 0000000009182fc9
   5: B80D0120000000000000000001000000:1F90 B80D0120000000000000000002000000:9C44 01 00000000:00000000 00:00000000 00000000  1000        0 26156 1 0000000009182fca 20 0 0 10 -1
`;
const SOCKETS = [...parseSockets(TCP), ...parseSockets(TCP6)];

function counting(more: Partial<Counting> = {}): Counting {
  return { ports: [8080], node: new Set(['10.90.1.1']), ignored: new Set(), before: new Set(), ...more };
}

test('addresses of both families are read as people write them', () => {
  expect(SOCKETS[1]).toEqual({
    local: { address: '10.90.1.3', port: 49828 },
    remote: { address: '10.89.0.11', port: 7654 },
    state: 'established',
  });
  expect(SOCKETS[5]).toMatchObject({ local: { address: '10.90.1.3', port: 8080 }, remote: { address: '10.90.2.7' } });
  expect(SOCKETS[8]?.remote).toEqual({ address: '2001:db8::2', port: 40004 });
  expect(SOCKETS.map(({ state }) => state)).toEqual([
    ...['listening', 'established', 'established'],
    ...['listening', 'established', 'established', 'established', 'other', 'established'],
  ]);
});

test("others' established connections count, what the pod says to itself and the slot's own connection do not", () => {
  expect(countConnections(SOCKETS, counting()).count).toBe(2);
});

test('a probe of the kubelet does not count, a client that comes by the node does when it stays', () => {
  const first = countConnections(SOCKETS, counting());
  const second = countConnections(SOCKETS, counting({ before: first.passing }));

  expect([...first.passing]).toEqual(['10.90.1.1 40002 8080']);
  expect(second.count).toBe(3);
});

test("gateways' connections do not count, they tell their requests themselves", () => {
  expect(countConnections(SOCKETS, counting({ ignored: new Set(['10.90.2.7']) })).count).toBe(1);
});

test('without declared ports those count that something listens on for others', () => {
  expect(countConnections(SOCKETS, counting({ ports: [] })).count).toBe(2);
  expect(countConnections(SOCKETS, counting({ ports: [9090] })).count).toBe(0);
});

test("what Istio's sidecar hands on counts, although it comes by the loopback", () => {
  const line = '   9: 0100007F:1F90 0600007F:9C45 01 00000000:00000000 00:00000000 00000000  1000        0 9 1 0 20 0 0 10 -1';

  expect(countConnections(parseSockets(line), counting()).count).toBe(1);
});

test('lines that are no sockets are left out', () => {
  expect(parseSockets('\n  sl  local_address\n   0: 0100:1F90 x\nnonsense')).toEqual([]);
});

test('the sockets of a running process are found, and those of none are undefined', async () => {
  await using stack = new AsyncDisposableStack();
  const server = createServer().listen(0, '127.0.0.1');
  stack.defer(() => void server.close());
  await new Promise((resolve) => server.once('listening', resolve));
  const { port } = server.address() as AddressInfo;
  const socket = connect(port, '127.0.0.1');
  stack.defer(() => void socket.destroy());
  await new Promise((resolve) => socket.once('connect', resolve));

  const sockets = (await socketsOf(process.pid)) ?? [];

  expect(sockets.filter(({ local }) => local.port === port).map(({ state }) => state)).toContain('established');
  expect(await socketsOf(2 ** 22 + 1)).toBeUndefined();
});

test('look by look a pod is counted by its own process, and one whose process is gone is missing', async () => {
  await using stack = new AsyncDisposableStack();
  // As if all of this machine's addresses but one were the node's: what comes from there counts at the second look.
  const server = createServer().listen(0, '127.0.0.6');
  stack.defer(() => void server.close());
  await new Promise((resolve) => server.once('listening', resolve));
  const { port } = server.address() as AddressInfo;
  const socket = connect({ port, host: '127.0.0.6', localAddress: '127.0.0.6' });
  stack.defer(() => void socket.destroy());
  await new Promise((resolve) => socket.once('connect', resolve));
  const counter = new ConnectionCounter({ node: () => new Set(['127.0.0.6']) });
  const pods = [
    { uid: 'here', pid: process.pid, ports: [port] },
    { uid: 'gone', pid: 2 ** 22 + 1, ports: [port] },
  ];

  const first = await counter.look(pods, new Set());
  const second = await counter.look(pods, new Set());

  expect([...first]).toEqual([['here', 0]]);
  expect([...second]).toEqual([['here', 1]]);
  expect([...nodeAddresses()]).toContain('127.0.0.1');
});
