/** Work that goes on by itself, for whoever must not end before it has. */
export class Tasks {
  readonly #running = new Set<Promise<void>>();

  get size(): number {
    return this.#running.size;
  }

  /** Counts `work` until it has ended, and returns it: a failure is for whoever awaits that, and for nobody here. */
  add<T>(work: Promise<T>): Promise<T> {
    const gone = () => void this.#running.delete(done);
    const done: Promise<void> = work.then(gone, gone);
    this.#running.add(done);
    return work;
  }

  /** Resolves, never rejects, once all that runs now has ended. */
  async settled(): Promise<void> {
    await Promise.all(this.#running);
  }
}
