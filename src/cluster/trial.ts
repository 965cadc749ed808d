import { randomUUID } from 'node:crypto';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { abortedAfter, untilAborted } from '../lib/abort.ts';
import type { Clock } from '../lib/clock.ts';
import { RekindleError, toRekindleError } from '../lib/errors.ts';
import { type Exec, mustExec } from '../lib/exec.ts';
import type { Log } from '../lib/log.ts';
import { TRIAL_ADDRESS, TRIAL_LINKS } from '../lib/trial-network.ts';
import type { Container, ExecOutcome } from '../workloads/host.ts';
import { membership } from './cgroups.ts';
import type { Cri } from './cri.ts';
import { killTree } from './exec-watch.ts';
import { TrialGroups, trialGroup } from './trial-groups.ts';
import { TrialOutput } from './trial-output.ts';
import { ETC_FILES, planTrial } from './trial-spec.ts';
import { resolveInside } from './volumes.ts';

export type TrialDeps = {
  readonly exec: Exec;
  readonly clock: Clock;
  readonly log: Log;
  readonly cri: Pick<Cri, 'container' | 'sandboxSpec'>;
  /** Where a container has mounts whose server may not answer. */
  readonly remotePlaces: (pid: number) => readonly string[];
  /** A process in the node's own mount namespace: 1 for an agent with the node's PIDs. */
  readonly nodeInit: number;
  /** The built images/agent/trial-mounts.c. */
  readonly mounter: string;
  /** crun or runc, as a name or path in the agent's own filesystem. */
  readonly runtime: string;
  /** On a disk of the node's: what trial containers write. */
  readonly stateDir: string;
  /** On a tmpfs: the runtime's state. */
  readonly runDir: string;
  /** The slot's files, where the agent listens too, on `agent.sock` (mode 0666): a directory that everybody may enter. */
  readonly slotDir: string;
};

type Trial = { readonly container: Container; readonly process: object; readonly output: TrialOutput };

const CREATE_MS = 30_000;
const OUTPUT_BYTES = 64 * 1024;
const KILL_MS = 1_000;

/**
 * Throw-away containers beside a pod's, like it in all that a snapshot sees, with a network that leads nowhere and copies of what they could write. They are
 * no pods: neither the API server nor the kubelet nor the container runtime knows them. Their directory is made first and removed last, so that
 * whatever is left of them is found after a kill -9.
 */
export class TrialMaker {
  readonly #deps: TrialDeps;
  readonly #groups: TrialGroups;
  readonly #trials = new Map<string, Trial>();
  #commands = 0;

  private constructor(deps: TrialDeps) {
    this.#deps = deps;
    this.#groups = new TrialGroups({ clock: deps.clock, init: deps.nodeInit });
  }

  /** Removes what an agent that was killed left. */
  static async open(deps: TrialDeps): Promise<TrialMaker> {
    for (const dir of [deps.stateDir, deps.runDir]) await mkdir(dir, { recursive: true, mode: 0o700 });
    const maker = new TrialMaker(deps);
    const left = await readdir(deps.stateDir);
    for (const uid of left) await maker.remove(uid);
    if (left.length > 0) deps.log.info({ containers: left }, 'removed trial containers of an agent that was killed');
    return maker;
  }

  find(uid: string): Container | undefined {
    return this.#trials.get(uid)?.container;
  }

  list(): readonly Container[] {
    return [...this.#trials.values()].map(({ container }) => container);
  }

  /**
   * A container like this running one, whose PID 1 is a slot that says hello on the agent's socket. Throws `verify_failed` when none can be made like it,
   * `container_failed` with the runtime's words, `not_found` when the seed is gone; nothing of it is left then.
   */
  async create(like: Container, signal: AbortSignal): Promise<Container> {
    signal.throwIfAborted();
    const uid = randomUUID();
    try {
      return await this.#create(like, uid, signal);
    } catch (error) {
      await this.remove(uid).catch((failure: unknown) =>
        this.#deps.log.error({ container: uid, err: failure }, 'failed trial container not removed, left for the next start'),
      );
      if (signal.aborted) throw signal.reason;
      const ours = toRekindleError(error);
      if (ours.code !== 'internal') throw ours;
      throw new RekindleError('container_failed', `no trial container could be made beside ${like.name}: ${ours.message}`, {
        cause: error,
      });
    }
  }

  /** Ends and removes all of it. No error if it is gone; after an error it may be called again. */
  async remove(uid: string): Promise<void> {
    const { stateDir, runDir } = this.#deps;
    // Whoever is still making it first, so that nothing more appears.
    if (!this.#trials.has(uid)) for (const pid of await runtimeProcesses(uid)) kill(pid);
    await this.#groups.remove(uid);
    this.#trials.get(uid)?.output.close();
    await rm(path.join(runDir, uid), { recursive: true, force: true });
    await rm(path.join(stateDir, uid), { recursive: true, force: true });
    this.#trials.delete(uid);
  }

  /** As `Host.exec`. */
  async exec(uid: string, command: readonly string[], options: { timeoutMs: number; signal: AbortSignal }): Promise<ExecOutcome> {
    options.signal.throwIfAborted();
    const trial = this.#trials.get(uid);
    if (trial === undefined) throw new RekindleError('not_found', `there is no trial container ${uid}`);
    const base = path.join(this.#deps.stateDir, uid, `exec-${this.#commands++}`);
    await writeFile(`${base}.json`, JSON.stringify({ ...trial.process, args: command }), { mode: 0o600 });
    const [ended, runtime] = [new AbortController(), new AbortController()];
    const args = this.#runtimeArgs('exec', '--process', `${base}.json`, '--pid-file', `${base}.pid`, uid);
    const running = this.#deps
      .exec(this.#deps.mounter, args, { keepBytes: OUTPUT_BYTES, signal: runtime.signal })
      .finally(() => ended.abort());
    const stop = AbortSignal.any([abortedAfter(options.timeoutMs), options.signal]);
    try {
      if ((await untilAborted(stop, ended.signal)) === stop) {
        // An abort of the runtime is our own doing.
        running.catch(() => undefined);
        await this.#killCommand(uid, `${base}.pid`, ended.signal);
        runtime.abort();
        await running.catch(() => undefined);
        options.signal.throwIfAborted();
        throw new RekindleError('timeout', `${command.join(' ')} took longer than ${options.timeoutMs} ms in a trial container`, {
          retryable: true,
        });
      }
      const { status, stdout } = await running;
      return { status, output: stdout };
    } finally {
      await Promise.all([rm(`${base}.json`, { force: true }), rm(`${base}.pid`, { force: true })]);
    }
  }

  async #create(like: Container, uid: string, signal: AbortSignal): Promise<Container> {
    const { cri, stateDir, slotDir } = this.#deps;
    const id = membership(like.pid)?.containerId;
    const status = id === undefined ? undefined : await cri.container(id, signal);
    if (status?.state !== 'running') throw new RekindleError('not_found', `container ${like.name} does not run any more`);
    const sandboxSpec = status.sandboxId === undefined ? undefined : await cri.sandboxSpec(status.sandboxId, signal);
    const dir = path.join(stateDir, uid);
    const name = `trial-${uid.slice(0, 6)}`;
    const remote = this.#deps.remotePlaces(like.pid);
    const plan = planTrial({
      spec: status.runtimeSpec,
      sandboxSpec,
      rootOptions: await rootOptions(like),
      volumes: like.volumes,
      placeOf: (destination) => resolveInside(`/proc/${like.pid}/root`, destination, remote),
      ...{ uid, name, dir, slotDir },
      cgroup: trialGroup(uid),
      minOomScoreAdj: Number(await readFile('/proc/self/oom_score_adj', 'utf8')),
    });
    await mkdir(dir, { mode: 0o700 });
    await writeEtcFiles(path.join(dir, 'etc'), name);
    await writeFile(path.join(dir, 'config.json'), JSON.stringify(plan.spec), { mode: 0o600 });
    const output = await this.#start(uid, dir, plan.operations, signal);
    const pid = Number(await readFile(path.join(dir, 'pid'), 'utf8'));
    const links = TRIAL_LINKS.join('\n');
    await mustExec(this.#deps.exec, 'nsenter', [`--net=/proc/${pid}/ns/net`, 'ip', '-batch', '-'], {
      input: `${links}\n`,
      timeoutMs: CREATE_MS,
      signal,
    });
    const { pool: _, ...seed } = like;
    const container: Container = { ...seed, uid, name, pid, restarts: 0, addresses: [], createdAtMs: this.#deps.clock.now() };
    // The slot says hello as soon as it runs: whoever hears it must find its container.
    this.#trials.set(uid, { container, process: plan.spec.process, output });
    await mustExec(this.#deps.exec, this.#deps.mounter, this.#runtimeArgs('start', uid), { timeoutMs: CREATE_MS, signal });
    return container;
  }

  /** Makes the container, whose process waits. */
  async #start(uid: string, dir: string, operations: readonly string[], signal: AbortSignal): Promise<TrialOutput> {
    const { exec, mounter, runtime, nodeInit, runDir } = this.#deps;
    const output = await TrialOutput.open(exec, path.join(dir, 'output'));
    const args = [String(nodeInit), ...operations, '--', runtime, '--root', runDir];
    const create = ['create', '--bundle', dir, '--pid-file', path.join(dir, 'pid'), uid];
    try {
      const options = { stdoutFd: output.fd, stderrFd: output.fd, timeoutMs: CREATE_MS, signal };
      const { status } = await exec(mounter, [...args, ...create], options);
      output.handOver();
      if (status === 0) return output;
      const said = await output.all();
      throw new RekindleError('container_failed', `no trial container could be made: ${said || `${runtime} ended with ${status}`}`);
    } catch (error) {
      output.close();
      throw error;
    }
  }

  /** The runtime among the node's own cgroups. */
  #runtimeArgs(...args: readonly string[]): string[] {
    const { nodeInit, runtime, runDir } = this.#deps;
    return [String(nodeInit), '--take', '/sys/fs/cgroup', '/sys/fs/cgroup', '--', runtime, '--root', runDir, ...args];
  }

  /** The runtime is not killed first: it could have started the command without having said its PID, and it ends as soon as the command has. */
  async #killCommand(uid: string, pidFile: string, ended: AbortSignal): Promise<void> {
    const { clock } = this.#deps;
    const deadline = clock.now() + KILL_MS;
    while (!ended.aborted && clock.now() < deadline) {
      const pid = Number(await readFile(pidFile, 'utf8').catch(() => ''));
      if (pid > 0) killTree(pid, () => this.#groups.processes(uid));
      await clock.sleep(5);
    }
  }
}

/** Options of the overlay that is the container's root; none for another filesystem. */
async function rootOptions({ pid }: Container): Promise<readonly string[]> {
  const lines = (await readFile(`/proc/${pid}/mountinfo`, 'utf8')).split('\n');
  const root = lines.findLast((line) => line.split(' ')[4] === '/') ?? '';
  const [type, , options = ''] = (root.split(' - ')[1] ?? '').split(' ');
  // A comma in a name has a backslash before it.
  return type === 'overlay' ? options.split(/(?<!\\),/) : [];
}

/** As every pod has them; without name servers, which it could not reach. */
async function writeEtcFiles(dir: string, name: string): Promise<void> {
  const content = {
    hosts: `127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n${TRIAL_ADDRESS}\t${name}\n`,
    hostname: `${name}\n`,
    'resolv.conf': '',
  } as const satisfies Record<(typeof ETC_FILES)[number], string>;
  await mkdir(dir);
  for (const file of ETC_FILES) await writeFile(path.join(dir, file), content[file], { mode: 0o644 });
}

/** Programs that work for a trial, found by their command lines. */
async function runtimeProcesses(uid: string): Promise<readonly number[]> {
  const found: number[] = [];
  for (const entry of await readdir('/proc')) {
    if (!/^\d+$/.test(entry)) continue;
    const args = (await readFile(`/proc/${entry}/cmdline`, 'utf8').catch(() => '')).split('\0');
    if (args.includes(uid) && args.includes('--root')) found.push(Number(entry));
  }
  return found;
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // Gone: what was wanted.
  }
}
