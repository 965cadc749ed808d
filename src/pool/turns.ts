export type Claim<T> = {
  readonly of: T;
  /** How many it wants. */
  readonly wants: number;
  /** How many it has already. */
  readonly has: number;
  /** Who has waited longer goes first among those who have equally many. */
  readonly ageMs: number;
  readonly name: string;
};

/**
 * Hands out what is short, one at a time, always to the claim that has least by now: max-min fairness, a round robin in which whoever is
 * behind catches up first. So a workload with a thousand waiting requests and ten instances never keeps one with none waiting.
 * `grant` says whether there was one; a claim that was refused is out for this pass.
 */
export function inTurns<T>(claims: readonly Claim<T>[], grant: (of: T) => boolean): void {
  const heap: Turn<T>[] = [];
  for (const claim of claims) if (claim.wants > 0) push(heap, { claim, wants: claim.wants, has: claim.has });
  for (let turn = pop(heap); turn !== undefined; turn = pop(heap)) {
    if (!grant(turn.claim.of)) continue;
    turn.wants -= 1;
    turn.has += 1;
    if (turn.wants > 0) push(heap, turn);
  }
}

type Turn<T> = { readonly claim: Claim<T>; wants: number; has: number };

function isBefore<T>(a: Turn<T>, b: Turn<T>): boolean {
  if (a.has !== b.has) return a.has < b.has;
  if (a.claim.ageMs !== b.claim.ageMs) return a.claim.ageMs > b.claim.ageMs;
  return a.claim.name < b.claim.name;
}

// A binary heap: sorting again after each grant would take most of the pass.
function push<T>(heap: Turn<T>[], turn: Turn<T>): void {
  let at = heap.push(turn) - 1;
  while (at > 0) {
    const up = (at - 1) >> 1;
    const parent = heap[up];
    if (parent === undefined || !isBefore(turn, parent)) break;
    heap[at] = parent;
    at = up;
  }
  heap[at] = turn;
}

function pop<T>(heap: Turn<T>[]): Turn<T> | undefined {
  const top = heap[0];
  const last = heap.pop();
  if (last === undefined || last === top) return top;
  let at = 0;
  for (;;) {
    const left = heap[2 * at + 1];
    const right = heap[2 * at + 2];
    const child = right !== undefined && left !== undefined && isBefore(right, left) ? right : left;
    if (child === undefined || !isBefore(child, last)) break;
    heap[at] = child;
    at = 2 * at + (child === right ? 2 : 1);
  }
  heap[at] = last;
  return top;
}
