import { stat } from 'node:fs/promises';
import path from 'node:path';
import { Client, credentials, Metadata, type ServiceError, status } from '@grpc/grpc-js';
import { fromJSON, type MethodDefinition, type ServiceDefinition } from '@grpc/proto-loader';
import { Value } from 'typebox/value';
import { RekindleError } from '../lib/errors.ts';
import { type Answer, Answers, type Method, PROTOCOL } from './cri-messages.ts';

/** Where runtimes listen: containerd, CRI-O, and containerd as k3s, k0s and MicroK8s start it. */
const SOCKETS = [
  'run/containerd/containerd.sock',
  'run/crio/crio.sock',
  'run/k3s/containerd/containerd.sock',
  'run/k0s/containerd.sock',
  'var/snap/microk8s/common/run/containerd.sock',
];
/** Two streams of at most 16 MiB each (containerd's limit for ExecSync), and a little around them. */
const MAX_ANSWER_BYTES = 40 * 1024 * 1024;

const definitions = fromJSON(PROTOCOL, { longs: String, enums: String, defaults: true, arrays: true, objects: true });

/** The runtime's socket below `root` (`/proc/1/root` is the node's root for a process in its PID namespace). Throws `machine_unsupported`. */
export async function findSocket(root: string): Promise<string> {
  for (const socket of SOCKETS) {
    const file = path.join(root, socket);
    const found = await stat(file).catch(() => undefined);
    if (found?.isSocket() === true) return file;
  }
  const where = SOCKETS.map((socket) => `/${socket}`).join(', ');
  throw new RekindleError('machine_unsupported', `no container runtime listens on this node at ${where}: containerd or CRI-O is needed`);
}

/** One connection to the runtime of a node. It connects when it is used, and again when it broke. */
export class CriChannel implements Disposable {
  readonly #client: Client;
  readonly socket: string;

  constructor(socket: string) {
    this.socket = socket;
    this.#client = new Client(`unix://${socket}`, credentials.createInsecure(), {
      // By default it is the socket's path, which Go's HTTP/2 refuses.
      'grpc.default_authority': 'localhost',
      'grpc.max_receive_message_length': MAX_ANSWER_BYTES,
      'grpc.max_reconnect_backoff_ms': 1_000,
    });
  }

  /**
   * Asks once. Throws `not_found`, `timeout` and, when nobody answers on the socket, `machine_unsupported` (retryable); everything else that the
   * runtime refuses is `container_failed` with its words. An abort rejects with its reason: the runtime hears of it, and stops what it can.
   */
  call<M extends Method>(method: M, request: object, options: { timeoutMs: number; signal: AbortSignal }): Promise<Answer<M>> {
    const { timeoutMs, signal } = options;
    const service = method === 'ImageStatus' ? 'ImageService' : 'RuntimeService';
    const { path: at, requestSerialize, responseDeserialize } = methodOf(service, method);
    return new Promise<Answer<M>>((resolve, reject) => {
      if (signal.aborted) return reject(signal.reason);
      const done = (error: ServiceError | null, answer?: object) => {
        signal.removeEventListener('abort', abort);
        if (signal.aborted) reject(signal.reason);
        else if (error !== null) reject(this.#explained(error, method));
        else if (Value.Check(Answers[method], answer)) resolve(answer as Answer<M>);
        else
          reject(new RekindleError('internal', `the answer of ${this.socket} to ${method} is not understood: ${wrongIn(method, answer)}`));
      };
      const deadline = Date.now() + timeoutMs;
      const call = this.#client.makeUnaryRequest(at, requestSerialize, responseDeserialize, request, new Metadata(), { deadline }, done);
      const abort = () => call.cancel();
      signal.addEventListener('abort', abort, { once: true });
    });
  }

  /**
   * Hears what the runtime says by itself. Resolves when it ends that, rejects as {@link call} does; on an abort with its reason.
   */
  follow<M extends Method>(method: M, onAnswer: (answer: Answer<M>) => void, signal: AbortSignal): Promise<void> {
    const { path: at, requestSerialize, responseDeserialize } = methodOf('RuntimeService', method);
    return new Promise((resolve, reject) => {
      if (signal.aborted) return reject(signal.reason);
      const stream = this.#client.makeServerStreamRequest(at, requestSerialize, responseDeserialize, {});
      const abort = () => stream.cancel();
      signal.addEventListener('abort', abort, { once: true });
      stream.on('data', (answer: unknown) => {
        if (Value.Check(Answers[method], answer)) return onAnswer(answer as Answer<M>);
        stream.cancel();
        reject(new RekindleError('internal', `what ${this.socket} says in ${method} is not understood: ${wrongIn(method, answer)}`));
      });
      stream.on('end', resolve);
      stream.on('error', (error: ServiceError) => reject(signal.aborted ? signal.reason : this.#explained(error, method)));
      stream.on('close', () => signal.removeEventListener('abort', abort));
    });
  }

  [Symbol.dispose](): void {
    this.#client.close();
  }

  #explained(cause: ServiceError, method: Method): RekindleError {
    const says = cause.details;
    switch (cause.code) {
      case status.NOT_FOUND:
        return new RekindleError('not_found', `the container runtime does not know it: ${says}`, { cause });
      case status.DEADLINE_EXCEEDED:
        return new RekindleError('timeout', `the container runtime did not answer ${method} in time: ${says}`, { cause, retryable: true });
      case status.UNAVAILABLE:
        return new RekindleError('machine_unsupported', `no container runtime answers at ${this.socket}: ${says}`, {
          cause,
          retryable: true,
        });
      case status.UNIMPLEMENTED:
        return new RekindleError('machine_unsupported', `the container runtime at ${this.socket} does not speak CRI v1: ${says}`, {
          cause,
        });
      default:
        return new RekindleError('container_failed', `the container runtime refuses ${method}: ${says}`, { cause });
    }
  }
}

function methodOf(service: string, method: string): MethodDefinition<object, object> {
  const definition = definitions[`runtime.v1.${service}`] as ServiceDefinition | undefined;
  const found = definition?.[method];
  if (found === undefined) throw new RekindleError('internal', `${service} has no ${method}`);
  return found;
}

function wrongIn(method: Method, answer: unknown): string {
  const [first] = Value.Errors(Answers[method], answer);
  return `${first?.instancePath ?? ''} ${first?.message ?? ''}`.trim();
}
