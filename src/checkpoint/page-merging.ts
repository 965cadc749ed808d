import type { Controller } from '../lib/loop.ts';
import type { KernelSettings } from './kernel-settings.ts';

/** Pages per scan and the pause between two (kernel: admin-guide/mm/ksm). Fast takes most of a core, slow a few hundredths of one. */
const FAST = { pages_to_scan: '50000', sleep_millisecs: '5', run: '1' };
const SLOW = { pages_to_scan: '5000', sleep_millisecs: '100', run: '1' };
const STOPPED = { run: '0' };
/** Stopped too: a clone that ends unheard must not keep the machine's settings away for ever. */
const LOOK_EVERY_MS = { fast: 250, slow: 1_000, stopped: 10_000 };
/** A page is merged in the second scan that sees it unchanged, so one scan without a merge says nothing yet. */
const SCANS_WITHOUT_GROWTH = 2;
/** Growth below this part of what is shared already is an application that goes on working, not a burst that settles. */
const GROWTH = 0.01;

type Pace = 'fast' | 'slow' | 'stopped';

/**
 * Lets the kernel merge equal pages of clones (KSM) while there is something to merge: fast from the moment a clone becomes live, slower when
 * scans find nothing more, then not at all; pages stay merged. When the last such clone has gone the machine's own settings are back.
 * Which processes take part is decided at their restore (`helper --merge`). Wake it when a clone becomes live or ends.
 */
export class PageMerging implements Controller {
  readonly name = 'page-merging';
  readonly #settings: KernelSettings;
  readonly #clones: () => Promise<readonly string[]>;
  #seen: ReadonlySet<string> = new Set();
  #pace: Pace = 'stopped';
  /** Pages shared and scans done when sharing last grew. */
  #shared = 0;
  #scans = 0;

  /** `settings`: those of /sys/kernel/mm/ksm. `clones`: the uids of live instances whose policy says `restore.mergeMemory`. */
  constructor(deps: { settings: KernelSettings; clones: () => Promise<readonly string[]> }) {
    this.#settings = deps.settings;
    this.#clones = deps.clones;
  }

  async reconcile(): Promise<{ readonly requeueAfterMs: number }> {
    const clones = new Set(await this.#clones());
    const more = !clones.isSubsetOf(this.#seen);
    this.#seen = clones;
    if (clones.size === 0) {
      this.#pace = 'stopped';
      await this.#settings.restore();
      return { requeueAfterMs: Number.POSITIVE_INFINITY };
    }
    const shared = Number(await this.#settings.read('pages_sharing'));
    const scans = Number(await this.#settings.read('full_scans'));
    if (!Number.isFinite(shared)) return { requeueAfterMs: Number.POSITIVE_INFINITY }; // a kernel that merges no pages
    const grown = shared > this.#shared * (1 + GROWTH);
    if (more || grown) {
      this.#shared = shared;
      this.#scans = scans;
    }
    if (more) await this.#go('fast');
    else if (scans - this.#scans >= SCANS_WITHOUT_GROWTH && this.#pace !== 'stopped') {
      this.#scans = scans;
      await this.#go(this.#pace === 'fast' ? 'slow' : 'stopped');
    }
    return { requeueAfterMs: LOOK_EVERY_MS[this.#pace] };
  }

  async #go(pace: Pace): Promise<void> {
    this.#pace = pace;
    await this.#settings.set({ fast: FAST, slow: SLOW, stopped: STOPPED }[pace]);
  }
}
