import type { Log } from '../lib/log.ts';
import type { KernelSettings } from './kernel-settings.ts';

/**
 * Copying a clone's memory into fresh pages is most of a restore, and a fault per 4 KiB most of that: in pieces of 64 KiB it takes 0.45 of the time, of
 * 256 KiB 0.4. Larger ones gain little more and cost memory. The smaller are for small mappings, and for a machine whose free memory lies in pieces.
 */
const SETTINGS = Object.fromEntries([16, 32, 64, 128, 256].map((size) => [`hugepages-${size}kB/enabled`, 'always']));

/**
 * While restores run the kernel hands out memory in larger pieces (multi-size THP, Linux 6.8 and newer); afterwards the machine's own setting
 * is back. The kernel takes a piece where a mapping has room for all of it and nothing is in it yet, so a clone may hold more than the seed did: the node, python and
 * java samples 1 to 5 % more; a heap with many holes more than that.
 */
export class LargePages implements AsyncDisposable {
  readonly #settings: KernelSettings;
  readonly #log: Log;
  #holders = 0;
  #failed = false;
  #last: Promise<void> = Promise.resolve();

  /** `settings`: those of /sys/kernel/mm/transparent_hugepage. */
  constructor(deps: { settings: KernelSettings; log: Log }) {
    this.#settings = deps.settings;
    this.#log = deps.log;
  }

  /** Wanted until disposed. Does not wait: the restore's first page is milliseconds away. A machine that refuses is slower, nothing else. */
  hold(): Disposable {
    this.#holders += 1;
    if (this.#holders === 1) this.#then(() => this.#settings.set(SETTINGS));
    let held = true;
    return {
      [Symbol.dispose]: () => {
        if (!held) return;
        held = false;
        this.#holders -= 1;
        if (this.#holders === 0) this.#then(() => (this.#holders === 0 ? this.#settings.restore() : Promise.resolve()));
      },
    };
  }

  /** Waits for what is under way. */
  settle(): Promise<void> {
    return this.#last;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#then(() => this.#settings.restore());
    await this.#last;
  }

  #then(work: () => Promise<void>): void {
    this.#last = this.#last.then(work).catch((err: unknown) => {
      if (!this.#failed) this.#log.warn({ err }, 'the size of memory pieces cannot be changed here: restores take longer');
      this.#failed = true;
    });
  }
}
