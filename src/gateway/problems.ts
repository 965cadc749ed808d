import type { ApiProblem } from './schemas.ts';

export type ProblemNote = { readonly workload?: string; readonly node?: string; readonly text: string };

const KEPT = 50;
const KEPT_MS = 10 * 60_000;
/** The same said again within this time is the same problem. */
const SAME_MS = 10_000;

/** What went wrong in the last minutes, in words; newest last. */
export class Problems {
  readonly #wallMs: () => number;
  readonly #listeners = new Set<(problem: ApiProblem) => void>();
  #list: ApiProblem[] = [];

  constructor(deps: { readonly wallMs: () => number }) {
    this.#wallMs = deps.wallMs;
  }

  note(problem: ProblemNote): void {
    const now = this.#wallMs();
    const known = (one: ApiProblem) => one.text === problem.text && one.workload === problem.workload && one.node === problem.node;
    if (this.#list.some((one) => known(one) && Math.abs(now - one.atMs) < SAME_MS)) return;
    const noted = { atMs: now, ...problem };
    this.#list = [...this.recent(), noted].slice(-KEPT);
    for (const tell of this.#listeners) tell(noted);
  }

  recent(): ApiProblem[] {
    const since = this.#wallMs() - KEPT_MS;
    return this.#list.filter(({ atMs }) => atMs >= since);
  }

  last(workload: string): ApiProblem | undefined {
    return this.recent().findLast((one) => one.workload === workload);
  }

  onNote(listener: (problem: ApiProblem) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}
