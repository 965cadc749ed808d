import type { View } from '../queue/truth.ts';
import { nearest } from '../workloads/nearest.ts';
import type { Failure } from './failure.ts';

/** What is known when a request has to be told why it got no instance. */
export type Situation = {
  readonly view: View;
  /** Redis answers. */
  readonly connected: boolean;
  /** The last thing that went wrong with this workload. */
  readonly lastProblem: string | undefined;
};

export function unknownWorkload(name: string, view: View): Failure {
  const names = [...(view.workloads?.keys() ?? [])].sort();
  const near = nearest(name, names);
  const those = names.length === 0 ? 'none' : names.length > 10 ? `${names.slice(0, 10).join(', ')} …` : names.join(', ');
  const hint = near === undefined ? `there ${names.length === 1 ? 'is' : 'are'} ${those}` : `did you mean ${near}?`;
  return { code: 'not_found', message: `no workload ${name}: ${hint}` };
}

export function nothingHeard({ connected }: Pick<Situation, 'connected'>): Failure {
  const why = connected ? 'no scaler has told any: is one running?' : 'Redis does not answer';
  return { code: 'not_ready', message: `this gateway knows no workloads yet: ${why}`, retryAfterSeconds: 2 };
}

export function lineFull(workload: string, maxWaiting: number, situation: Situation): Failure {
  const message = `${maxWaiting} requests wait for ${workload} already (pool.maxWaiting): ${stateOf(workload, situation)}`;
  return { code: 'not_ready', message, retryAfterSeconds: 1 };
}

export function waitedTooLong(workload: string, seconds: number, situation: Situation): Failure {
  return { code: 'timeout', message: `no instance of ${workload} was free within ${seconds} s: ${stateOf(workload, situation)}` };
}

const WORDS = {
  making: 'being made',
  parked: 'parked',
  restoring: 'being restored',
  live: 'live',
  cold: 'started cold',
  ending: 'ending',
  suspended: 'suspended',
  failed: 'failed',
} as const;

/** What a workload's slots are doing, and whatever may be the reason that none serves. */
export function stateOf(workload: string, { view, connected, lastProblem }: Situation): string {
  const counts = new Map<string, number>();
  const add = (what: string) => counts.set(what, (counts.get(what) ?? 0) + 1);
  const reasons = new Set<string>();
  for (const { said } of view.nodes.values()) {
    for (const slot of said.slots) {
      if (slot.workload !== workload) continue;
      const serves = slot.state === 'live' || slot.state === 'cold';
      const busy = view.scaler?.said.draining.includes(slot.uid) ? ' and drained' : ' and busy';
      add(WORDS[slot.state] + (serves ? (slot.ready ? busy : ' but not ready') : ''));
      if (slot.error !== undefined) reasons.add(`slot ${slot.name} on ${said.name}: ${slot.error}`);
    }
    for (const phase of said.phases) {
      if (phase.workload !== workload) continue;
      if (phase.at === 'refused') reasons.add(`no snapshot on ${said.name}: ${phase.reason ?? 'it cannot be cloned'}`);
      if (phase.at === 'warming') reasons.add(`its snapshot is being made on ${said.name}`);
    }
  }
  const parts = [counts.size === 0 ? 'it has no slots' : `of its slots ${[...counts].map(([what, n]) => `${n} ${what}`).join(', ')}`];
  if (!connected) parts.push('Redis does not answer, so this may be old');
  if (view.nodes.size === 0) parts.push('no agent is there');
  if (view.scaler === undefined) parts.push('no scaler leads');
  parts.push(...[...reasons].slice(0, 3));
  if (lastProblem !== undefined && !reasons.has(lastProblem)) parts.push(`last failure: ${lastProblem}`);
  return parts.join('; ');
}
