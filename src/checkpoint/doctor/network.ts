import { readFile } from 'node:fs/promises';
import { networkInterfaces } from 'node:os';
import type { Exec } from '../../lib/exec.ts';
import { examine, type Fact, type Finding, fail, ok, warn } from '../../lib/fact.ts';
import { couldLoad, tryAlone } from './trial.ts';

export type NetworkDeps = { readonly exec: Exec; readonly subnet: string; readonly bridge: string };

/** What containers' networks need. Links are tried in a network namespace that ends with the trial. */
export function examineNetwork({ exec, subnet, bridge }: NetworkDeps): Promise<Fact[]> {
  return examine('network', {
    bridge: () => tryLink(exec, 'bridge', ['type', 'bridge']),
    veth: () => tryLink(exec, 'veth', ['type', 'veth', 'peer', 'name', 'rekindle-try1']),
    subnet: () => {
      const addresses = Object.entries(networkInterfaces()).flatMap(([name, list]) =>
        (list ?? []).map(({ address }) => ({ name, address })),
      );
      return subnetFinding(subnet, bridge, addresses);
    },
    forwarding: async () => forwarding(await readFile('/proc/sys/net/ipv4/ip_forward', 'utf8')),
  });
}

async function tryLink(exec: Exec, name: string, type: readonly string[]): Promise<Finding> {
  if (await couldLoad(name)) return ok(name, 'the module is there and loads with the first container');
  const { status, stderr } = await tryAlone(exec, 'net', 'ip', ['link', 'add', 'rekindle-try0', ...type]);
  if (status === 0) return ok(name, 'can be made');
  return fail(name, `cannot be made: ${stderr.trim().split('\n').at(-1)}`, `needs iproute2, CAP_NET_ADMIN and a kernel with ${name} links`);
}

/** Whether an interface other than our bridge has an address of the containers' subnet (`10.87.0.0/16`). */
export function subnetFinding(
  subnet: string,
  bridge: string,
  addresses: readonly { readonly name: string; readonly address: string }[],
): Finding {
  const [base = '', length = ''] = subnet.split('/');
  const prefix = Number(length);
  const start = ipv4(base);
  if (start === undefined || !(prefix >= 1 && prefix <= 30))
    return fail('subnet', `${subnet} is no IPv4 subnet`, 'set REKINDLE_SUBNET, e.g. to 10.87.0.0/16');
  const size = 2 ** (32 - prefix);
  const taken = addresses.find(({ name, address }) => {
    const number = ipv4(address);
    return name !== bridge && number !== undefined && Math.floor(number / size) === Math.floor(start / size);
  });
  if (taken === undefined) return ok('subnet', `${subnet} on ${bridge}`);
  return warn(
    'subnet',
    `${subnet} holds ${taken.address} of interface ${taken.name}: one of the two will not be reached`,
    'set REKINDLE_SUBNET to a free one',
  );
}

/** From the text of /proc/sys/net/ipv4/ip_forward. */
export function forwarding(text: string): Finding {
  if (text.trim() === '1')
    return ok('forwarding', 'on: containers may reach beyond this machine where its firewall lets and translates them');
  return ok(
    'forwarding',
    'off: containers reach this machine and each other, nothing beyond',
    'if they need the world: sysctl net.ipv4.ip_forward=1 and a masquerading rule',
  );
}

function ipv4(address: string): number | undefined {
  const parts = address.split('.').map(Number);
  if (parts.length !== 4 || !parts.every((part) => Number.isInteger(part) && part >= 0 && part <= 255)) return undefined;
  return parts.reduce((number, part) => number * 256 + part, 0);
}
