import type { ServerResponse } from 'node:http';
import type { SharedView, SlotTruth } from '../queue/truth.ts';
import type { Instance } from './instances.ts';
import type { Problems } from './problems.ts';
import type { ApiStart, ApiState } from './schemas.ts';
import { type ApiView, changes, problemsIn, type Told } from './state-view.ts';

/** Changes within this time are told together. */
const TOGETHER_MS = 50;
/** A reader that hears nothing for 30 s takes its connection for dead (schemas.ts). */
const BEAT_MS = 10_000;
/** A reader that is so far behind is let go; it connects anew and gets the whole state. */
const BEHIND_BYTES = 4 * 2 ** 20;
const STARTS_KEPT = 500;

export type FeedDeps = {
  readonly view: SharedView;
  readonly problems: Problems;
  readonly now: () => ApiView;
  readonly wallMs: () => number;
};

/** What pages are told: the state when they come, and every change after that. Remembers the starts of the last while. */
export class Feed implements Disposable {
  readonly #deps: FeedDeps;
  readonly #readers = new Set<ServerResponse>();
  readonly #stack = new DisposableStack();
  #starts: ApiStart[] = [];
  #wrong = new Set<string>();
  #told: Told | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(deps: FeedDeps) {
    this.#deps = deps;
    const beat = setInterval(() => this.#send(': \n\n'), BEAT_MS);
    this.#stack.defer(() => clearInterval(beat));
    this.#stack.defer(deps.view.onChange(() => this.changed()));
    this.#stack.defer(deps.problems.onNote((problem) => this.#tell('problem', problem)));
  }

  get readers(): number {
    return this.#readers.size;
  }

  /** Something that the view of now shows may have changed. */
  changed(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.#look();
    }, TOGETHER_MS);
  }

  /** An instance has become ready. */
  started({ node, workload, uid }: Instance, { start, ageMs }: SlotTruth): void {
    if (start === undefined) return;
    const one = { atMs: Math.round(this.#deps.wallMs() - ageMs), workload, uid, node, start };
    this.#starts = [...this.#starts, one].slice(-STARTS_KEPT);
    this.#tell('start', one);
  }

  state(): ApiState {
    return { ...this.#deps.now(), starts: this.#starts, problems: this.#deps.problems.recent() };
  }

  /** Tells this reader until it goes. Its head has been written. */
  add(reader: ServerResponse): void {
    // Nothing is lost between the two: what changes from here on is told to all.
    if (this.#readers.size > 0) this.#look();
    else this.#told = changes(undefined, this.#deps.now()).told;
    reader.write(`retry: 1000\n${frame('state', this.state())}`);
    this.#readers.add(reader);
    reader.on('close', () => this.#readers.delete(reader)).on('error', () => reader.destroy());
  }

  /** Lets all readers go, who hear why. */
  close(reason: string): void {
    for (const reader of this.#readers) reader.end(`: ${reason}\n\n`);
    this.#readers.clear();
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#stack.dispose();
    for (const reader of this.#readers) reader.destroy();
  }

  #look(): void {
    this.#noteProblems();
    if (this.#readers.size === 0) return;
    const { told, events } = changes(this.#told, this.#deps.now());
    this.#told = told;
    for (const { event, data } of events) this.#tell(event, data);
  }

  /** What is wrong is a problem when it begins, not for as long as it lasts. */
  #noteProblems(): void {
    const notes = problemsIn(this.#deps.view.view);
    const wrong = new Set<string>();
    for (const note of notes) {
      const key = `${note.node} ${note.text}`;
      if (!this.#wrong.has(key) && !wrong.has(key)) this.#deps.problems.note(note);
      wrong.add(key);
    }
    this.#wrong = wrong;
  }

  #tell(event: string, data: unknown): void {
    if (this.#readers.size > 0) this.#send(frame(event, data));
  }

  #send(text: string): void {
    for (const reader of this.#readers) {
      if (reader.writableLength > BEHIND_BYTES) reader.destroy();
      else reader.write(text);
    }
  }
}

const frame = (event: string, data: unknown): string => `event: ${event}\ndata: ${JSON.stringify(data)}\n\n`;
