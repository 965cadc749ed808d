import { join } from 'node:path';
import { styleText } from 'node:util';
import { examineMachine, goodToKnow } from '../checkpoint/doctor/machine.ts';
import { examineContainer } from '../checkpoint/doctor/process.ts';
import { examineWorkload } from '../checkpoint/doctor/workload.ts';
import { machineFacts } from '../checkpoint/machine.ts';
import type { Config } from '../config.ts';
import { systemClock } from '../lib/clock.ts';
import { ERRORS } from '../lib/errors.ts';
import type { Exec } from '../lib/exec.ts';
import type { Fact } from '../lib/fact.ts';
import { examine, ok, warn } from '../lib/fact.ts';
import { silentLog } from '../lib/log.ts';
import { isAlive } from '../local/processes.ts';
import { asContainer, listUids, readRecord } from '../local/record.ts';
import { whyIncompatible } from '../snapshots/compatibility.ts';
import type { Snapshot } from '../snapshots/shelf.ts';
import { SnapshotStore } from '../snapshots/store.ts';
import type { Container } from '../workloads/host.ts';
import type { WorkloadSpec } from '../workloads/workload.ts';

export type DoctorOptions = { readonly config: Config; readonly exec: Exec; readonly workload?: WorkloadSpec; readonly json: boolean };

/**
 * Prints every fact that matters about this machine and, given a workload, whether that can be checkpointed. Returns the exit code: 0, or that
 * of `machine_unsupported` when a fact fails. Changes nothing: it neither opens the local host nor the store, which would clean up.
 */
export async function doctor(options: DoctorOptions): Promise<number> {
  const { workload, json } = options;
  const about =
    workload === undefined
      ? { subject: 'This machine', deed: 'checkpoint and restore' }
      : { subject: `Workload ${workload.name}`, deed: 'be checkpointed' };
  return report(await factsOf(options), { ...about, json });
}

/** Whom the verdict is about, and what it can do or cannot. */
type About = { readonly subject: string; readonly deed: string };

/** Prints the facts; returns the exit code. */
export function report(facts: readonly Fact[], about: About & { readonly json: boolean }): number {
  const passed = facts.every(({ level }) => level !== 'fail');
  const colour = process.stdout.isTTY === true && process.stdout.hasColors();
  process.stdout.write(about.json ? `${JSON.stringify({ ok: passed, facts })}\n` : factsText(facts, { ...about, colour }));
  return passed ? 0 : ERRORS.machine_unsupported.exit;
}

async function factsOf({ config, exec, workload }: DoctorOptions): Promise<Fact[]> {
  const store = new SnapshotStore({ dir: join(config.stateDir, 'snapshots'), log: silentLog, clock: systemClock, exec });
  const machine = await Promise.all([examineMachine({ ...config, exec }), examineSnapshots(store, exec)]);
  if (workload === undefined) return [...machine.flat(), ...goodToKnow()];
  const snapshots = await store.list().catch((): readonly Snapshot[] => []);
  const last = snapshots.find(({ manifest }) => manifest.workload === workload.name);
  const containers = (await runningContainers(config.stateDir)).filter((container) => container.workload.name === workload.name);
  const about = await Promise.all([
    examineWorkload(workload, { stateDir: config.stateDir, lastSnapshotBytes: last?.manifest.totalBytes }),
    ...containers.map((container) => examineContainer(exec, container)),
  ]);
  return [...machine.flat(), ...about.flat()];
}

/** Whether the snapshots that are here fit this machine as it is now. */
function examineSnapshots(store: SnapshotStore, exec: Exec): Promise<Fact[]> {
  return examine('snapshots', {
    'on this machine': async () => {
      const name = 'on this machine';
      const snapshots = await store.list();
      if (snapshots.length === 0) return ok(name, 'none');
      const machine = await machineFacts(exec, 'criu');
      const reasons = snapshots.flatMap(({ manifest }) => whyIncompatible(manifest.class, machine) ?? []);
      if (reasons.length === 0) return ok(name, `${snapshots.length}, all of them fit it`);
      return warn(
        name,
        `${reasons.length} of ${snapshots.length} do not fit it any more: ${reasons[0]}`,
        'the next start makes new ones; `rekindle snapshots rm` removes these',
      );
    },
  });
}

/** As LocalHost.list(), without opening the host. Containers of trials are left out. */
async function runningContainers(stateDir: string): Promise<Container[]> {
  const records = await Promise.all((await listUids(stateDir)).map((uid) => readRecord(stateDir, uid)));
  return records.flatMap((record) => {
    if (record === undefined || record.trial || record.init === undefined || !isAlive(record.init)) return [];
    return asContainer(record) ?? [];
  });
}

const MARKS = { ok: { sign: '✓', colour: 'green' }, warn: { sign: '!', colour: 'yellow' }, fail: { sign: '✗', colour: 'red' } } as const;

/** The facts for people, grouped and aligned; the last line is the verdict. */
export function factsText(facts: readonly Fact[], { colour, ...about }: About & { readonly colour: boolean }): string {
  const styled = (style: 'green' | 'yellow' | 'red' | 'bold' | 'dim', text: string) =>
    colour ? styleText(style, text, { validateStream: false }) : text;
  const lines: string[] = [];
  for (const group of new Set(facts.map((fact) => fact.group))) {
    const members = facts.filter((fact) => fact.group === group);
    const width = Math.max(...members.map(({ name }) => name.length));
    lines.push(styled('bold', group));
    for (const { name, level, says, remedy } of members) {
      const { sign, colour: of } = MARKS[level];
      lines.push(`  ${styled(of, sign)} ${name.padEnd(width)}  ${says}`);
      if (remedy !== undefined) lines.push(styled('dim', `    ${' '.repeat(width)}  → ${remedy}`));
    }
    lines.push('');
  }
  lines.push(styled(facts.some(({ level }) => level === 'fail') ? 'red' : 'green', verdict(facts, about)));
  return `${lines.join('\n')}\n`;
}

function verdict(facts: readonly Fact[], { subject, deed }: About): string {
  const count = (level: Fact['level']) => facts.filter((fact) => fact.level === level).length;
  const many = (number: number, what: string) => `${number} ${what}${number === 1 ? '' : 's'}`;
  const failures = facts.filter(({ level }) => level === 'fail').map(({ group, name }) => `${group}: ${name}`);
  if (failures.length > 0) return `${subject} cannot ${deed}: ${failures.join('; ')} (${many(count('warn'), 'warning')} besides)`;
  return `${subject} can ${deed}${count('warn') === 0 ? '' : ` (${many(count('warn'), 'warning')})`}.`;
}
