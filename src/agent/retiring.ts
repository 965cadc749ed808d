import { existsSync } from 'node:fs';
import type { Clock } from '../lib/clock.ts';
import { toRekindleError } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';
import { Semaphore } from '../lib/semaphore.ts';
import { waitReady } from '../probes/probe.ts';
import type { SlotConnection } from '../slots/slot-connection.ts';
import type { Container, Host } from '../workloads/host.ts';
import { waits } from './container-process.ts';
import type { AgentListener } from './events.ts';
import { eagerProbe } from './restorer.ts';
import { SlotProof } from './slot-proof.ts';
import { type TargetDeps, targetOf } from './targets.ts';

export type RetiringDeps = TargetDeps & {
  readonly host: Pick<Host, 'find' | 'list'>;
  /** Told of each pod that has started. */
  readonly listener: AgentListener;
  readonly clock: Clock;
  readonly log: Log;
  /** Aborts when the process ends. */
  readonly stop: AbortSignal;
};

const REASON = 'rekindle is being uninstalled';
/** Cold starts at the same time on a node: each may need all of a core. */
const AT_ONCE = 2;
/** For an application without checks: until it has begun to work. */
const UNKNOWN_MS = 2_000;
/** Slots look for their agent at least once a second, and connect within five. */
const SILENT_MS = 15_000;
const LOOK_EVERY_MS = 200;

/**
 * The last agent of a node: applications of parked slots are started, a few at a time, each until it is ready; a slot that asks what to do starts cold; what is live is
 * left alone. No slot is parked or restored into any more. Slots that do not come are told as `silent`.
 */
export class Retiring {
  readonly #deps: RetiringDeps;
  readonly #proof: SlotProof;
  readonly #turns = new Semaphore(AT_ONCE);
  readonly #under = new Set<string>();
  #started = 0;

  constructor(deps: RetiringDeps) {
    this.#deps = deps;
    this.#proof = new SlotProof(deps);
  }

  /** Applications that were started. */
  get started(): number {
    return this.#started;
  }

  /** For the slot server. */
  readonly onConnection = (connection: SlotConnection): void => {
    this.#hear(connection).catch((err: unknown) => {
      if (!this.#deps.stop.aborted) this.#deps.log.warn({ err, slot: connection.hello.uid }, 'slot could not be heard');
    });
  };

  /**
   * Resolves when no slot of this node is parked any more, with the names of those that did not come to be started; `progress` hears how many are left. May be
   * asked again.
   */
  async untilNoneParked(progress: (left: number) => void): Promise<readonly string[]> {
    const { host, clock, stop } = this.#deps;
    let since = clock.now();
    let before = Number.POSITIVE_INFINITY;
    for (;;) {
      stop.throwIfAborted();
      const parked = (await host.list()).filter(({ pod, pid }) => pod !== undefined && waits(pid));
      progress(parked.length);
      if (parked.length === 0 && this.#under.size === 0) return [];
      if (parked.length < before || this.#under.size > 0) since = clock.now();
      before = parked.length;
      if (clock.now() - since > SILENT_MS) return parked.map(({ name }) => name);
      await clock.sleep(LOOK_EVERY_MS, stop);
    }
  }

  async #hear(connection: SlotConnection): Promise<void> {
    const { host, stop, listener } = this.#deps;
    const { uid, state } = connection.hello;
    // It would come again and again.
    if (state === 'live') return;
    const container = await host.find(uid);
    if (container === undefined || !(await this.#proof.isSlotOf(container, this.#proof.ask(connection, stop)))) return connection.close();
    if (state === 'undecided') {
      connection.cold();
      return listener(coldStart(container));
    }
    if (this.#under.has(uid)) return;
    this.#under.add(uid);
    try {
      await this.#turns.run(() => this.#start(container, connection), stop);
    } finally {
      this.#under.delete(uid);
    }
  }

  async #start(container: Container, connection: SlotConnection): Promise<void> {
    const { clock, stop, listener, log } = this.#deps;
    connection.cold();
    this.#started += 1;
    const probe = eagerProbe(container);
    try {
      if (probe === undefined) await clock.sleep(UNKNOWN_MS, stop);
      else await waitReady(probe, targetOf(this.#deps, container), { clock }, stop);
      log.info({ slot: container.uid, pod: container.name }, 'application of a parked slot started');
    } catch (error) {
      if (stop.aborted) throw error;
      // It is an ordinary container now: its probes and the kubelet see to it.
      const gone = existsSync(`/proc/${container.pid}`) ? '' : ', and has ended';
      log.warn(
        { slot: container.uid, pod: container.name, problem: toRekindleError(error).message },
        `application started${gone}, but is not ready`,
      );
    }
    listener(coldStart(container));
  }
}

function coldStart({ uid, name, workload }: Container): Parameters<AgentListener>[0] {
  return { type: 'instance', uid, name, workload: workload.name, state: { at: 'cold', why: 'policy', reason: REASON } };
}
