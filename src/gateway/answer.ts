import type { Duplex } from 'node:stream';
import type { Failure } from './failure.ts';
import type { RawHeaders } from './headers.ts';

/** Where an answer goes: to a client, or into a count. Nothing comes after `end`, `cut`, `fail` and `upgraded`. */
export interface Answer {
  /** A 1xx of the application; 100 asks for the body. */
  information(status: number, headers: RawHeaders): void;
  /** Whether an answer with this `Content-Length` goes out in chunks, and so may have trailers. */
  chunked(length: number | undefined): boolean;
  /** Throws when this cannot be said in HTTP. `length`: of the body that follows, where the application says it. */
  head(status: number, message: string, headers: string[], length: number | undefined): void;
  /** False: the client takes no more for now; `resumed` is called when it does. */
  data(chunk: Buffer): boolean;
  end(trailers: RawHeaders): void;
  /** An answer that has begun cannot be finished: the client must not take it for whole. */
  cut(): void;
  fail(failure: Failure, headers: string[]): void;
  upgraded(message: string, headers: string[], application: Duplex, head: Buffer): void;
  /** After `upgraded`: the gateway ends. The client hears it where the protocol has words for that. */
  close(reason: string): void;
}

/** What the receiver of an answer does on its own. */
export interface AnswerEvents {
  resumed(): void;
  /** It wants no answer any more. */
  gone(): void;
}
