import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { exec, mustExec, runDetached } from '../../src/lib/exec.ts';
import { ociSpec } from '../../src/local/spec.ts';
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

/** `runc restore` of the same application from the same root: our own bundle without slot, and in the machine's network, which spares it the making of one. */
export class Runc implements Contender {
  readonly name = 'runc restore';
  readonly #dir: string;
  readonly #sample: Sample;
  readonly #id: string;

  constructor(deps: { dir: string; sample: Sample }) {
    this.#dir = join(deps.dir, 'runc');
    this.#sample = deps.sample;
    this.#id = `load-${deps.sample.name}-${process.pid}`;
  }

  async prepare(): Promise<void> {
    await makeUpper(this.#dir);
    const root = await mountRoot(this.#dir);
    await mkdir(join(this.#dir, 'work'));
    const annotations = { [CRIU_CONFIG]: await writeCriuConfig(this.#dir) };
    await writeFile(join(this.#dir, 'config.json'), JSON.stringify({ ...bundleOf(this.#sample, root, this.#id), annotations }));
    await mustExec(exec, '/bin/sh', ['-c', `exec runc ${this.#global().join(' ')} run -d -b ${this.#dir} ${this.#id} >/dev/null 2>&1`]);
    await warmUp(this.#sample);
    await mustExec(exec, 'runc', [...this.#global(), 'checkpoint', ...this.#images(), '--file-locks', this.#id]);
    await this.#delete();
  }

  async round(): Promise<Round> {
    const started = performance.now();
    const args = ['restore', '-d', ...this.#images(), '--file-locks', '-b', this.#dir, this.#id];
    const running = runDetached('/usr/sbin/runc', [...this.#global(), ...args]).ended;
    const answered = await answerThrough(this.#sample, running);
    // The restored process holds runc's output open, so its end cannot be waited for before the process is gone.
    await this.#delete();
    await running;
    return { answerMs: answered - started };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#delete();
    await unmountRoot(this.#dir);
  }

  async #delete(): Promise<void> {
    await exec('runc', [...this.#global(), 'delete', '--force', this.#id], { timeoutMs: 30_000 });
  }

  #global(): string[] {
    return ['--root', join(this.#dir, 'state')];
  }

  #images(): string[] {
    return ['--image-path', join(this.#dir, 'images'), '--work-path', join(this.#dir, 'work')];
  }
}

function bundleOf(sample: Sample, root: string, id: string): object {
  const { container } = sample.workload;
  const spec = ociSpec({
    uid: id,
    name: sample.name,
    workloadName: sample.name,
    container: { ...container, preload: false },
    image: { entrypoint: [], cmd: [], env: [], workdir: '/', user: undefined },
    user: { uid: 0, gid: 0, additionalGids: [], home: '/root' },
    address: '127.0.0.1',
    rootDir: root,
    netns: '',
    cgroupVersion: 1,
    architecture: process.arch,
    slotDir: '/none',
    etcDir: '/none',
    volumes: [],
    restoreDeadlineSeconds: sample.workload.restore.deadlineSeconds,
  });
  return {
    ...spec,
    process: { ...spec.process, args: container.command },
    mounts: spec.mounts.filter(({ source }) => !source.startsWith('/none')),
    linux: {
      ...spec.linux,
      cgroupsPath: `/${id}`,
      namespaces: spec.linux.namespaces.filter(({ type }) => type !== 'network'),
    },
  };
}
