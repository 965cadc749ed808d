import { constants } from 'node:fs';
import { mkdir, open, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { LargePages } from '../../src/checkpoint/large-pages.ts';
import type { CheckpointTools } from '../../src/checkpoint/tools.ts';
import { exec, mustExec, spawnDuplex } from '../../src/lib/exec.ts';
import type { Manifest } from '../../src/snapshots/manifest.ts';
import type { Snapshot } from '../../src/snapshots/shelf.ts';
import { ANSWER_TIMEOUT_MS, answerThrough, type Contender, makeUpper, type Round } from './contender.ts';
import type { Sample } from './samples.ts';

/** A /dev of containers: the machine's lacks the places for mounts. */
const DEV = [
  'mount -t tmpfs dev PLACE',
  'cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/fd /dev/stdin /dev/stdout /dev/stderr PLACE',
  'mkdir PLACE/pts PLACE/shm PLACE/mqueue',
];

function mountsAt(at: string, type: string, source: string): readonly string[] {
  if (at === '/dev') return DEV;
  if (at === '/dev/shm' || type === 'mqueue') return [`mount -t ${type} ${type} PLACE`];
  return [`mount --bind ${source} PLACE`];
}

/**
 * `criu restore` alone, from our snapshot's images, with our options and memory in large pieces as ours has it, in a mount namespace that is
 * ready and the machine's network: what no restore by criu can be faster than. The time of entering that namespace is measured and taken off.
 */
export class BareCriu implements Contender {
  readonly name = 'bare criu restore';
  readonly #dir: string;
  readonly #sample: Sample;
  readonly #tools: CheckpointTools;
  readonly #slotDir: string;
  readonly #largePages: LargePages;
  readonly #snapshot: () => Promise<Snapshot>;
  readonly #holder: Disposable[] = [];
  #enter: readonly string[] = [];
  #args: readonly string[] = [];

  constructor(deps: {
    dir: string;
    sample: Sample;
    tools: CheckpointTools;
    largePages: LargePages;
    slotDir: string;
    snapshot: () => Promise<Snapshot>;
  }) {
    this.#dir = join(deps.dir, 'criu');
    this.#sample = deps.sample;
    this.#tools = deps.tools;
    this.#slotDir = deps.slotDir;
    this.#largePages = deps.largePages;
    this.#snapshot = deps.snapshot;
  }

  async prepare(): Promise<void> {
    const { manifest, imagesDir, filesDir } = await this.#snapshot();
    const upper = await makeUpper(this.#dir);
    await mustExec(exec, 'cp', ['-a', join(filesDir, 'rootfs/.'), upper]);
    await mkdir(join(this.#dir, 'work'), { recursive: true });
    const external = manifest.mounts.map(({ at }) => at);
    const script = join(this.#dir, 'places.sh');
    await writeFile(script, this.#places(manifest.mounts));
    const { stream, failure } = spawnDuplex('/usr/bin/unshare', ['--mount', '--propagation', 'private', '/bin/sh', '-e', script]);
    this.#holder.push({ [Symbol.dispose]: () => void stream.destroy() });
    const pid = await new Promise<string>((resolve, reject) => {
      stream.once('data', (text: Buffer) => resolve(text.toString().trim()));
      void failure.then((said) => reject(new Error(`the mounts for a bare criu could not be made: ${said}`)));
    });
    this.#enter = ['-t', pid, '-m', '--'];
    const { stdout, stderr } = manifest.stdio;
    // As restoreRequest says it over criu's socket.
    this.#args = [
      ...['restore', '-d', '-D', imagesDir, '-W', join(this.#dir, 'work'), '-o', 'restore.log', '-v2', '--pidfile', 'pid'],
      ...['--root', '/run/rekindle/0', '--tcp-close', '--network-lock', 'skip', '--manage-cgroups=ignore', '--file-locks', '--link-remap'],
      ...['--skip-in-flight', '--ghost-limit', '1G', '--inherit-fd', 'fd[3]:extRootNetNS'],
      ...(stdout === null ? [] : ['--inherit-fd', `fd[4]:${stdout}`]),
      ...(stderr === null || stderr === stdout ? [] : ['--inherit-fd', `fd[5]:${stderr}`]),
      ...external.flatMap((at, i) => ['--external', `mnt[${at}]:/run/rekindle/${i + 1}`]),
    ];
  }

  async round(): Promise<Round> {
    const enteringMs = await this.#timed(() => mustExec(exec, 'nsenter', [...this.#enter, '/bin/true']));
    using _large = this.#largePages.hold();
    const net = await open('/proc/self/ns/net');
    const out = await open('/dev/null', constants.O_WRONLY);
    try {
      const started = performance.now();
      const env = this.#tools.preload === undefined ? {} : { LD_PRELOAD: this.#tools.preload };
      const running = exec('nsenter', [...this.#enter, this.#tools.criu, ...this.#args], {
        extraFds: [net.fd, out.fd, out.fd],
        stdoutFd: out.fd,
        stderrFd: out.fd,
        env,
        timeoutMs: ANSWER_TIMEOUT_MS,
      });
      const answered = await answerThrough(this.#sample, running, join(this.#dir, 'work/restore.log'));
      await running;
      return { answerMs: answered - started - enteringMs };
    } finally {
      await Promise.all([net.close(), out.close()]);
      await this.#kill();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const holder of this.#holder) holder[Symbol.dispose]();
    await exec('umount', ['--lazy', '--', join(this.#dir, 'fresh')], { timeoutMs: 10_000 });
  }

  async #timed(work: () => Promise<unknown>): Promise<number> {
    const started = performance.now();
    await work();
    return performance.now() - started;
  }

  async #kill(): Promise<void> {
    const file = join(this.#dir, 'work/pid');
    const pid = Number(await readFile(file, 'utf8').catch(() => ''));
    await rm(file, { force: true });
    if (pid <= 1) return;
    process.kill(pid, 'SIGKILL');
    for (let i = 0; i < 1_000; i++) {
      const gone = await readFile(`/proc/${pid}/stat`, 'utf8').then(
        (stat) => stat.includes(') Z '),
        () => true,
      );
      if (gone) return;
      await delay(2);
    }
  }

  /** Lays out what the helper would: /run in memory, the root at /run/rekindle/0, each external mount at a number of its own. */
  #places(external: Manifest['mounts']): string {
    const root = join(this.#dir, 'fresh');
    const slot = join(this.#dir, 'slot');
    const lines = [
      // Below /run, so before that is hidden.
      `mkdir ${slot} && mount --bind ${this.#slotDir} ${slot}`,
      `mount --bind ${this.#tools.criuRunDir} /run`,
      'mount -t tmpfs -o mode=700 places /run/rekindle',
      'mkdir /run/rekindle/0',
      `mount -t overlay -o lowerdir=/,upperdir=${root}/upper,workdir=${root}/work overlay /run/rekindle/0`,
      ...external.flatMap(({ at, type }, i) => {
        const place = `/run/rekindle/${i + 1}`;
        const source = at === '/rekindle' ? slot : at;
        return [
          `[ -f ${source} ] && : >${place} || mkdir ${place}`,
          `[ -f ${source} ] || mkdir -p /run/rekindle/0${at} 2>/dev/null || :`,
          ...mountsAt(at, type, source).map((line) => line.replaceAll('PLACE', place)),
        ];
      }),
      'echo $$',
      'exec cat', // until its input ends
    ];
    return `${lines.join('\n')}\n`;
  }
}
