import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { exec, mustExec, runDetached } from '../../src/lib/exec.ts';
import {
  answerThrough,
  type Contender,
  CRIU_CONFIG,
  makeUpper,
  mountRoot,
  type Round,
  unmountRoot,
  warmUp,
  writeCriuConfig,
} from './contender.ts';
import type { Sample } from './samples.ts';

/** io_uring cannot be checkpointed. */
const SECCOMP = {
  defaultAction: 'SCMP_ACT_ALLOW',
  syscalls: [{ names: ['io_uring_setup', 'io_uring_enter', 'io_uring_register'], action: 'SCMP_ACT_ERRNO', errnoRet: 1 }],
};

/**
 * `podman container restore` of the same application from the same root. The container is restored in place, from a checkpoint that podman keeps
 * uncompressed: nothing is unpacked, no network made, which is the fastest it can.
 */
export class Podman implements Contender {
  readonly name = 'podman restore';
  readonly #dir: string;
  readonly #sample: Sample;
  readonly #container: string;

  constructor(deps: { dir: string; sample: Sample }) {
    this.#dir = join(deps.dir, 'podman');
    this.#sample = deps.sample;
    this.#container = `load-${deps.sample.name}-${process.pid}`;
  }

  async prepare(): Promise<void> {
    await makeUpper(this.#dir);
    const root = await mountRoot(this.#dir);
    const seccomp = join(this.#dir, 'seccomp.json');
    await mkdir(this.#dir, { recursive: true });
    await writeFile(seccomp, JSON.stringify(SECCOMP));
    const { container } = this.#sample.workload;
    await this.#podman([
      'run',
      ...['-d', '--name', this.#container, '--network=host', '--security-opt', `seccomp=${seccomp}`],
      ...['--annotation', `${CRIU_CONFIG}=${await writeCriuConfig(this.#dir)}`],
      ...Object.entries(container.env).flatMap(([name, value]) => ['-e', `${name}=${value}`]),
      ...(container.workdir === undefined ? [] : ['-w', container.workdir]),
      ...['--rootfs', root, ...(container.command ?? [])],
    ]);
    await warmUp(this.#sample);
    await this.#checkpoint();
  }

  async round(): Promise<Round> {
    const started = performance.now();
    const running = runDetached('/usr/bin/podman', [...this.#global(), 'container', 'restore', this.#container]).ended;
    const answered = await answerThrough(this.#sample, running);
    await running;
    await this.#checkpoint();
    return { answerMs: answered - started };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await exec('podman', [...this.#global(), 'rm', '-f', '-t', '0', this.#container], { timeoutMs: 60_000 });
    await unmountRoot(this.#dir);
    await exec('umount', ['--lazy', '--', join(this.#dir, 'storage/vfs'), join(this.#dir, 'storage')], { timeoutMs: 10_000 });
  }

  #checkpoint(): Promise<unknown> {
    return this.#podman(['container', 'checkpoint', '--file-locks', this.#container]);
  }

  #podman(args: readonly string[]): Promise<unknown> {
    return mustExec(exec, 'podman', [...this.#global(), ...args], { timeoutMs: 60_000 });
  }

  #global(): string[] {
    return [
      ...['--root', join(this.#dir, 'storage'), '--runroot', join(this.#dir, 'run'), '--storage-driver', 'vfs'],
      ...['--cgroup-manager', 'cgroupfs', '--events-backend', 'none', '--runtime', 'runc'],
    ];
  }
}
