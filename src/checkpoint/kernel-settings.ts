import { readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Type } from 'typebox';
import { Value } from 'typebox/value';
import { errno } from '../lib/errors.ts';

const Saved = Type.Object({ pid: Type.Integer(), before: Type.Record(Type.String(), Type.String()) });

/**
 * Settings of the kernel (files below one directory of /sys) that we change for a while. What they were is written down before the first
 * change, so that whoever comes after a killed process can put it back. Several processes may do so at once: the last one's values hold, and
 * when each has put back what it found the machine's own do.
 */
export class KernelSettings {
  readonly #dir: string;
  readonly #saved: string;
  /** What the settings were that this process has changed. */
  readonly #before = new Map<string, string>();

  /** `saved`: one file of this machine for what the settings were, best on a tmpfs: a reboot forgets both. */
  constructor(deps: { dir: string; saved: string }) {
    this.#dir = deps.dir;
    this.#saved = deps.saved;
  }

  /** The value of a setting, undefined where this kernel has no such one. Of several to choose from (`always [never]`) the chosen. */
  async read(name: string): Promise<string | undefined> {
    try {
      const text = (await readFile(join(this.#dir, name), 'utf8')).trim();
      return /\[(\S+)\]/.exec(text)?.[1] ?? text;
    } catch (error) {
      if (errno(error) === 'ENOENT') return undefined;
      throw error;
    }
  }

  /** Changes settings, in the order given; those that this kernel lacks, or that are so already, are left out. */
  async set(values: Readonly<Record<string, string>>): Promise<void> {
    let learnt = false;
    for (const [name, value] of Object.entries(values)) {
      if (this.#before.has(name)) continue;
      const before = await this.#own(name, value);
      if (before === undefined) continue;
      this.#before.set(name, before);
      learnt = true;
    }
    if (learnt) {
      const whole = `${this.#saved}.new`;
      await writeFile(whole, JSON.stringify({ pid: process.pid, before: Object.fromEntries(this.#before) }), { mode: 0o600 });
      await rename(whole, this.#saved);
    }
    for (const [name, value] of Object.entries(values)) if (this.#before.has(name)) await writeFile(join(this.#dir, name), value);
  }

  /** Puts back what {@link set} changed. Safe to repeat. */
  async restore(): Promise<void> {
    if (this.#before.size === 0) return;
    for (const [name, value] of this.#before) await writeFile(join(this.#dir, name), value);
    this.#before.clear();
    await rm(this.#saved, { force: true });
  }

  /** Puts back what a process changed that was killed. */
  async recover(): Promise<void> {
    const { pid, before } = await this.#written();
    if (before.size === 0 || isAlive(pid)) return;
    for (const [name, value] of before) await writeFile(join(this.#dir, name), value);
    await rm(this.#saved, { force: true });
  }

  /** The machine's own value. Where it is what we want another process of ours may have made it so, which knows what it was. */
  async #own(name: string, wanted: string): Promise<string | undefined> {
    const now = await this.read(name);
    if (now !== wanted) return now;
    const written = (await this.#written()).before.get(name);
    if (written !== undefined) return written;
    // It may just have been put back.
    const again = await this.read(name);
    return again === wanted ? undefined : again;
  }

  async #written(): Promise<{ pid: number; before: Map<string, string> }> {
    const text = await readFile(this.#saved, 'utf8').catch(() => undefined);
    const value: unknown = text === undefined ? undefined : JSON.parse(text);
    if (!Value.Check(Saved, value)) return { pid: 0, before: new Map() };
    return { pid: value.pid, before: new Map(Object.entries(value.before)) };
  }
}

/**
 * The settings of this machine that agents change: the sizes of memory pieces, and the merging of equal pages. What they were is in the machine's own /run, where
 * every agent looks; `hostRoot` as in `CheckpointTools`.
 */
export function machineSettings(hostRoot: string): { readonly thp: KernelSettings; readonly ksm: KernelSettings } {
  const of = (what: string) => new KernelSettings({ dir: `/sys/kernel/mm/${what}`, saved: `${hostRoot}/run/rekindle-${what}.json` });
  return { thp: of('transparent_hugepage'), ksm: of('ksm') };
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return errno(error) === 'EPERM';
  }
}
