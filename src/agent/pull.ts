import type { FileHandle } from 'node:fs/promises';
import { Agent as HttpAgent, request } from 'undici';
import { abortedAfter, orAborted } from '../lib/abort.ts';
import type { Clock } from '../lib/clock.ts';
import { type ErrorCode, RekindleError, toRekindleError } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';
import type { View } from '../queue/truth.ts';
import { whyIncompatible } from '../snapshots/compatibility.ts';
import { digestOf } from '../snapshots/directory.ts';
import { MAX_MANIFEST_BYTES, type MachineClass, parseManifest } from '../snapshots/manifest.ts';
import type { Snapshot } from '../snapshots/shelf.ts';
import type { SnapshotStore } from '../snapshots/store.ts';
import type { Inventory } from './inventory.ts';

export type PullerDeps = {
  readonly store: Pick<SnapshotStore, 'receive'>;
  readonly inventory: Inventory;
  readonly machine: MachineClass;
  readonly clock: Clock;
  readonly log: Log;
  readonly token: () => string;
  readonly view: () => Pick<View, 'nodes'>;
  /** How an attempt at one node ended, for metrics; `bytes` of one that is here. */
  readonly onPull?: ((outcome: 'pulled' | ErrorCode, bytes: number) => void) | undefined;
  /** A snapshot is here that was not. Must not throw; nobody who asked for it waits for that. */
  readonly received: (snapshot: Snapshot) => Promise<void>;
  /** Called when what is being pulled changes. */
  readonly changed: () => void;
  /** Aborts when the agent ends. */
  readonly stop: AbortSignal;
};

/** What a transfer between two machines of one place is expected to bring. */
const BYTES_PER_SECOND = 200e6;
/** A transfer that brings nothing for so long has broken. */
const SILENT_MS = 5_000;
/** Attempts at one file without a byte more. */
const MAX_IDLE_ATTEMPTS = 5;
const BACKOFF_MS = 100;

/** Progress is told in so many steps: each may be a call over a network. */
const PROGRESS_STEPS = 20;

type Source = { readonly node: string; readonly url: string; readonly bytes: number };

/** Fetches snapshots from the nodes that have them, each once however many ask for it. Nothing is visible before all of it was compared. */
export class Puller implements AsyncDisposable {
  readonly #deps: PullerDeps;
  readonly #running = new Map<string, { readonly done: Promise<void>; readonly listeners: Set<(part: number) => void> }>();
  readonly #http = new HttpAgent({ connections: 8, headersTimeout: SILENT_MS, bodyTimeout: SILENT_MS, connectTimeout: SILENT_MS });

  constructor(deps: PullerDeps) {
    this.#deps = deps;
  }

  /** Digests on their way here. */
  pulling(): readonly string[] {
    return [...this.#running.keys()];
  }

  /**
   * Resolves when the snapshot is here. One that is not comes from the nodes that have it, one after the other, unless a cold start of `coldMs` is expected
   * to be over sooner. `progress` hears what part of it has come. Throws why it is not here: `not_found`, `snapshot_incompatible`, `snapshot_corrupt`, `disk_full`, `agent_unavailable`.
   */
  async bring(digest: string, coldMs: number, signal: AbortSignal, progress?: (part: number) => void): Promise<void> {
    const { inventory, stop } = this.#deps;
    if (inventory.has(digest)) return;
    const sources = this.#sources(digest);
    const [first] = sources;
    if (first === undefined)
      // Who asks may have heard of it a moment before we do.
      throw new RekindleError('not_found', `the snapshot ${digest.slice(0, 12)} is on no node that answers`, { retryable: true });
    const expectedMs = (first.bytes / BYTES_PER_SECOND) * 1000;
    if (expectedMs > coldMs)
      throw new RekindleError('timeout', `to fetch its snapshot would take longer (${Math.round(expectedMs)} ms) than to start without`);
    const running = this.#running.get(digest) ?? this.#pull(digest, sources, stop);
    if (progress !== undefined) running.listeners.add(progress);
    // A start does not wait much longer than it would have taken cold; the transfer goes on for the next one.
    const late = Number.isFinite(coldMs) ? AbortSignal.any([signal, abortedAfter(2 * coldMs)]) : signal;
    await orAborted(running.done, late).catch((error: unknown) => {
      if (signal.aborted || !late.aborted) throw error;
      throw new RekindleError('timeout', `its snapshot ${digest.slice(0, 12)} did not come within ${2 * coldMs} ms`);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled([...this.#running.values()].map(({ done }) => done));
    await this.#http.destroy();
  }

  #sources(digest: string): Source[] {
    return [...this.#deps.view().nodes].flatMap(([node, { said }]) => {
      const found = said.snapshots.find((one) => one.digest === digest);
      if (found === undefined || said.peer === undefined || found.quarantined !== undefined) return [];
      return [{ node, url: said.peer, bytes: found.totalBytes }];
    });
  }

  #pull(digest: string, sources: readonly Source[], signal: AbortSignal) {
    const { changed, inventory } = this.#deps;
    const listeners = new Set<(part: number) => void>();
    const progress = (part: number) => {
      for (const listener of listeners) listener(part);
    };
    const done = this.#fromAny(digest, sources, progress, signal).finally(async () => {
      await inventory.refresh();
      this.#running.delete(digest);
      changed();
    });
    // Whoever asked may be gone.
    done.catch(() => undefined);
    const pull = { done, listeners };
    this.#running.set(digest, pull);
    changed();
    return pull;
  }

  async #fromAny(digest: string, sources: readonly Source[], progress: (part: number) => void, signal: AbortSignal): Promise<void> {
    const { log, onPull } = this.#deps;
    let failure: RekindleError | undefined;
    for (const source of sources) {
      const from = performance.now();
      try {
        const snapshot = await this.#from(digest, source, progress, signal);
        void this.#deps.received(snapshot);
        onPull?.('pulled', source.bytes);
        const ms = Math.round(performance.now() - from);
        log.info({ snapshot: digest, node: source.node, ms, bytes: source.bytes }, 'snapshot pulled');
        return;
      } catch (error) {
        failure = toRekindleError(error);
        signal.throwIfAborted();
        onPull?.(failure.code, 0);
        log.warn({ err: failure, snapshot: digest, node: source.node }, 'snapshot could not be pulled from a node');
        // Another node would not make room, nor another machine of this one.
        if (failure.code === 'disk_full' || failure.code === 'snapshot_incompatible') break;
      }
    }
    throw failure ?? new RekindleError('not_found', `the snapshot ${digest} is on no node`);
  }

  async #from(digest: string, { node, url }: Source, progress: (part: number) => void, signal: AbortSignal): Promise<Snapshot> {
    const base = `${url}/snapshots/${digest}`;
    const where = `snapshot ${digest.slice(0, 12)} of node ${node}`;
    const bytes = await this.#manifest(`${base}/manifest`, where, signal);
    if (digestOf(bytes) !== digest) throw new RekindleError('snapshot_corrupt', `${where}: the manifest has another digest`);
    const manifest = parseManifest(bytes, where);
    const misfit = whyIncompatible(manifest.class, this.#deps.machine);
    if (misfit !== undefined) throw new RekindleError('snapshot_incompatible', `${where} does not fit this machine: ${misfit}`);
    let came = 0;
    let told = 0;
    const onBytes = (count: number) => {
      came += count;
      const step = Math.floor((PROGRESS_STEPS * came) / Math.max(1, manifest.totalBytes));
      if (step > told) progress(step / PROGRESS_STEPS);
      told = Math.max(told, step);
    };
    return this.#deps.store.receive(
      bytes,
      (entry, target, until) =>
        this.#file(`${base}/files/${entry.path.split('/').map(encodeURIComponent).join('/')}`, { ...entry, where, onBytes }, target, until),
      where,
      signal,
    );
  }

  async #manifest(url: string, where: string, signal: AbortSignal): Promise<Buffer> {
    const { statusCode, body } = await this.#get(url, {}, where, signal);
    if (statusCode !== 200) throw await refusal(where, statusCode, body);
    const chunks: Buffer[] = [];
    let size = 0;
    for await (const chunk of body) {
      size += chunk.length;
      if (size > MAX_MANIFEST_BYTES) throw new RekindleError('snapshot_corrupt', `${where}: the manifest is larger than any may be`);
      chunks.push(chunk);
    }
    return Buffer.concat(chunks);
  }

  /** Goes on at the byte reached when a connection breaks. */
  async #file(
    url: string,
    file: { readonly path: string; readonly size: number; readonly where: string; readonly onBytes: (count: number) => void },
    target: FileHandle,
    signal: AbortSignal,
  ): Promise<void> {
    let at = 0;
    let idle = 0;
    while (at < file.size) {
      const before = at;
      try {
        const { statusCode, body } = await this.#get(url, at === 0 ? {} : { range: `bytes=${at}-` }, file.where, signal);
        if (statusCode !== (at === 0 ? 200 : 206)) throw await refusal(`${file.path} of ${file.where}`, statusCode, body);
        for await (const chunk of body) {
          if (at + chunk.length > file.size)
            throw new RekindleError('snapshot_corrupt', `${file.where}: ${file.path} is longer than it says`);
          await target.write(chunk, 0, chunk.length, at);
          at += chunk.length;
          file.onBytes(chunk.length);
        }
        if (at < file.size) throw new RekindleError('agent_unavailable', `${file.where}: ${file.path} ended early`, { retryable: true });
      } catch (error) {
        signal.throwIfAborted();
        idle = at > before ? 0 : idle + 1;
        if (!(error instanceof RekindleError && error.retryable) && !isConnection(error)) throw error;
        if (idle >= MAX_IDLE_ATTEMPTS) throw unavailable(file.where, error);
        await this.#deps.clock.sleep(BACKOFF_MS * (idle + 1), signal);
      }
    }
  }

  async #get(url: string, headers: Record<string, string>, where: string, signal: AbortSignal) {
    const authorization = `Bearer ${this.#deps.token()}`;
    return request(url, { dispatcher: this.#http, headers: { ...headers, authorization }, signal }).catch((error: unknown) => {
      signal.throwIfAborted();
      throw unavailable(where, error);
    });
  }
}

type Body = Awaited<ReturnType<typeof request>>['body'];

async function refusal(what: string, status: number, body: Body): Promise<RekindleError> {
  const text = (await body.text().catch(() => '')).slice(0, 200);
  const code = status === 404 ? 'not_found' : 'agent_unavailable';
  return new RekindleError(code, `${what}: the node answered ${status} ${text}`);
}

function unavailable(where: string, cause: unknown): RekindleError {
  if (cause instanceof RekindleError) return cause;
  const why = cause instanceof Error ? cause.message : String(cause);
  return new RekindleError('agent_unavailable', `${where} cannot be reached: ${why}`, { cause, retryable: true });
}

/** Of the body: undici's errors of a socket that closed, or was silent. */
function isConnection(error: unknown): boolean {
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  return code.startsWith('UND_ERR') || ['ECONNRESET', 'ECONNREFUSED', 'EPIPE', 'ETIMEDOUT'].includes(code);
}
