import { readFile } from 'node:fs/promises';
import { networkInterfaces } from 'node:os';

/** One line of /proc/PID/net/tcp: addresses as people write them, a mapped one (`::ffff:1.2.3.4`) as the IPv4 address that it is. */
export type Socket = {
  readonly local: Peer;
  readonly remote: Peer;
  readonly state: 'established' | 'listening' | 'other';
};
export type Peer = { readonly address: string; readonly port: number };

export type Counting = {
  /** The container's declared ports; none: every port that something listens on for others than the pod itself. */
  readonly ports: readonly number[];
  /** Addresses of the node: its kubelet's probes come from these, and so do clients of a NodePort. */
  readonly node: ReadonlySet<string>;
  /** Whose connections do not count: gateways keep some open, and tell themselves what they have in flight. */
  readonly ignored: ReadonlySet<string>;
  /** What {@link countConnections} returned as `passing` at the last look. */
  readonly before: ReadonlySet<string>;
};

/** Istio's sidecar hands on what came for the application from these addresses (InboundPassthroughBindIpv4 and 6): others' connections, though on the loopback. */
const SIDECAR = new Set(['127.0.0.6', '::6']);
/** Kernel's include/net/tcp_states.h. */
const STATES: Readonly<Record<string, Socket['state']>> = { '01': 'established', '0A': 'listening' };

/** Parses the text of `/proc/PID/net/tcp` or `tcp6` (proc_pid_net(5)) of a little-endian machine. Lines that are no sockets are left out. */
export function parseSockets(text: string): Socket[] {
  return text.split('\n').flatMap((line) => {
    const [, localAddress, localPort, remoteAddress, remotePort, state = ''] =
      /^\s*\d+: ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) ([0-9A-F]{2}) /.exec(line) ?? [];
    if (localAddress === undefined || localPort === undefined || remoteAddress === undefined || remotePort === undefined) return [];
    return [{ local: peer(localAddress, localPort), remote: peer(remoteAddress, remotePort), state: STATES[state] ?? 'other' }];
  });
}

/**
 * How many established connections others have to the container's ports; those that wait to be accepted are among them. What the pod sends to itself
 * does not count. A connection from the node itself counts when it is there at two looks in a row: a probe's is over by then. Pure.
 */
export function countConnections(sockets: readonly Socket[], counting: Counting): { count: number; passing: ReadonlySet<string> } {
  const { node, ignored, before } = counting;
  const ports = new Set(counting.ports.length > 0 ? counting.ports : openPorts(sockets));
  const passing = new Set<string>();
  let count = 0;
  for (const { local, remote, state } of sockets) {
    if (state !== 'established' || !ports.has(local.port) || isOwn(local, remote) || ignored.has(remote.address)) continue;
    const name = `${remote.address} ${remote.port} ${local.port}`;
    if (node.has(remote.address)) passing.add(name);
    if (!node.has(remote.address) || before.has(name)) count += 1;
  }
  return { count, passing };
}

/** The sockets of the network namespace that the process is in. Undefined when the process is gone. */
export async function socketsOf(pid: number): Promise<Socket[] | undefined> {
  try {
    // A machine without IPv6 has no tcp6.
    const [four, six] = await Promise.all([
      readFile(`/proc/${pid}/net/tcp`, 'utf8'),
      readFile(`/proc/${pid}/net/tcp6`, 'utf8').catch(() => ''),
    ]);
    return [...parseSockets(four), ...parseSockets(six)];
  } catch {
    return undefined;
  }
}

export type CountedPod = { readonly uid: string; readonly pid: number; readonly ports: readonly number[] };

/** They seldom change, and to ask takes 16 ms on a node with a hundred pods. */
const LOOKS_AT_NODE_EVERY = 30;

/** Counts the connections of a node's pods, look by look: once a second is meant. */
export class ConnectionCounter {
  readonly #node: () => ReadonlySet<string>;
  #addresses: ReadonlySet<string> = new Set();
  #looks = 0;
  #passing: ReadonlyMap<string, ReadonlySet<string>> = new Map();

  /** `node`: the addresses of this node, see {@link nodeAddresses}. */
  constructor(options: { node: () => ReadonlySet<string> }) {
    this.#node = options.node;
  }

  /** By uid; a pod whose process is gone is missing. `pid`: any process in the pod's network. */
  async look(pods: readonly CountedPod[], ignored: ReadonlySet<string>): Promise<ReadonlyMap<string, number>> {
    if (this.#looks++ % LOOKS_AT_NODE_EVERY === 0) this.#addresses = this.#node();
    const node = this.#addresses;
    const counts = new Map<string, number>();
    const passing = new Map<string, ReadonlySet<string>>();
    for (const { uid, pid, ports } of pods) {
      const sockets = await socketsOf(pid);
      if (sockets === undefined) continue;
      const found = countConnections(sockets, { ports, node, ignored, before: this.#passing.get(uid) ?? new Set() });
      counts.set(uid, found.count);
      passing.set(uid, found.passing);
    }
    this.#passing = passing;
    return counts;
  }
}

/** Every address of this machine, of its bridges too: pods see the kubelet come from one of these. Only for a process in the node's network. */
export function nodeAddresses(): ReadonlySet<string> {
  return new Set(Object.values(networkInterfaces()).flatMap((all) => (all ?? []).map(({ address }) => address)));
}

function openPorts(sockets: readonly Socket[]): number[] {
  return sockets.flatMap(({ local, state }) => (state === 'listening' && !isLoopback(local.address) ? [local.port] : []));
}

function isOwn(local: Peer, remote: Peer): boolean {
  return (isLoopback(remote.address) && !SIDECAR.has(remote.address)) || (remote.address === local.address && !SIDECAR.has(remote.address));
}

function isLoopback(address: string): boolean {
  return address.startsWith('127.') || address === '::1';
}

function peer(address: string, port: string): Peer {
  return { address: address.length === 8 ? ipv4(address) : ipv6(address), port: Number.parseInt(port, 16) };
}

/** The kernel prints the four bytes as one number of the machine's byte order. */
function ipv4(hex: string): string {
  return bytes(hex).reverse().join('.');
}

/** The same, in four numbers. Written as RFC 5952 wants it. */
function ipv6(hex: string): string {
  if (hex.startsWith('0000000000000000FFFF0000')) return ipv4(hex.slice(24));
  const words = (hex.match(/.{8}/g) ?? []).flatMap((word) => bytes(word).reverse());
  const groups = Array.from({ length: 8 }, (_, index) => ((words[2 * index] ?? 0) * 256 + (words[2 * index + 1] ?? 0)).toString(16));
  return new URL(`http://[${groups.join(':')}]`).hostname.slice(1, -1);
}

function bytes(hex: string): number[] {
  return (hex.match(/../g) ?? []).map((two) => Number.parseInt(two, 16));
}
