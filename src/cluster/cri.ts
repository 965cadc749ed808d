import type { TSchema } from 'typebox';
import { Value } from 'typebox/value';
import { abortedAfter, untilAborted } from '../lib/abort.ts';
import type { Clock } from '../lib/clock.ts';
import { RekindleError } from '../lib/errors.ts';
import type { ExecOutcome } from '../workloads/host.ts';
import { CriChannel, findSocket } from './cri-channel.ts';
import { type Answer, ContainerInfo, ImageInfo, SandboxInfo } from './cri-messages.ts';
import { CommandWatch } from './exec-watch.ts';

/** Labels that the kubelet gives every container (pkg/kubelet/types/labels.go). */
const POD_UID = 'io.kubernetes.pod.uid';
const POD_NAME = 'io.kubernetes.pod.name';
const POD_NAMESPACE = 'io.kubernetes.pod.namespace';
const CONTAINER_NAME = 'io.kubernetes.container.name';

const STATES = {
  CONTAINER_CREATED: 'created',
  CONTAINER_RUNNING: 'running',
  CONTAINER_EXITED: 'exited',
} as const satisfies Record<string, CriState>;
export type CriState = 'created' | 'running' | 'exited' | 'unknown';

/** A container as its runtime has it. */
export type CriContainer = {
  readonly id: string;
  readonly podUid: string;
  readonly podName: string;
  readonly namespace: string;
  /** Of the container in its pod. */
  readonly name: string;
  readonly state: CriState;
  /** How often the kubelet made this container of the pod before. */
  readonly restarts: number;
  readonly createdAtMs: number;
  /** As the pod names it. */
  readonly image: string;
  /** What {@link Cri.image} takes: the image that really runs, whatever a tag has become since. */
  readonly imageId: string;
  readonly labels: Readonly<Record<string, string>>;
};

export type CriContainerStatus = CriContainer & {
  readonly exitCode: number;
  readonly logFile: string;
  /** As the node's own PID namespace numbers it; undefined when there is no process. */
  readonly pid: number | undefined;
  /** Of its pod's sandbox, for {@link Cri.sandboxSpec}. */
  readonly sandboxId: string | undefined;
  /** The OCI runtime configuration it was made from, unchecked. */
  readonly runtimeSpec: unknown;
};

/** What an image says of its process (image-spec, config.md). */
export type CriImage = {
  /** Of the image's configuration: `sha256:…`. */
  readonly digest: string;
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
  readonly env: readonly string[];
  readonly user: string | undefined;
  readonly workdir: string;
};

const ASK_MS = 10_000;
const OUTPUT_BYTES = 64 * 1024;
/** How much longer the runtime is told to wait than we do: it ends commands whose caller is gone. */
const RUNTIME_GRACE_S = 5;
/** What containerd, CRI-O, runc and crun say when a command could not be started. */
const NOT_STARTED = /executable file|exec failed|no such file or directory|not found in \$PATH|permission denied/i;

/**
 * The container runtime of this node by the Container Runtime Interface, v1. Everything may be repeated, nothing here retries; errors are those of
 * {@link CriChannel.call}.
 */
export class Cri implements Disposable {
  readonly #channel: CriChannel;
  readonly #clock: Clock;

  constructor(deps: { clock: Clock; socket: string }) {
    this.#clock = deps.clock;
    this.#channel = new CriChannel(deps.socket);
  }

  /** The runtime that listens below `root`. Throws `machine_unsupported` when none does. */
  static async open(deps: { clock: Clock; root: string }): Promise<Cri> {
    return new Cri({ clock: deps.clock, socket: await findSocket(deps.root) });
  }

  /** As `containerd 2.1.9`. */
  async version(signal: AbortSignal): Promise<string> {
    const { runtimeName, runtimeVersion } = await this.#channel.call('Version', {}, { timeoutMs: ASK_MS, signal });
    return `${runtimeName} ${runtimeVersion}`;
  }

  /** The container, also one that has ended, until the kubelet removes it; else undefined. */
  async container(id: string, signal: AbortSignal): Promise<CriContainerStatus | undefined> {
    const answer = await orNothing(
      this.#channel.call('ContainerStatus', { containerId: id, verbose: true }, { timeoutMs: ASK_MS, signal }),
    );
    if (answer === undefined || answer.status === null) return undefined;
    const info = infoOf(ContainerInfo, answer.info, 'container');
    return {
      ...asContainer(answer.status),
      exitCode: answer.status.exitCode,
      logFile: answer.status.logPath,
      pid: info?.pid === 0 ? undefined : info?.pid,
      sandboxId: info?.sandboxID,
      runtimeSpec: info?.runtimeSpec,
    };
  }

  /** The OCI runtime configuration of a pod's sandbox, unchecked; undefined when it is not there, or the runtime does not say. */
  async sandboxSpec(id: string, signal: AbortSignal): Promise<unknown> {
    const request = { podSandboxId: id, verbose: true };
    const answer = await orNothing(this.#channel.call('PodSandboxStatus', request, { timeoutMs: ASK_MS, signal }));
    return answer === undefined ? undefined : infoOf(SandboxInfo, answer.info, 'sandbox')?.runtimeSpec;
  }

  /** Every container of the pod, those that ended too. */
  async containersOf(podUid: string, signal: AbortSignal): Promise<readonly CriContainer[]> {
    const filter = { labelSelector: { [POD_UID]: podUid } };
    const { containers } = await this.#channel.call('ListContainers', { filter }, { timeoutMs: ASK_MS, signal });
    return containers.map(asContainer);
  }

  /** Calls back with the uid of a pod when a container of it was made, from now on, until the runtime ends that; rejects when it cannot. */
  follow(onMade: (podUid: string) => void, signal: AbortSignal): Promise<void> {
    return this.#channel.follow(
      'GetContainerEvents',
      ({ containerId, containerEventType: type, containersStatuses: all }) => {
        const uid = all.find(({ id }) => id === containerId)?.labels[POD_UID];
        if (type === 'CONTAINER_CREATED_EVENT' && uid !== undefined) onMade(uid);
      },
      signal,
    );
  }

  /** The image with this id or name, or undefined when it is not on this node or does not say what it runs. */
  async image(id: string, signal: AbortSignal): Promise<CriImage | undefined> {
    const request = { image: { image: id }, verbose: true };
    const answer = await orNothing(this.#channel.call('ImageStatus', request, { timeoutMs: ASK_MS, signal }));
    if (answer === undefined || answer.image === null) return undefined;
    const config = infoOf(ImageInfo, answer.info, 'image')?.imageSpec.config;
    if (config === undefined) return undefined;
    return {
      // CRI-O leaves the algorithm out.
      digest: answer.image.id.includes(':') ? answer.image.id : `sha256:${answer.image.id}`,
      entrypoint: config.Entrypoint ?? [],
      cmd: config.Cmd ?? [],
      env: config.Env ?? [],
      user: config.User === '' ? undefined : config.User,
      workdir: config.WorkingDir || '/',
    };
  }

  /**
   * Runs a command with exactly the container's rights, see `Host.exec`: its output is all of stdout, then stderr. `processes` are the container's as
   * this process numbers them: when the time is up, and on abort, the command is killed with all that it started. The outcome comes when nobody holds
   * the command's output open any more, so a command that leaves something in the background must redirect that.
   */
  async execSync(
    id: string,
    command: readonly string[],
    options: { timeoutMs: number; processes: () => readonly number[]; signal: AbortSignal },
  ): Promise<ExecOutcome> {
    options.signal.throwIfAborted();
    const watch = new CommandWatch({ clock: this.#clock, processes: options.processes }, command);
    const late = abortedAfter(options.timeoutMs);
    const stop = AbortSignal.any([options.signal, late]);
    const cancel = new AbortController();
    const ended = new AbortController();
    // In whole seconds; only for the case that we are killed.
    const timeout = Math.ceil(options.timeoutMs / 1000) + RUNTIME_GRACE_S;
    const request = { containerId: id, cmd: command, timeout };
    const running = this.#channel
      .call('ExecSync', request, { timeoutMs: timeout * 1000, signal: cancel.signal })
      .finally(() => ended.abort());
    if ((await untilAborted(stop, ended.signal)) === stop) {
      // A failure of it is our own doing.
      running.catch(() => undefined);
      await watch.kill(() => cancel.abort(), ended.signal).finally(() => cancel.abort());
      options.signal.throwIfAborted();
      const what = `${command.join(' ')} took longer than ${options.timeoutMs} ms in container ${id}`;
      throw new RekindleError('timeout', what, { retryable: true });
    }
    try {
      const answer = await running;
      const output = Buffer.concat([answer.stdout, answer.stderr]).subarray(0, OUTPUT_BYTES);
      return { status: answer.exitCode, output: output.toString('utf8') };
    } catch (error) {
      return await this.#outcomeOf(error, id, options.signal);
    }
  }

  [Symbol.dispose](): void {
    this.#channel[Symbol.dispose]();
  }

  /** A command that could not be started is an outcome; one in a container that is gone is `not_found`. */
  async #outcomeOf(error: unknown, id: string, signal: AbortSignal): Promise<ExecOutcome> {
    if (!(error instanceof RekindleError) || error.code !== 'container_failed') throw error;
    if ((await this.container(id, signal))?.state !== 'running')
      throw new RekindleError('not_found', `there is no running container ${id}`, { cause: error });
    if (!NOT_STARTED.test(error.message)) throw error;
    return { status: /permission denied/i.test(error.message) ? 126 : 127, output: error.message };
  }
}

function asContainer(answer: Answer<'ListContainers'>['containers'][number]): CriContainer {
  const { id, labels, metadata } = answer;
  return {
    id,
    podUid: labels[POD_UID] ?? '',
    podName: labels[POD_NAME] ?? '',
    namespace: labels[POD_NAMESPACE] ?? '',
    name: labels[CONTAINER_NAME] ?? metadata?.name ?? '',
    state: isState(answer.state) ? STATES[answer.state] : 'unknown',
    restarts: metadata?.attempt ?? 0,
    createdAtMs: Number(BigInt(answer.createdAt) / 1_000_000n),
    image: answer.image?.image ?? '',
    // Before 1.29 only the reference is there.
    imageId: answer.imageId || answer.imageRef,
    labels,
  };
}

const isState = (text: string): text is keyof typeof STATES => Object.hasOwn(STATES, text);

async function orNothing<T>(answer: Promise<T>): Promise<T | undefined> {
  try {
    return await answer;
  } catch (error) {
    if (error instanceof RekindleError && error.code === 'not_found') return undefined;
    throw error;
  }
}

/** What `verbose` adds, undefined where the runtime adds nothing. Throws `internal` when it is not understood. */
function infoOf<T extends TSchema>(schema: T, info: Readonly<Record<string, string>>, of: string) {
  const text = info.info;
  if (text === undefined) return undefined;
  try {
    return Value.Parse(schema, JSON.parse(text));
  } catch (cause) {
    throw new RekindleError('internal', `what the container runtime tells about the ${of} is not understood: ${String(cause)}`, { cause });
  }
}
