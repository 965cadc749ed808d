import { hash } from 'node:crypto';
import { readFile, rename, writeFile } from 'node:fs/promises';
import { Type } from 'typebox';
import { Value } from 'typebox/value';
import type { Log } from '../lib/log.ts';

const Content = Type.Object({ key: Type.String(), hashes: Type.Record(Type.String(), Type.String()) });
/** Descriptions of workloads that are remembered; the oldest go first. */
const MAX_ENTRIES = 2_000;

/**
 * Which spec hash a workload's description came to on this machine, learned from its slots: so an agent started anew knows whether it has a snapshot of
 * a workload before it has a slot of it. In a file; what it says is only used to tell whether a snapshot is here, each slot's own hash decides.
 */
export class SpecIndex {
  readonly #path: string;
  readonly #log: Log;
  readonly #key: () => Uint8Array;
  #hashes = new Map<string, string>();
  #writing = false;
  #dirty = false;

  constructor(deps: { readonly path: string; readonly log: Log; readonly key: () => Uint8Array }) {
    this.#path = deps.path;
    this.#log = deps.log;
    this.#key = deps.key;
  }

  /** Reads the file; what cannot be understood, or was found with another key, counts as nothing. */
  async open(): Promise<void> {
    try {
      const value: unknown = JSON.parse(await readFile(this.#path, 'utf8'));
      if (Value.Check(Content, value) && value.key === this.#keyName()) this.#hashes = new Map(Object.entries(value.hashes));
    } catch {
      // None yet.
    }
  }

  get(workload: string, revision: string): string | undefined {
    return this.#hashes.get(`${workload}@${revision}`);
  }

  set(workload: string, revision: string, specHash: string): void {
    const name = `${workload}@${revision}`;
    if (this.#hashes.get(name) === specHash) return;
    this.#hashes.delete(name);
    this.#hashes.set(name, specHash);
    const [oldest] = this.#hashes.keys();
    if (this.#hashes.size > MAX_ENTRIES && oldest !== undefined) this.#hashes.delete(oldest);
    this.#dirty = true;
    if (!this.#writing) void this.#write();
  }

  /** Forgets everything: the key is another. */
  clear(): void {
    this.#hashes.clear();
  }

  async #write(): Promise<void> {
    this.#writing = true;
    while (this.#dirty) {
      this.#dirty = false;
      const text = JSON.stringify({ key: this.#keyName(), hashes: Object.fromEntries(this.#hashes) });
      await writeFile(`${this.#path}.new`, text, { mode: 0o600 })
        .then(() => rename(`${this.#path}.new`, this.#path))
        .catch((err: unknown) => this.#log.warn({ err, path: this.#path }, 'spec hashes not written down'));
    }
    this.#writing = false;
  }

  #keyName(): string {
    return hash('sha256', this.#key(), 'hex').slice(0, 16);
  }
}
