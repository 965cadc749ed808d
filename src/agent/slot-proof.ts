import type { Log } from '../lib/log.ts';
import { newNonce, proveProcess } from '../slots/prove.ts';
import type { SlotConnection } from '../slots/slot-connection.ts';
import type { Container } from '../workloads/host.ts';

/** A proof takes a round trip; one that takes longer comes from no slot of ours. */
const PROOF_TIMEOUT_MS = 2_000;
/** Connections that claim to be one container's and have not proved it: for one more, the oldest is closed. A slot has one. */
const MAX_UNPROVED = 4;

/** A connection that was asked for a proof. */
export type Asked = { readonly connection: SlotConnection; readonly nonce: string; readonly proved: Promise<void> };

/** Tells slots from processes that only claim to be one. */
export class SlotProof {
  readonly #log: Log;
  readonly #unproved = new Map<string, Set<SlotConnection>>();

  constructor(deps: { readonly log: Log }) {
    this.#log = deps.log;
  }

  /** Asks for a proof, for which it need not be known yet whose container it is. */
  ask(connection: SlotConnection, signal: AbortSignal): Asked {
    const nonce = newNonce();
    const proved = connection.prove(nonce, AbortSignal.any([signal, AbortSignal.timeout(PROOF_TIMEOUT_MS)]));
    // Whoever waits for it hears of it.
    proved.catch(() => undefined);
    return { connection, nonce, proved };
  }

  /** Whether the connection is that of the container's process 1. Many claims at once keep out neither other containers nor the real one. */
  async isSlotOf({ uid, pid }: Pick<Container, 'uid' | 'pid'>, { connection, nonce, proved }: Asked): Promise<boolean> {
    const rivals = this.#unproved.get(uid) ?? new Set<SlotConnection>();
    this.#unproved.set(uid, rivals.add(connection));
    const [oldest] = rivals;
    if (rivals.size > MAX_UNPROVED && oldest !== undefined) {
      rivals.delete(oldest);
      oldest.close();
    }
    try {
      await proved;
      if (proveProcess(pid, nonce)) return true;
      this.#log.warn({ slot: uid }, 'a process claimed to be a slot that it is not');
      return false;
    } finally {
      rivals.delete(connection);
      if (rivals.size === 0) this.#unproved.delete(uid);
    }
  }
}
