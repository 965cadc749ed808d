import { open, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { abortedAfter, untilAborted } from '../lib/abort.ts';
import type { Clock } from '../lib/clock.ts';
import { RekindleError } from '../lib/errors.ts';
import { type Exec, mustExec } from '../lib/exec.ts';
import type { ExecOutcome } from '../workloads/host.ts';
import { identify, processTree, signalProcess } from './processes.ts';
import type { ContainerPaths } from './record.ts';
import type { OciProcess } from './spec.ts';

export type RuntimeName = 'crun' | 'runc';

/** What conmon says once the runtime has made the container, or failed to (conmon's `_OCI_SYNCPIPE`). */
const CREATE_TIMEOUT_MS = 30_000;
const OUTPUT_BYTES = 64 * 1024;
const KILL_MS = 1_000;

/** crun or runc, below a conmon that holds the container's output and outlives us. */
export class Runtime {
  readonly #exec: Exec;
  readonly #clock: Clock;
  readonly #program: string;
  readonly #root: string;
  #commands = 0;

  /** `program` is an absolute path; `root` is where it keeps its state. */
  constructor(deps: { exec: Exec; clock: Clock; program: string; root: string }) {
    this.#exec = deps.exec;
    this.#clock = deps.clock;
    this.#program = deps.program;
    this.#root = deps.root;
  }

  /** Makes the container of `config.json` without starting its process, and returns the PID of that. Throws `container_failed` with the runtime's words. */
  async create(uid: string, name: string, paths: ContainerPaths, signal: AbortSignal): Promise<number> {
    // A file, not a pipe: conmon may outlive us, and a file can be read again.
    const sync = await open(paths.sync, 'w', 0o600);
    try {
      await mustExec(
        this.#exec,
        'conmon',
        [
          '--api-version',
          '1',
          '-c',
          uid,
          '-u',
          uid,
          '-n',
          name,
          '-r',
          this.#program,
          '-b',
          paths.dir,
          '-p',
          paths.pid,
          '-P',
          paths.conmonPid,
          '-l',
          `k8s-file:${paths.log}`,
          '--exit-dir',
          paths.exitDir,
          '--full-attach',
          '--no-sync-log',
          '--runtime-arg',
          '--root',
          '--runtime-arg',
          this.#root,
        ],
        { cwd: paths.dir, env: { _OCI_SYNCPIPE: '3' }, extraFds: [sync.fd], timeoutMs: CREATE_TIMEOUT_MS, signal },
      );
      return await this.#created(uid, paths, signal);
    } finally {
      await sync.close();
    }
  }

  /** Lets the container's process run. */
  async start(uid: string, signal: AbortSignal): Promise<void> {
    const result = await this.#exec(this.#program, ['--root', this.#root, 'start', uid], { timeoutMs: CREATE_TIMEOUT_MS, signal });
    if (result.status !== 0) throw new RekindleError('container_failed', `container ${uid} could not be started: ${result.stderr.trim()}`);
  }

  /** Forgets the container, killing what is left of it. No error if it is gone. */
  async delete(uid: string): Promise<void> {
    await this.#exec(this.#program, ['--root', this.#root, 'delete', '--force', uid], { timeoutMs: CREATE_TIMEOUT_MS });
    await rm(path.join(this.#root, uid), { recursive: true, force: true });
  }

  /** Runs a command in the container as `process` says. Throws `timeout`; the command and what it started are killed then, and on abort. */
  async run(
    uid: string,
    paths: ContainerPaths,
    process: OciProcess,
    options: { timeoutMs: number; signal: AbortSignal },
  ): Promise<ExecOutcome> {
    options.signal.throwIfAborted();
    const base = path.join(paths.dir, `exec-${globalThis.process.pid}-${this.#commands++}`);
    const pidFile = `${base}.pid`;
    const ended = new AbortController();
    await writeFile(`${base}.json`, JSON.stringify(process), { mode: 0o600 });
    const args = ['--root', this.#root, 'exec', '--process', `${base}.json`, '--pid-file', pidFile, uid];
    const runtime = new AbortController();
    const running = this.#exec(this.#program, args, { keepBytes: OUTPUT_BYTES, signal: runtime.signal }).finally(() => ended.abort());
    try {
      const stop = AbortSignal.any([abortedAfter(options.timeoutMs), options.signal]);
      const first = await untilAborted(stop, ended.signal);
      if (first === stop) {
        // An abort of the runtime is our own doing.
        running.catch(() => {});
        await this.#killCommand(uid, pidFile, ended.signal);
        runtime.abort();
        await running.catch(() => {});
        options.signal.throwIfAborted();
        throw new RekindleError('timeout', `${process.args.join(' ')} took longer than ${options.timeoutMs} ms in container ${uid}`, {
          retryable: true,
        });
      }
      const { status, stdout } = await running;
      return { status, output: stdout };
    } finally {
      await Promise.all([rm(`${base}.json`, { force: true }), rm(pidFile, { force: true })]);
    }
  }

  /**
   * Kills a command with all that it started, until the runtime has ended or a second has passed. The runtime is not killed first: it could
   * have started the command without having said its PID, and ends by itself as soon as the command has (runc also waits for what that left in the background).
   */
  async #killCommand(uid: string, pidFile: string, ended: AbortSignal): Promise<void> {
    const deadline = this.#clock.now() + KILL_MS;
    while (!ended.aborted && this.#clock.now() < deadline) {
      const pid = Number(await readFile(pidFile, 'utf8').catch(() => ''));
      // The number may be another's by now.
      if (pid > 0 && (await readFile(`/proc/${pid}/cgroup`, 'utf8').catch(() => '')).includes(`/rekindle/${uid}`)) {
        // Stopped first, so that nothing escapes by forking meanwhile.
        for (const one of await processTree(pid)) signalProcess(one, 'SIGSTOP');
        for (const one of await processTree(pid)) signalProcess(one, 'SIGKILL');
      }
      await this.#clock.sleep(5);
    }
  }

  async #created(uid: string, paths: ContainerPaths, signal: AbortSignal): Promise<number> {
    const deadline = this.#clock.now() + CREATE_TIMEOUT_MS;
    for (;;) {
      const said = parseSync(await readFile(paths.sync, 'utf8'));
      if (said !== undefined && said.data > 0) return said.data;
      if (said !== undefined)
        throw new RekindleError(
          'container_failed',
          `${path.basename(this.#program)} could not make container ${uid}: ${said.message ?? 'it did not say why'}`,
        );
      const conmon = Number(await readFile(paths.conmonPid, 'utf8').catch(() => ''));
      if (conmon > 0 && identify(conmon) === undefined && parseSync(await readFile(paths.sync, 'utf8')) === undefined) {
        throw new RekindleError('container_failed', `conmon ended without making container ${uid}`);
      }
      if (this.#clock.now() > deadline) throw new RekindleError('timeout', `container ${uid} was not made within ${CREATE_TIMEOUT_MS} ms`);
      await this.#clock.sleep(1, signal);
    }
  }
}

/** `{"data": PID}`, or a negative number with the runtime's message; undefined while it is not all there. */
export function parseSync(text: string): { data: number; message?: string } | undefined {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value !== 'object' || value === null || !('data' in value) || typeof value.data !== 'number') return undefined;
    return 'message' in value && typeof value.message === 'string'
      ? { data: value.data, message: value.message.trim() }
      : { data: value.data };
  } catch {
    return undefined;
  }
}
