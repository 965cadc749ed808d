import type { Log } from '../lib/log.ts';
import { newNonce, proveProcess } from '../slots/prove.ts';
import type { SlotConnection } from '../slots/slot-connection.ts';
import type { Container } from '../workloads/host.ts';

/** A proof takes a round trip; one that takes longer comes from no slot of ours. */
const PROOF_TIMEOUT_MS = 2_000;
/** Connections that claim to be one container's and have not proved it: for one more, the oldest is closed. A slot has one. */
const MAX_UNPROVED = 4;

/** Tells slots from processes that only claim to be one. */
export class SlotProof {
  readonly #log: Log;
  readonly #unproved = new Map<string, Set<SlotConnection>>();

  constructor(deps: { readonly log: Log }) {
    this.#log = deps.log;
  }

  /** Whether the connection is that of the container's process 1. Many claims at once keep out neither other containers nor the real one. */
  async isSlotOf(container: Container, connection: SlotConnection, signal: AbortSignal): Promise<boolean> {
    const { uid } = container;
    const rivals = this.#unproved.get(uid) ?? new Set<SlotConnection>();
    this.#unproved.set(uid, rivals.add(connection));
    const [oldest] = rivals;
    if (rivals.size > MAX_UNPROVED && oldest !== undefined) {
      rivals.delete(oldest);
      oldest.close();
    }
    try {
      const nonce = newNonce();
      await connection.prove(nonce, AbortSignal.any([signal, AbortSignal.timeout(PROOF_TIMEOUT_MS)]));
      if (await proveProcess(container.pid, nonce)) return true;
      this.#log.warn({ slot: uid }, 'a process claimed to be a slot that it is not');
      return false;
    } finally {
      rivals.delete(connection);
      if (rivals.size === 0) this.#unproved.delete(uid);
    }
  }
}
