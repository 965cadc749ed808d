import { link, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { errno, RekindleError } from '../lib/errors.ts';

/** An IPv4 network: its first address and the length of its prefix. */
export type Subnet = { readonly base: number; readonly prefix: number };

/** The addresses of one container, and of the bridge that is its way out. */
export type Addresses = {
  readonly v4: string;
  readonly v6: string;
  readonly prefix: number;
  readonly gateway4: string;
  readonly gateway6: string;
  readonly mac: string;
};

/** Reads `A.B.C.D/N`, N from 8 to 29. Throws `usage`. */
export function parseSubnet(text: string): Subnet {
  const match = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})\/(\d{1,2})$/.exec(text);
  const octets = match?.slice(1, 5).map(Number) ?? [];
  const prefix = Number(match?.[5]);
  if (match === null || octets.some((octet) => octet > 255) || !(prefix >= 8 && prefix <= 29)) {
    throw new RekindleError('usage', `${text} is no subnet for containers: write A.B.C.D/N with N from 8 to 29, for example 10.87.0.0/16`);
  }
  const address = octets.reduce((value, octet) => value * 256 + octet, 0);
  const size = 2 ** (32 - prefix);
  return { base: Math.floor(address / size) * size, prefix };
}

/**
 * The `index`th addresses of a subnet; 1 is the bridge's own. The IPv6 address is a unique local one (RFC 4193) that carries the IPv4 address, and so does the hardware
 * address: neighbours that remember an address of a removed container are right about the next one that gets it.
 */
export function addressesAt(subnet: Subnet, index: number): Addresses {
  const number = subnet.base + index;
  return {
    v4: dotted(number),
    v6: unique(subnet, number),
    prefix: subnet.prefix,
    gateway4: dotted(subnet.base + 1),
    gateway6: unique(subnet, subnet.base + 1),
    mac: `02:52:${hex(number).match(/../g)?.join(':') ?? ''}`,
  };
}

const dotted = (n: number): string => [24, 16, 8, 0].map((shift) => (n >>> shift) & 255).join('.');
const hex = (n: number): string => (n >>> 0).toString(16).padStart(8, '0');
const groups = (n: number): string => `${hex(n).slice(0, 4)}:${hex(n).slice(4)}`;
const unique = (subnet: Subnet, n: number): string =>
  new URL(`http://[fd72:656b:${groups(subnet.base)}::${groups(n)}]`).hostname.slice(1, -1);

/**
 * Which address is whose: one file per address, made at once by link(2), so that several processes with the same state directory never
 * give one address twice. The file holds the container's uid.
 */
export class AddressPool {
  readonly #dir: string;
  readonly #subnet: Subnet;
  /** Where the search goes on: an address just freed is used again as late as possible. */
  #next: number;

  constructor(deps: { dir: string; subnet: Subnet; random?: () => number }) {
    this.#dir = deps.dir;
    this.#subnet = deps.subnet;
    this.#next = Math.floor((deps.random ?? Math.random)() * this.#size);
  }

  /** Takes a free address for a container. Throws `machine_unsupported` when none is left. */
  async take(uid: string): Promise<Addresses> {
    await mkdir(this.#dir, { recursive: true, mode: 0o700 });
    const mine = path.join(this.#dir, `.${uid}`);
    await writeFile(mine, uid);
    try {
      for (let tries = 0; tries < this.#size; tries++) {
        const addresses = addressesAt(this.#subnet, 2 + (this.#next++ % this.#size));
        if (await linkNew(mine, path.join(this.#dir, addresses.v4))) return addresses;
      }
    } finally {
      await rm(mine, { force: true });
    }
    throw new RekindleError(
      'machine_unsupported',
      `all ${this.#size} addresses of the subnet are taken: remove containers, or choose a larger subnet`,
      { retryable: true },
    );
  }

  /** Gives the address back, if it is the container's. May be repeated. */
  async free(address: string, uid: string): Promise<void> {
    const file = path.join(this.#dir, address);
    if ((await readFile(file, 'utf8').catch(() => '')) === uid) await rm(file, { force: true });
  }

  /** Frees every address of a container for which `exists` is false. */
  async freeAllBut(exists: (uid: string) => boolean): Promise<void> {
    for (const entry of await readdir(this.#dir).catch(() => [])) {
      const uid = entry.startsWith('.') ? entry.slice(1) : await readFile(path.join(this.#dir, entry), 'utf8').catch(() => undefined);
      if (uid !== undefined && !exists(uid)) await rm(path.join(this.#dir, entry), { force: true });
    }
  }

  /** Without the network's own address, the bridge's and the broadcast address. */
  get #size(): number {
    return 2 ** (32 - this.#subnet.prefix) - 3;
  }
}

async function linkNew(from: string, to: string): Promise<boolean> {
  try {
    await link(from, to);
    return true;
  } catch (error) {
    if (errno(error) === 'EEXIST') return false;
    throw error;
  }
}
