import { readdir, readFile } from 'node:fs/promises';
import { RekindleError } from '../lib/errors.ts';
import { type Exec, mustExec } from '../lib/exec.ts';
import { TRIAL_LINKS } from '../lib/trial-network.ts';
import { type Addresses, addressesAt, type Subnet } from './addresses.ts';

/** The named network namespace of a container. */
export const netnsName = (uid: string): string => `rekindle-${uid}`;
export const netnsPath = (uid: string): string => `/run/netns/${netnsName(uid)}`;

/** Name of the bridge's end of the container's cable; 15 characters are the kernel's limit. */
const cable = (uid: string): string => `rk${uid.replaceAll('-', '').slice(0, 12)}`;

/**
 * Networks of containers: a named namespace each, with `eth0` on a bridge of this machine. Containers reach the machine and each other; for
 * the world beyond, the machine must forward and translate addresses, which is its administrator's to allow.
 */
export class LocalNetwork {
  readonly #exec: Exec;
  readonly #bridge: string;
  readonly #subnet: Subnet;
  #ready: Promise<void> | undefined;

  constructor(deps: { exec: Exec; bridge: string; subnet: Subnet }) {
    this.#exec = deps.exec;
    this.#bridge = deps.bridge;
    this.#subnet = deps.subnet;
  }

  /** Makes the container's namespace and connects it. What a failure leaves, {@link detach} removes. */
  async attach(uid: string, addresses: Addresses, signal: AbortSignal): Promise<void> {
    this.#ready ??= this.#makeBridge();
    await this.#ready.catch((error: unknown) => {
      this.#ready = undefined;
      throw error;
    });
    const name = netnsName(uid);
    await this.#batch(
      [],
      [
        `netns add ${name}`,
        `link add ${cable(uid)} type veth peer name eth0 address ${addresses.mac} netns ${name}`,
        `link set ${cable(uid)} master ${this.#bridge} up`,
      ],
      signal,
    );
    await this.#batch(
      ['-n', name],
      [
        'link set lo up',
        `address add ${addresses.v4}/${addresses.prefix} dev eth0`,
        // nodad: nobody else can have it, and a listener must be able to bind at once.
        `address add ${addresses.v6}/64 dev eth0 nodad`,
        'link set eth0 up',
        `route add default via ${addresses.gateway4}`,
        `route add default via ${addresses.gateway6}`,
      ],
      signal,
    );
  }

  /** A namespace without a way out. */
  async attachTrial(uid: string, signal: AbortSignal): Promise<void> {
    const name = netnsName(uid);
    await this.#batch([], [`netns add ${name}`], signal);
    await this.#batch(['-n', name], TRIAL_LINKS, signal);
  }

  /** Removes the namespace and the cable. No error if they are gone. */
  async detach(uid: string): Promise<void> {
    const lines: string[] = [];
    if ((await readdir('/sys/class/net')).includes(cable(uid))) lines.push(`link delete ${cable(uid)}`);
    if ((await readdir('/run/netns').catch((): string[] => [])).includes(netnsName(uid))) lines.push(`netns delete ${netnsName(uid)}`);
    if (lines.length > 0) await this.#exec('ip', ['-force', '-batch', '-'], { input: `${lines.join('\n')}\n`, timeoutMs: 30_000 });
  }

  /** Removes the bridge if nothing is connected to it. */
  async removeBridge(): Promise<void> {
    const connected = await readdir(`/sys/class/net/${this.#bridge}/brif`).catch(() => ['']);
    if (connected.length > 0) return;
    this.#ready = undefined;
    await this.#exec('ip', ['link', 'delete', this.#bridge, 'type', 'bridge'], { timeoutMs: 30_000 });
  }

  /** Makes the bridge; several processes may do so at once. */
  async #makeBridge(): Promise<void> {
    const own = addressesAt(this.#subnet, 1);
    const lines = [
      `link add name ${this.#bridge} type bridge`,
      `address add ${own.v4}/${own.prefix} dev ${this.#bridge}`,
      `address add ${own.v6}/64 dev ${this.#bridge} nodad`,
      // Else it has that of one of its cables, and another whenever that one goes: containers that remember it would reach nobody for seconds.
      `link set ${this.#bridge} address ${own.mac} up`,
    ];
    // -force: goes on after "File exists".
    const made = await this.#exec('ip', ['-force', '-batch', '-'], { input: `${lines.join('\n')}\n`, timeoutMs: 30_000 });
    const shown = await mustExec(this.#exec, 'ip', ['-o', 'address', 'show', 'dev', this.#bridge], { timeoutMs: 30_000 });
    const up = await readFile(`/sys/class/net/${this.#bridge}/flags`, 'utf8').catch(() => '0');
    if (!shown.stdout.includes(`inet ${own.v4}/${own.prefix} `) || (Number(up) & 1) === 0) {
      throw new RekindleError(
        'machine_unsupported',
        `the bridge ${this.#bridge} could not be given ${own.v4}/${own.prefix}: ${made.stderr.trim()}`,
      );
    }
  }

  async #batch(options: readonly string[], lines: readonly string[], signal: AbortSignal): Promise<void> {
    await mustExec(this.#exec, 'ip', [...options, '-batch', '-'], { input: `${lines.join('\n')}\n`, timeoutMs: 30_000, signal });
  }
}
