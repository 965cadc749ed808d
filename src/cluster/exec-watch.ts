import { readFileSync } from 'node:fs';
import type { Clock } from '../lib/clock.ts';
import { isAlive, type Task, taskOf } from './task.ts';

/** How long a runtime has to kill a command that we gave up. */
const RUNTIME_KILL_MS = 1_000;
/** How long a command is waited for that has not started when it is to be killed. */
const STARTING_MS = 3_000;
/** Between the command's first instruction and its runtime's knowing that it runs. */
const SETTLE_MS = 30;
/** After so long the command can have become another program. */
const STARTED_MS = 1_000;
/** USER_HZ: 100 on every architecture that Kubernetes runs on (proc(5)). */
const TICKS_PER_SECOND = 100;

/** A process that somebody started in the container from outside, with its descendants. */
type Tree = { readonly root: Task; readonly command: string; readonly tasks: Map<number, Task> };

/**
 * Kills a command that a runtime runs for us, with all that it started. When its caller gives up, a runtime kills the command alone, and it never
 * says which process that is. So everything that came into the container meanwhile is stopped, the runtime kills its own, and what dies then is
 * ours: what it started dies too, and the rest (a probe of the kubelet's) goes on.
 */
export class CommandWatch {
  readonly #clock: Clock;
  readonly #processes: () => readonly number[];
  readonly #command: string;
  readonly #begunMs: number;
  readonly #sinceTick: number;

  /** To be made before the command is started. `processes` are the container's. */
  constructor(deps: { clock: Clock; processes: () => readonly number[] }, command: readonly string[]) {
    this.#clock = deps.clock;
    this.#processes = deps.processes;
    this.#command = command.join('\0');
    this.#begunMs = deps.clock.now();
    const [uptime = '0'] = readFileSync('/proc/uptime', 'latin1').split(' ');
    // A tick less: the kernel rounds down by itself.
    this.#sinceTick = Math.floor(Number(uptime) * TICKS_PER_SECOND) - 1;
  }

  /** `giveUp` makes the runtime kill the command. Resolves when it is gone; `ended` aborts when the runtime says so by itself. */
  async kill(giveUp: () => void, ended: AbortSignal): Promise<void> {
    await this.#started(ended);
    if (ended.aborted) return;
    const trees = new Map<number, Tree>();
    this.#stop(trees);
    try {
      giveUp();
      for (const tree of await this.#ours(trees)) signalAll(tree, 'SIGKILL');
    } finally {
      for (const tree of trees.values()) signalAll(tree, 'SIGCONT');
    }
  }

  /**
   * Resolves when the command runs as far as can be seen, or will not. containerd forgets a command that it is told to kill while it starts it, and
   * that then runs for ever (seen with 2.1).
   */
  async #started(ended: AbortSignal): Promise<void> {
    while (!ended.aborted && this.#clock.now() < this.#begunMs + STARTING_MS) {
      const { roots } = this.#look();
      const late = this.#clock.now() > this.#begunMs + STARTED_MS;
      if (late && roots.length > 0) return;
      if (roots.some(({ pid }) => commandOf(pid) === this.#command)) return this.#clock.sleep(SETTLE_MS);
      await this.#clock.sleep(5);
    }
  }

  async #ours(trees: Map<number, Tree>): Promise<readonly Tree[]> {
    const deadline = this.#clock.now() + RUNTIME_KILL_MS;
    while (trees.size > 0 && this.#clock.now() < deadline) {
      const dead = [...trees.values()].find(({ root }) => !isAlive(root));
      if (dead !== undefined) return [dead];
      await this.#clock.sleep(5);
      this.#stop(trees);
    }
    // A runtime that kills nothing.
    const all = [...trees.values()];
    return all.length === 1 ? all : all.filter((tree) => tree.command === this.#command);
  }

  /** Stops what came into the container, again until nothing new is there: then nothing can fork any more. */
  #stop(trees: Map<number, Tree>): void {
    for (let found = true; found; ) {
      found = false;
      const { roots, tasks } = this.#look();
      for (const root of roots) {
        if (!trees.has(root.pid)) trees.set(root.pid, { root, command: commandOf(root.pid), tasks: new Map() });
      }
      for (const tree of trees.values()) {
        for (const task of descendants(tree.root, tasks)) {
          if (tree.tasks.has(task.pid)) continue;
          tree.tasks.set(task.pid, task);
          signal(task, 'SIGSTOP');
          found = true;
        }
      }
    }
  }

  /** The container's processes, and those of them that were started from outside since: an orphan's parent is PID 1, which is inside. */
  #look(): { roots: readonly Task[]; tasks: readonly Task[] } {
    const tasks = this.#processes().flatMap((pid) => taskOf(pid) ?? []);
    const inside = new Set(tasks.map(({ pid }) => pid));
    const came = tasks.filter(({ parent, startTick }) => !inside.has(parent) && startTick >= this.#sinceTick);
    return { tasks, roots: came.filter(({ pid }) => !isRuntime(pid)) };
  }
}

/** Kills a process and its descendants, all of them among `processes`: stopped first, so that nothing escapes by forking meanwhile. */
export function killTree(pid: number, processes: () => readonly number[]): void {
  const root = taskOf(pid);
  if (root === undefined || !processes().includes(pid)) return;
  const seen = new Map<number, Task>();
  for (let before = -1; before < seen.size; ) {
    before = seen.size;
    const tasks = processes().flatMap((one) => taskOf(one) ?? []);
    for (const task of descendants(root, tasks)) {
      signal(task, 'SIGSTOP');
      seen.set(task.pid, task);
    }
  }
  for (const task of seen.values()) signal(task, 'SIGKILL');
}

/** A runtime's process that has not become the command yet: to be left alone, its parent waits for it. */
export function isRuntime(pid: number): boolean {
  const command = commandOf(pid);
  const [program = '', argument] = command.split('\0');
  return command === '' || argument === 'init' || /^(?:.*\/)?(?:runc|crun|youki|runsc|kata-runtime|exe)$/.test(program);
}

function descendants(root: Task, tasks: readonly Task[]): Task[] {
  const found = [root];
  for (const { pid } of found) found.push(...tasks.filter(({ parent }) => parent === pid));
  return found;
}

function signalAll(tree: Tree, name: NodeJS.Signals): void {
  for (const task of tree.tasks.values()) signal(task, name);
}

function signal(task: Task, name: NodeJS.Signals): void {
  try {
    // The number may be another's by now.
    if (isAlive(task)) process.kill(task.pid, name);
  } catch {
    // Gone: what was wanted, or nothing to go on.
  }
}

function commandOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').replace(/\0$/, '');
  } catch {
    return '';
  }
}
