import { randomUUID } from 'node:crypto';
import type { Action } from '../pool/actions.ts';
import type { Job } from '../queue/jobs.ts';
import type { NodeTruth, Seen, SlotTruth } from '../queue/truth.ts';

/** An action that a node must do: all but `drain`, which is told to gateways only. */
export type NodeAction = Exclude<Action, { do: 'drain' }>;

/** A job, and the action it does: that of a `park` names the slot as it will be. `slot` is the slot as it was. */
export type Order = { readonly action: NodeAction; readonly job: Job; readonly slot: SlotTruth | undefined };

/** Undefined if the slot is no longer there. */
export function orderOf(action: NodeAction, nodes: ReadonlyMap<string, Seen<NodeTruth>>): Order | undefined {
  if (action.do === 'warm') return { action, job: { name: 'warm', data: { workload: action.workload } }, slot: undefined };
  if (action.do === 'pull') {
    const { workload, digest, from } = action;
    return { action, job: { name: 'pull', data: { workload, digest, from } }, slot: undefined };
  }
  if (action.do === 'park') {
    // The plan's name for it is a placeholder: containers' uids are UUIDs.
    const uid = randomUUID();
    return { action: { ...action, slot: uid }, job: { name: 'park', data: { slot: uid, workload: action.workload } }, slot: undefined };
  }
  const slot = nodes.get(action.node)?.said.slots.find(({ uid }) => uid === action.slot);
  return slot && { action, job: jobOf(action, slot), slot };
}

function jobOf(action: Exclude<NodeAction, { do: 'warm' | 'pull' | 'park' }>, { uid, parks }: SlotTruth): Job {
  const which = { slot: uid, parks };
  switch (action.do) {
    case 'restore': {
      const { workload, snapshot, why, seed } = action;
      const how = { ...(snapshot === undefined ? {} : { snapshot }), ...(seed === undefined ? {} : { seed }) };
      return { name: 'restore', data: { ...which, workload, why, ...how } };
    }
    case 'suspend':
      return { name: 'suspend', data: which };
    case 'end':
      return { name: 'remove', data: { ...which, park: true, why: 'idle' } };
    case 'remove':
      return { name: 'remove', data: { ...which, park: false, why: action.why } };
  }
}
