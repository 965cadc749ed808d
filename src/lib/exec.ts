import { type ChildProcess, spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { Duplex, Readable, type Writable } from 'node:stream';
import { execa, type Options } from 'execa';
import { RekindleError } from './errors.ts';

/** How to run a program. The environment is built from nothing but PATH and what is given here. */
export type ExecOptions = {
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly input?: string | Uint8Array;
  /** Raw stdio for descriptors from 3 on: numbers are descriptors of ours that the program inherits. */
  readonly extraFds?: readonly number[];
  /** The program's own log; its last lines go into the message of a failure. */
  readonly logFile?: string;
  /** Where the program writes instead of into `stdout`/`stderr` of the result (a descriptor of ours). */
  readonly stdoutFd?: number;
  readonly stderrFd?: number;
  /**
   * Keep only so many bytes of stdout and stderr together, as they came, in the result's `stdout`; the rest is read and dropped. The result
   * does not wait for descendants that the program leaves behind with its output open.
   */
  readonly keepBytes?: number;
};

export type ExecResult = { readonly status: number; readonly stdout: string; readonly stderr: string; readonly durationMs: number };

/**
 * Runs a program to its end and returns its exit status (128 + N for signal N) and output, whatever the status.
 * Throws `timeout` when its time was up (it is then killed) and `machine_unsupported` when it does not exist. An abort rejects with the
 * signal's reason after the program has been killed.
 */
export type Exec = (program: string, args: readonly string[], options?: ExecOptions) => Promise<ExecResult>;

const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

export const exec: Exec = async (program, args, options = {}) => {
  // execa's types know no descriptor numbers, though it takes them as node:child_process does.
  const fds = [
    options.input === undefined ? 'ignore' : 'pipe',
    options.stdoutFd ?? 'pipe',
    options.stderrFd ?? 'pipe',
    ...(options.extraFds ?? []),
  ] as Options['stdio'] & unknown[];
  const child = execa(program, args, {
    stdio: fds,
    reject: false,
    buffer: options.keepBytes === undefined,
    extendEnv: false,
    env: { PATH, LC_ALL: 'C.UTF-8', ...options.env },
    forceKillAfterDelay: 2_000,
    stripFinalNewline: true,
    maxBuffer: 16 * 1024 * 1024,
    ...(options.input === undefined ? {} : { input: options.input }),
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.timeoutMs === undefined ? {} : { timeout: options.timeoutMs }),
    ...(options.signal === undefined ? {} : { cancelSignal: options.signal }),
  });
  const kept = options.keepBytes === undefined ? undefined : keepFirst(child, options.keepBytes);
  const result = await child;
  if (result.isCanceled) throw options.signal?.reason ?? new Error('aborted');
  if (result.timedOut) {
    throw new RekindleError('timeout', `${program} took longer than ${options.timeoutMs} ms${await lastLines(options.logFile)}`, {
      retryable: true,
    });
  }
  if (result.exitCode === undefined && result.signal === undefined) {
    throw new RekindleError(
      'machine_unsupported',
      `cannot run ${program}: ${result.originalMessage ?? result.shortMessage}. Is it installed? \`rekindle doctor\` tells`,
      { cause: result },
    );
  }
  return {
    status: result.exitCode ?? 128 + signalNumber(result.signal),
    stdout: kept === undefined ? (typeof result.stdout === 'string' ? result.stdout : '') : kept(),
    stderr: typeof result.stderr === 'string' ? result.stderr : '',
    durationMs: result.durationMs,
  };
};

/** As {@link exec}, but throws `internal` naming the program, how long it ran and its last words unless it ends with 0. */
export async function mustExec(run: Exec, program: string, args: readonly string[], options: ExecOptions = {}): Promise<ExecResult> {
  const result = await run(program, args, options);
  if (result.status === 0) return result;
  const said = (result.stderr || result.stdout).trim().split('\n').slice(-5).join('; ');
  throw new RekindleError(
    'internal',
    `${program} ${args.slice(0, 2).join(' ')} ended with ${result.status} after ${Math.round(result.durationMs)} ms: ${said}${await lastLines(options.logFile)}`,
  );
}

/** How long output may still come after the program itself has ended. */
const LEFT_OPEN_MS = 100;

function keepFirst(
  child: { readonly stdout: unknown; readonly stderr: unknown; once(event: 'exit', listener: () => void): unknown },
  bytes: number,
): () => string {
  const chunks: Buffer[] = [];
  let room = bytes;
  const outputs = [child.stdout, child.stderr].filter((stream) => stream instanceof Readable);
  for (const stream of outputs) {
    stream.on('data', (chunk: Buffer) => {
      if (room > 0) chunks.push(chunk.subarray(0, room));
      room -= chunk.length;
    });
  }
  child.once('exit', () => {
    setTimeout(() => {
      for (const stream of outputs) stream.destroy();
    }, LEFT_OPEN_MS).unref();
  });
  return () => Buffer.concat(chunks).toString('utf8');
}

/** The stdin and stdout of a program as one stream. Destroying the stream ends the program; `failure` is what it said on stderr if it ended with another status than 0. */
export type SpawnDuplex = (
  program: string,
  args: readonly string[],
) => { readonly stream: Duplex; readonly failure: Promise<string | undefined> };

/** Starts a program to talk to. Nothing is thrown: a program that cannot be started is a `failure`, and its stream ends. */
export const spawnDuplex: SpawnDuplex = (program, args) => {
  const child = execa(program, args, {
    reject: false,
    extendEnv: false,
    env: { PATH, LC_ALL: 'C.UTF-8' },
    encoding: 'buffer',
    buffer: { stdout: false, stderr: true },
    maxBuffer: 64 * 1024,
    forceKillAfterDelay: 1_000,
  });
  const stream = duplexOf(child.stdin, child.stdout, () => child.kill());
  const failure = child.then((result) => {
    if (result.exitCode === 0) return undefined;
    const said = result.stderr instanceof Uint8Array ? Buffer.from(result.stderr).toString('utf8').trim() : '';
    return said === ''
      ? `${program} ended with ${result.exitCode ?? result.signal ?? result.originalMessage ?? 'an unknown status'}`
      : said;
  });
  return { stream, failure };
};

/**
 * Two pipes as one stream that behaves as a socket does: the end of `output` is its `end`, whatever became of `input`. (execa's own duplex is
 * closed without an `end`, and then an HTTP answer that lasts until the connection is closed counts as cut off.)
 */
function duplexOf(input: Writable, output: Readable, onClose: () => void): Duplex {
  const stream = new Duplex({
    read: () => output.resume(),
    // Nobody reads any more: what there was to read, and its end, come over the other pipe.
    write: (chunk, _encoding, done) => input.write(chunk, () => done()),
    final: (done) => input.end(() => done()),
    destroy: (error, done) => {
      onClose();
      done(error);
    },
  });
  const end = once(() => stream.push(null));
  output.on('data', (chunk) => {
    if (!stream.push(chunk)) output.pause();
  });
  output.on('end', end).on('close', end).on('error', end);
  input.on('error', () => undefined);
  return stream;
}

function once(act: () => void): () => void {
  let done = false;
  return () => {
    if (!done) act();
    done = true;
  };
}

async function lastLines(file: string | undefined): Promise<string> {
  if (file === undefined) return '';
  const text = await readFile(file, 'utf8').catch(() => '');
  const lines = text.trimEnd().split('\n').slice(-5);
  return text === '' ? '' : `; ${file} ends: ${lines.join('; ')}`;
}

const SIGNALS: Readonly<Record<string, number>> = {
  SIGHUP: 1,
  SIGINT: 2,
  SIGQUIT: 3,
  SIGABRT: 6,
  SIGKILL: 9,
  SIGSEGV: 11,
  SIGPIPE: 13,
  SIGTERM: 15,
};

function signalNumber(name: string | undefined): number {
  return SIGNALS[name ?? ''] ?? 0;
}

/** A program that runs. */
export type Running = {
  /** A line of its stdout (0 is the first), without the newline, as soon as it is there; undefined when it ended without. */
  line(index: number): Promise<string | undefined>;
  /** Rejects with `machine_unsupported` for a program that cannot be started, and for no other reason. */
  readonly ended: Promise<ExecResult>;
};

/**
 * Runs a program that goes on when we end, with a descriptor of ours as its descriptor 3, in a way that costs as little as possible: it is on
 * the path of every restore.
 */
export function runDetached(program: string, args: readonly string[], inherited?: number): Running {
  return follow(program, detached(program, args, 'ignore', inherited ?? 'ignore'));
}

/** A program that was started ahead of time, and waits for what it is told on its stdin. */
export type Waiting = {
  /** It has not ended yet, as far as we know. */
  readonly alive: boolean;
  /** Tells it all that it will be told. Once, and not after `end`. */
  go(text: string): Running;
  /** Tells it nothing; resolves when it has ended. */
  end(): Promise<void>;
};

/** As {@link runDetached}, for a program that waits. */
export function startDetached(program: string, args: readonly string[]): Waiting {
  const child = detached(program, args, 'pipe', 'ignore');
  const running = follow(program, child);
  let alive = true;
  const gone = running.ended.then(
    () => undefined,
    () => undefined,
  );
  void gone.then(() => {
    alive = false;
  });
  // One that has ended hears nothing, and is a failure by its status.
  child.stdin?.on('error', () => undefined);
  return {
    get alive() {
      return alive;
    },
    go: (text) => {
      child.stdin?.end(text);
      return running;
    },
    end: () => {
      child.stdin?.end();
      return gone;
    },
  };
}

function detached(program: string, args: readonly string[], stdin: 'ignore' | 'pipe', inherited: number | 'ignore'): ChildProcess {
  return spawn(program, args, {
    stdio: [stdin, 'pipe', 'pipe', inherited],
    env: { PATH, LC_ALL: 'C.UTF-8' },
    detached: true,
  });
}

function follow(program: string, child: ChildProcess): Running {
  const started = performance.now();
  const text = { stdout: '', stderr: '' };
  let over = false;
  const wanted: { index: number; resolve: (line: string | undefined) => void }[] = [];
  const answer = () => {
    const lines = text.stdout.split('\n').slice(0, -1);
    for (const one of wanted.splice(0)) {
      if (one.index < lines.length || over) one.resolve(lines[one.index]);
      else wanted.push(one);
    }
  };
  const ended = Promise.withResolvers<ExecResult>();
  for (const name of ['stdout', 'stderr'] as const) {
    const stream = child[name];
    stream?.setEncoding('utf8');
    stream?.on('data', (chunk: string) => {
      if (text[name].length < 64 * 1024) text[name] += chunk;
      answer();
    });
  }
  child.on('error', (cause) => {
    over = true;
    answer();
    ended.reject(new RekindleError('machine_unsupported', `cannot run ${program}: ${cause.message}`, { cause }));
  });
  child.on('close', (status, signal) => {
    over = true;
    answer();
    ended.resolve({ ...text, status: status ?? 128 + signalNumber(signal ?? undefined), durationMs: performance.now() - started });
  });
  // Whoever awaits it sees the rejection; nobody has to.
  ended.promise.catch(() => undefined);
  const line = (index: number) =>
    new Promise<string | undefined>((resolve) => {
      wanted.push({ index, resolve });
      answer();
    });
  return { line, ended: ended.promise };
}

/** A program that runs while we do. `ended` never rejects; it says how it ended, with the last of what it wrote. */
export type Service = { readonly pid: number | undefined; readonly ended: Promise<string>; kill(signal: NodeJS.Signals): void };

export type ServiceOptions = {
  readonly cwd?: string;
  /** Added to PATH. */
  readonly env?: Readonly<Record<string, string>>;
  /** It is told to end by us and not by the terminal: Ctrl-C goes to a group of processes at once, and order would be lost. */
  readonly ownGroup?: boolean;
  /** What it writes on stderr goes to ours, and is not in `ended`. */
  readonly passStderr?: boolean;
};

/** Starts a program that serves us. It is killed when we end, however that is (PR_SET_PDEATHSIG, by setpriv of util-linux). */
export type StartService = (program: string, args: readonly string[], options?: ServiceOptions) => Service;

const LAST_WORDS = 2_000;

export const startService: StartService = (program, args, options = {}) => {
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', program, ...args], {
    stdio: ['ignore', 'pipe', options.passStderr ? 'inherit' : 'pipe'],
    env: { PATH, LC_ALL: 'C.UTF-8', ...options.env },
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    detached: options.ownGroup ?? false,
  });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding('utf8');
    stream?.on('data', (text: string) => {
      said = (said + text).slice(-LAST_WORDS);
    });
  }
  const ended = new Promise<string>((resolve) => {
    child.on('error', (error) => resolve(`cannot run ${program}: ${error.message}`));
    child.on('close', (status, signal) => resolve(`${program} ended with ${signal ?? status}${said === '' ? '' : `: ${said.trim()}`}`));
  });
  return { pid: child.pid, ended, kill: (signal) => void child.kill(signal) };
};
