import type { Digest } from './state.ts';

type At = { readonly node: string; readonly workload: string };
type OfSlot = At & { readonly slot: string };

/** One thing to do. Each may be asked for again in the next plan as long as the state does not show it (see `assume`). */
export type Action =
  /**
   * Wake this slot. Without a snapshot it starts cold; with one that is not on the node, its agent pulls or starts cold. `seed`: the class's snapshot is to be
   * made from it, where no slot can be made for that.
   */
  | (OfSlot & {
      readonly do: 'restore';
      readonly snapshot: Digest | undefined;
      readonly why: 'waiting' | 'demand' | 'minimum' | 'seed';
      readonly seed?: true;
    })
  /** Make a parked slot; `slot` names it until its container has a uid of its own. */
  | (OfSlot & { readonly do: 'park' })
  | (At & { readonly do: 'pull'; readonly digest: Digest; readonly from: string })
  /** Make a seed and from it the class's snapshot. */
  | (At & { readonly do: 'warm'; readonly machineClass: string })
  /** Checkpoint an instance with its state and end it; its slot is `suspended`. */
  | (OfSlot & { readonly do: 'suspend' })
  /** End an instance; its slot is parked again. */
  | (OfSlot & { readonly do: 'end' })
  /** Send it no new requests: there are too many of its workload, or another has waited too long for its room. A later plan ends it. */
  | (OfSlot & { readonly do: 'drain' })
  /** Remove slot and container. An instance that started cold goes this way: its PID 1 is the application, nothing is left to park. */
  | (OfSlot & { readonly do: 'remove'; readonly why: 'surplus' | 'failed' | 'idle' });
