import { hash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import type { MachineFacts } from '../checkpoint/machine.ts';
import type { NodeTruth, PhaseTruth, View, WorkloadTruth } from '../queue/truth.ts';
import { coldReason } from '../workloads/normalise.ts';
import type { Inventory } from './inventory.ts';
import type { Pool } from './pool.ts';
import type { Seeds } from './seeds.ts';
import type { SpecIndex } from './spec-index.ts';

/** What does not change while an agent runs. */
export type NodeFacts = Pick<NodeTruth, 'name' | 'agent' | 'machineClass' | 'cores' | 'maxInstances' | 'memoryBytes'>;

export type NodeTruthDeps = {
  readonly pool: Pick<Pool, 'truth' | 'warming' | 'warmFailure'>;
  readonly seeds: Pick<Seeds, 'refusal'>;
  readonly inventory: Pick<Inventory, 'fitting' | 'quarantined' | 'truth'>;
  readonly index: Pick<SpecIndex, 'get'>;
  readonly trials: { readonly count: number };
  readonly pulling: () => readonly string[];
  readonly view: () => Pick<View, 'workloads'>;
};

/** So much of a machine's memory is for instances. */
const MEMORY_SHARE = 0.8;
/** Where the limit of the group is that everything of a container or service runs in (cgroups(7)): version 2, version 1. */
const LIMITS = ['/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory/memory.limit_in_bytes'];

/** All that a node says of itself now; put together at once, from what is in memory. */
export function nodeTruth(
  facts: NodeFacts,
  now: { readonly leaving: boolean; readonly peer: string | undefined },
  deps: NodeTruthDeps,
): NodeTruth {
  const workloads = deps.view().workloads;
  return {
    ...facts,
    ...(now.peer === undefined ? {} : { peer: now.peer }),
    leaving: now.leaving,
    trials: deps.trials.count,
    pulling: [...deps.pulling()],
    snapshots: deps.inventory.truth(),
    phases: workloads === undefined ? [] : [...workloads.values()].map((workload) => phaseOf(workload, deps)),
    slots: deps.pool.truth(),
  };
}

function phaseOf(workload: WorkloadTruth, { pool, seeds, inventory, index }: NodeTruthDeps): PhaseTruth {
  const { name, revision, spec } = workload;
  const about = { workload: name, revision };
  const refused = (reason: string): PhaseTruth => ({ ...about, at: 'refused', reason });
  const never = coldReason(spec);
  if (never !== undefined) return refused(never);
  const specHash = index.get(name, revision);
  const digest = specHash === undefined ? undefined : inventory.fitting(specHash, spec);
  if (digest !== undefined) return { ...about, at: 'ready', digest };
  const warming = pool.warming(workload);
  if (warming !== undefined) return { ...about, at: 'warming', ...(warming.slot === undefined ? {} : { slot: warming.slot }) };
  const reason = specHash === undefined ? undefined : (seeds.refusal(specHash) ?? inventory.quarantined(specHash));
  const why = reason ?? pool.warmFailure(workload);
  return why === undefined ? { ...about, at: 'none' } : refused(why);
}

/** What this machine can hold, and whom its snapshots fit. */
export async function nodeFacts(options: {
  readonly name: string;
  readonly agent: string;
  readonly machine: MachineFacts;
  readonly maxInstances: number;
}): Promise<NodeFacts> {
  const { name, agent, machine, maxInstances } = options;
  return {
    name,
    agent,
    machineClass: machineClassOf(machine),
    cores: availableParallelism(),
    maxInstances,
    memoryBytes: await memoryBytes(),
  };
}

/** Name of the compatibility class that a machine is of. */
export function machineClassOf({ arch, cpuFeatures, kernel, criu }: MachineFacts): string {
  return hash('sha256', JSON.stringify([arch, cpuFeatures, kernel, criu]), 'hex').slice(0, 16);
}

async function memoryBytes(): Promise<number> {
  const totalKiB = Number(/^MemTotal:\s*(\d+)/m.exec(await readFile('/proc/meminfo', 'utf8'))?.[1] ?? 0);
  const limits = await Promise.all(LIMITS.map(async (path) => Number(await readFile(path, 'utf8').catch(() => ''))));
  const real = limits.filter((limit) => Number.isFinite(limit) && limit > 0);
  return Math.floor(Math.min(totalKiB * 1024, ...real) * MEMORY_SHARE);
}
