import { RekindleError } from '../lib/errors.ts';

/**
 * The lines between a slot (`images/slot/slot.c`) and its agent. ASCII, one `\n` after each, single spaces between words.
 *
 * slot → agent
 * - `hello 1 POD_UID CONTAINER undecided|parked|live PID`: first line of every connection; PID is as the slot's namespace numbers it
 * - `can again`: the answer to `can`, what it understands beyond the first version; words may be added. Older ones do not answer
 * - `proved`: the nonce is the slot's process name now
 * - `parked STATUS`: the answer to `park GRACE_MS`, when the slot is parked again; the status is the application's, as in `exit`
 * - `exit STATUS`: the application ended (128 + N for signal N), the slot ends next. Best effort
 *
 * agent → slot
 * - `prove NONCE`, `wait` (still deciding), `claim` (a restore begins), `restored PID`, `cold`, `park`
 * - `can`: what do you understand? Said before the first `prove`, so that an older slot's silence is known by its `proved`
 * - `park GRACE_MS`, to a live slot that can `again`: SIGTERM to the application, after the grace SIGKILL to whatever is left, and then it is parked
 *
 * A slot skips lines it does not know, because an agent may be newer; an agent is never older than its slots, and closes the connection.
 */
/** Longest line of a slot, in bytes. Its uid and container name are at most 253 characters each. */
export const MAX_SLOT_LINE_BYTES = 4096;
/** A process name (`/proc/PID/comm`) holds no more. */
export const MAX_NONCE_CHARS = 15;

/** What a slot said about itself. `pid` is the application's PID 1 in the slot's PID namespace. */
export type Hello = { readonly uid: string; readonly container: string } & (
  | { readonly state: 'undecided' | 'parked' }
  | { readonly state: 'live'; readonly pid: number }
);

export type SlotLine =
  | { readonly say: 'hello'; readonly hello: Hello }
  | { readonly say: 'can'; readonly words: readonly string[] }
  | { readonly say: 'proved' }
  | { readonly say: 'parked'; readonly status: number }
  | { readonly say: 'exit'; readonly status: number };

export type AgentLine =
  | { readonly say: 'prove'; readonly nonce: string }
  | { readonly say: 'restored'; readonly pid: number }
  | { readonly say: 'end'; readonly graceMs: number }
  | { readonly say: 'can' | 'wait' | 'claim' | 'cold' | 'park' };

const HELLO = /^hello 1 ([!-~]{1,253}) ([!-~]{1,253}) (?:(undecided|parked)|live ([1-9]\d{0,6}))$/;
const ENDED = /^(exit|parked) (0|[1-9]\d{0,2})$/;
const CAN = /^can((?: [a-z-]{1,32}){1,16})$/;
const NONCE = /^[A-Za-z0-9_-]{1,15}$/;
/** Between SIGTERM and SIGKILL of an application whose slot is parked again. */
export const MAX_GRACE_MS = 3_600_000;
/** The kernel's PID_MAX_LIMIT on 64 bit. */
const MAX_PID = 4_194_304;

/** A line of a slot without its newline, or undefined for anything that no slot says. */
export function parseSlotLine(line: string): SlotLine | undefined {
  if (line === 'proved') return { say: 'proved' };
  const words = CAN.exec(line)?.[1];
  if (words !== undefined) return { say: 'can', words: words.trim().split(' ') };
  const [, how, status] = ENDED.exec(line) ?? [];
  if (status !== undefined) return Number(status) <= 255 ? { say: how === 'exit' ? 'exit' : 'parked', status: Number(status) } : undefined;
  const [, uid, container, state, pid] = HELLO.exec(line) ?? [];
  if (uid === undefined || container === undefined) return undefined;
  if (state === 'undecided' || state === 'parked') return { say: 'hello', hello: { uid, container, state } };
  return isPid(Number(pid)) ? { say: 'hello', hello: { uid, container, state: 'live', pid: Number(pid) } } : undefined;
}

/** The line with its newline. Throws `internal` for a nonce or PID that a slot would not take. */
export function formatAgentLine(line: AgentLine): string {
  switch (line.say) {
    case 'prove':
      if (!NONCE.test(line.nonce))
        throw new RekindleError('internal', `a nonce is 1 to ${MAX_NONCE_CHARS} of A-Za-z0-9_-, not ${JSON.stringify(line.nonce)}`);
      return `prove ${line.nonce}\n`;
    case 'restored':
      if (!isPid(line.pid)) throw new RekindleError('internal', `a restored application's PID is 2 to ${MAX_PID}, not ${line.pid}`);
      return `restored ${line.pid}\n`;
    case 'end':
      if (!Number.isInteger(line.graceMs) || line.graceMs < 0 || line.graceMs > MAX_GRACE_MS)
        throw new RekindleError('internal', `a grace is 0 to ${MAX_GRACE_MS} ms, not ${line.graceMs}`);
      return `park ${line.graceMs}\n`;
    default:
      return `${line.say}\n`;
  }
}

/** Cuts a stream of bytes into lines. */
export class LineSplitter {
  readonly #limitBytes: number;
  #rest = '';

  constructor(options: { readonly limitBytes: number }) {
    this.#limitBytes = options.limitBytes;
  }

  /** The lines completed by `chunk`, without newlines, or undefined when one is longer than the limit: nothing after that makes sense. */
  push(chunk: Uint8Array): readonly string[] | undefined {
    // One character per byte: what is not ASCII fails to parse later, and lengths stay bytes.
    const lines = (this.#rest + Buffer.from(chunk).toString('latin1')).split('\n');
    this.#rest = lines.pop() ?? '';
    return [...lines, this.#rest].some((line) => line.length > this.#limitBytes) ? undefined : lines;
  }
}

/** 1 is the slot itself. */
function isPid(pid: number): boolean {
  return Number.isInteger(pid) && pid >= 2 && pid <= MAX_PID;
}
