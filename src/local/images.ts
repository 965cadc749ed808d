import { createHash, randomUUID } from 'node:crypto';
import { mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { type Static, Type } from 'typebox';
import { Value } from 'typebox/value';
import { orAborted } from '../lib/abort.ts';
import { errno, RekindleError } from '../lib/errors.ts';
import type { Exec } from '../lib/exec.ts';
import type { Log } from '../lib/log.ts';
import { identify } from './processes.ts';
import type { ImageDefaults } from './spec.ts';

/** An image whose root filesystem is on this disk. */
export type UnpackedImage = { readonly digest: string; readonly rootDir: string; readonly defaults: ImageDefaults };

const Digest = Type.String({ pattern: '^sha256:[0-9a-f]{64}$' });
const Descriptor = Type.Object({ digest: Digest });
const Index = Type.Object({ manifests: Type.Array(Descriptor, { minItems: 1 }) });
const Manifest = Type.Object({ config: Descriptor });
const Strings = Type.Optional(Type.Union([Type.Array(Type.String()), Type.Null()]));
/** The image configuration (image-spec, config.md); whoever wrote the image wrote this. */
const Config = Type.Object({
  config: Type.Optional(
    Type.Object({
      Entrypoint: Strings,
      Cmd: Strings,
      Env: Strings,
      WorkingDir: Type.Optional(Type.String()),
      User: Type.Optional(Type.String()),
    }),
  ),
});
/** What a reference meant when it was last looked at. */
const Resolved = Type.Object({ reference: Type.String(), state: Type.String(), digest: Digest });

const PULL_TIMEOUT_MS = 10 * 60_000;

/**
 * Images of every kind that skopeo reads, unpacked once per image configuration. `images/sha256-…/` holds `rootfs` and `config.json` and
 * appears by rename: whole or not at all. Several processes may unpack the same image; the first to finish wins.
 */
export class Images {
  readonly #exec: Exec;
  readonly #log: Log;
  readonly #dir: string;
  readonly #pending = new Map<string, Promise<UnpackedImage>>();

  constructor(deps: { exec: Exec; log: Log; dir: string }) {
    this.#exec = deps.exec;
    this.#log = deps.log;
    this.#dir = deps.dir;
  }

  /**
   * The image, fetched and unpacked if need be. A file or directory is looked at again when it changed; a tag of a registry once per
   * process; `@sha256:…` never. Throws `image_unavailable`. An abort ends the waiting, not the unpacking that others may wait for.
   */
  async get(reference: string, signal: AbortSignal): Promise<UnpackedImage> {
    signal.throwIfAborted();
    const state = await stateOf(reference);
    const key = `${reference}\n${state}`;
    let pending = this.#pending.get(key);
    if (pending === undefined) {
      pending = this.#find(reference, state);
      this.#pending.set(key, pending);
      pending.catch(() => this.#pending.delete(key));
    }
    return orAborted(pending, signal);
  }

  /** Removes what processes that are gone left half done. */
  async cleanUp(): Promise<void> {
    for (const entry of await readdir(this.#dir).catch(() => [])) {
      const [, pid, startTime] = /^\.new-(\d+)-(\d+)-/.exec(entry) ?? [];
      if (pid === undefined || identify(Number(pid))?.startTime === startTime) continue;
      // A tool that the killed process had started may still be writing there: the next start finds the rest.
      await rm(path.join(this.#dir, entry), { recursive: true, force: true }).catch((error: unknown) =>
        this.#log.warn({ err: error }, 'half unpacked image not removed yet'),
      );
    }
  }

  async #find(reference: string, state: string): Promise<UnpackedImage> {
    const note = path.join(this.#dir, 'references', `${createHash('sha256').update(reference).digest('hex')}.json`);
    const known = await readJson(note, Resolved).catch(() => undefined);
    const movable = reference.startsWith('docker://') && !reference.includes('@');
    if (known !== undefined && known.reference === reference && known.state === state && !movable) {
      const image = await this.unpacked(known.digest);
      if (image !== undefined) return image;
    }
    try {
      const image = await this.#fetch(reference);
      await mkdir(path.dirname(note), { recursive: true });
      const written = `${note}.${randomUUID()}`;
      await writeFile(written, JSON.stringify({ reference, state, digest: image.digest }));
      await rename(written, note);
      return image;
    } catch (error) {
      const image = movable && known !== undefined ? await this.unpacked(known.digest) : undefined;
      if (image === undefined) throw error;
      this.#log.warn({ image: reference, err: error }, 'registry not reached, using the image of last time');
      return image;
    }
  }

  async #fetch(reference: string): Promise<UnpackedImage> {
    const own = identify(process.pid);
    const made = path.join(this.#dir, `.new-${process.pid}-${own?.startTime ?? 0}-${randomUUID()}`);
    await mkdir(made, { recursive: true, mode: 0o700 });
    try {
      return await this.#fetchInto(made, reference);
    } catch (error) {
      if (error instanceof RekindleError || errno(error) === 'ENOSPC') throw error;
      throw new RekindleError('image_unavailable', `image ${reference} is not an image that can be read: ${String(error)}`, {
        cause: error,
      });
    } finally {
      await rm(made, { recursive: true, force: true });
    }
  }

  async #fetchInto(made: string, reference: string): Promise<UnpackedImage> {
    const { source, wanted } = withoutDigest(reference);
    const layout = path.join(made, 'layout');
    await this.#tool(reference, 'skopeo', ['copy', '--quiet', '--override-os', 'linux', source, `oci:${layout}:image`]);
    const manifest = (await readJson(path.join(layout, 'index.json'), Index)).manifests[0]?.digest ?? '';
    const { digest } = (await readJson(blob(layout, manifest), Manifest)).config;
    if (wanted !== undefined && wanted !== manifest && wanted !== digest) {
      throw new RekindleError(
        'image_unavailable',
        `image ${source} is not the one with the digest ${wanted}: its manifest is ${manifest}, its configuration ${digest}. Correct the digest or get the right image`,
      );
    }
    const there = await this.unpacked(digest);
    if (there !== undefined) return there;

    const bundle = path.join(made, 'bundle');
    await this.#tool(reference, 'umoci', ['unpack', '--image', `${layout}:image`, bundle]);
    // In place of the runtime configuration that umoci would have us use.
    await writeFile(path.join(bundle, 'config.json'), await readFile(blob(layout, digest)));
    await rename(bundle, this.#home(digest)).catch((error: unknown) => {
      if (errno(error) !== 'ENOTEMPTY' && errno(error) !== 'EEXIST') throw error;
    });
    const image = await this.unpacked(digest);
    if (image === undefined)
      throw new RekindleError(
        'image_unavailable',
        `the configuration of image ${reference} cannot be understood: build it as an OCI image`,
      );
    return image;
  }

  #home(digest: string): string {
    return path.join(this.#dir, digest.replace(':', '-'));
  }

  /** The image with this configuration digest, if it is on this disk. */
  async unpacked(digest: string): Promise<UnpackedImage | undefined> {
    const home = this.#home(digest);
    const found = await readJson(path.join(home, 'config.json'), Config).catch(() => undefined);
    if (found === undefined) return undefined;
    const { Entrypoint, Cmd, Env, WorkingDir, User } = found.config ?? {};
    const defaults = { entrypoint: Entrypoint ?? [], cmd: Cmd ?? [], env: Env ?? [], workdir: WorkingDir || '/', user: User || undefined };
    return { digest, rootDir: path.join(home, 'rootfs'), defaults };
  }

  async #tool(reference: string, program: string, args: readonly string[]): Promise<void> {
    const result = await this.#exec(program, args, { timeoutMs: PULL_TIMEOUT_MS, env: { HOME: '/root' } });
    if (result.status === 0) return;
    const said = result.stderr.trim().split('\n').at(-1) ?? '';
    throw new RekindleError(
      'image_unavailable',
      `image ${reference} is not available: ${program}: ${said}. Check the name, that the file or registry is there, and its permissions`,
    );
  }
}

const blob = (layout: string, digest: string): string => path.join(layout, 'blobs', ...digest.split(':'));

async function readJson<T extends typeof Index | typeof Manifest | typeof Config | typeof Resolved>(
  file: string,
  schema: T,
): Promise<Static<T>> {
  const value: unknown = JSON.parse(await readFile(file, 'utf8'));
  if (!Value.Check(schema, value)) throw new Error(`${file} is not what it should be`);
  return value;
}

/**
 * Splits `TRANSPORT:NAME@sha256:…`. Registries keep theirs, and skopeo verifies it; for files we compare it with the digest of the
 * manifest or of the image configuration.
 */
export function withoutDigest(reference: string): { source: string; wanted?: string } {
  const match = /^(.*)@(sha256:[0-9a-f]{64})$/.exec(reference);
  if (match?.[1] === undefined || match[2] === undefined || reference.startsWith('docker://')) return { source: reference };
  return { source: match[1], wanted: match[2] };
}

/** What tells that a file or directory changed; empty for what lies elsewhere. Throws `image_unavailable` when it is not there. */
async function stateOf(reference: string): Promise<string> {
  const [, transport, file] = /^(oci|dir|oci-archive|docker-archive):([^:@]+)/.exec(reference) ?? [];
  if (transport === undefined || file === undefined) return '';
  const inner = { oci: 'index.json', dir: 'manifest.json' }[transport];
  const looked = inner === undefined ? file : path.join(file, inner);
  const found = await stat(looked).catch((error: unknown) => {
    throw new RekindleError(
      'image_unavailable',
      `image ${reference} is not available: ${looked} cannot be read (${errno(error)}). Build or copy it there first`,
      { cause: error },
    );
  });
  return `${found.ino} ${found.size} ${found.mtimeMs}`;
}
