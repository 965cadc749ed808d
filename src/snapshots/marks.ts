import { readFileSync } from 'node:fs';
import { open, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Type } from 'typebox';
import { Value } from 'typebox/value';
import { errno } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';
import { partialName } from './leftovers.ts';

const Content = Type.Record(Type.String(), Type.Object({ reason: Type.String(), atMs: Type.Number() }));

/** Why a snapshot is marked, and since when. */
export type Mark = { readonly reason: string; readonly atMs: number };

/** Some of the snapshots, and why just these. In a file beside them: it outlives the agent. */
export class Marks {
  readonly #file: string;
  readonly #dir: string;
  readonly #log: Log;
  #last: Promise<unknown> = Promise.resolve();

  constructor(deps: { readonly file: string; readonly dir: string; readonly log: Log }) {
    this.#file = deps.file;
    this.#dir = deps.dir;
    this.#log = deps.log;
  }

  /** By digest. Read each time: another process may have written it; synchronously, a few lines before every restore. An unreadable file counts as empty: it fills again. */
  all(): ReadonlyMap<string, Mark> {
    const path = join(this.#dir, this.#file);
    try {
      const value: unknown = JSON.parse(readFileSync(path, 'utf8'));
      if (Value.Check(Content, value)) return new Map(Object.entries(value));
      this.#log.warn({ path }, 'file of marked snapshots ignored');
    } catch (err) {
      if (errno(err) !== 'ENOENT') this.#log.warn({ path, err }, 'file of marked snapshots ignored');
    }
    return new Map();
  }

  async add(digest: string, entry: Mark): Promise<void> {
    await this.#change((all) => all.set(digest, entry));
  }

  async clear(digest: string): Promise<void> {
    await this.#change((all) => all.delete(digest));
  }

  /** One change at a time, each by rename. `change` says false when there was nothing to do. */
  async #change(change: (all: Map<string, Mark>) => unknown): Promise<void> {
    const mine = this.#last.then(async () => {
      const all = new Map(this.all());
      if (change(all) === false) return;
      const draft = join(this.#dir, await partialName());
      try {
        await using file = await open(draft, 'wx', 0o600);
        await file.writeFile(JSON.stringify(Object.fromEntries(all), null, 2));
        await file.sync();
        await rename(draft, join(this.#dir, this.#file));
      } catch (error) {
        await rm(draft, { force: true });
        throw error;
      }
    });
    this.#last = mine.catch(() => undefined);
    await mine;
  }
}
