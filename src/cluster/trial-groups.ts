import { existsSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import type { Clock } from '../lib/clock.ts';
import { errno, RekindleError } from '../lib/errors.ts';

const GONE_MS = 3_000;

/**
 * The group of a trial container, at the top of each hierarchy: the agent's own limits are not its, and it does not die with the agent's pod. None has a
 * parent with others: that could go while another is made.
 */
export const trialGroup = (uid: string): string => `/rekindle-trial-${uid}`;

/** The groups of trial containers on a node, whose mounts process `init` shows. */
export class TrialGroups {
  readonly #clock: Clock;
  readonly #hierarchies: readonly string[];

  constructor(deps: { clock: Clock; init: number }) {
    this.#clock = deps.clock;
    const lines = readFileSync(`/proc/${deps.init}/mountinfo`, 'utf8').split('\n');
    const at = lines.filter((line) => / - cgroup2? /.test(line)).map((line) => line.split(' ')[4] ?? '');
    // Deeper ones are what containers see of them.
    const tops = at.filter((one) => one === '/sys/fs/cgroup' || path.dirname(one) === '/sys/fs/cgroup');
    this.#hierarchies = [...new Set(tops)].map((one) => path.join(`/proc/${deps.init}/root`, one));
  }

  /** The trial's processes: its own, and helpers of ours that entered it. */
  processes(uid: string): readonly number[] {
    return [...new Set(this.#groups(uid).flatMap(processesIn))];
  }

  /** Kills all of it until its groups are gone. Throws `internal` if one stays. */
  async remove(uid: string): Promise<void> {
    const deadline = this.#clock.now() + GONE_MS;
    for (;;) {
      for (const pid of this.processes(uid)) kill(pid);
      const groups = this.#groups(uid);
      for (const group of groups) thaw(group);
      for (const group of groups) removeGroup(group);
      if (this.#groups(uid).length === 0) return;
      if (this.#clock.now() > deadline) throw new RekindleError('internal', `cannot remove the cgroups of the trial container ${uid}`);
      await this.#clock.sleep(5);
    }
  }

  /** Each with those in it, the deepest first. */
  #groups(uid: string): string[] {
    return this.#hierarchies.flatMap((hierarchy) => withChildren(path.join(hierarchy, trialGroup(uid))));
  }
}

function withChildren(group: string): string[] {
  if (!existsSync(group)) return [];
  return [...directoriesIn(group).flatMap((name) => withChildren(path.join(group, name))), group];
}

function processesIn(group: string): number[] {
  try {
    return readFileSync(path.join(group, 'cgroup.procs'), 'utf8')
      .split('\n')
      .map(Number)
      .filter((pid) => pid > 0);
  } catch {
    return [];
  }
}

/** A frozen process dies only once it is thawed. */
function thaw(group: string): void {
  for (const [file, value] of [
    ['cgroup.freeze', '0'],
    ['freezer.state', 'THAWED'],
  ] as const) {
    const at = path.join(group, file);
    if (existsSync(at)) ignoring(() => writeFileSync(at, value));
  }
}

function removeGroup(group: string): void {
  ignoring(() => rmdirSync(group));
}

function kill(pid: number): void {
  ignoring(() => process.kill(pid, 'SIGKILL'));
}

/** What is gone already is as wanted, what is busy is tried again; anything else is a defect. */
function ignoring(deed: () => void): void {
  try {
    deed();
  } catch (error) {
    if (!['ENOENT', 'ENOTEMPTY', 'EBUSY', 'ESRCH', 'ENODEV'].includes(errno(error) ?? '')) throw error;
  }
}

function directoriesIn(dir: string): string[] {
  try {
    return readdirSync(dir, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map(({ name }) => name);
  } catch {
    return [];
  }
}
