import type { Duplex, Readable } from 'node:stream';
import type { RawHeaders, RequestHead } from './headers.ts';

/** One request as an application gets it. */
export type Outgoing = {
  readonly method: string;
  /** With the query. */
  readonly path: string;
  readonly head: RequestHead;
  /** Where `head.body` says that there is one. */
  readonly body?: Readable;
  /** The protocol that the client wants to change to. */
  readonly upgrade?: string;
  /** Trailers of the request; complete once its body has ended. */
  readonly trailers?: () => RawHeaders;
};

/** What happens to a request that was sent. `failed` comes once, at any moment, instead of `end` or `upgraded`; nothing after any of these. */
export interface ExchangeEvents {
  /** From here on the application may have seen the request. */
  sent(): void;
  /** 1xx, but for 101. */
  information(status: number, headers: RawHeaders): void;
  head(status: number, message: string, headers: RawHeaders): void;
  /** False: no more of it until `resume`. */
  data(chunk: Buffer): boolean;
  end(trailers: RawHeaders): void;
  upgraded(message: string, headers: RawHeaders, socket: Duplex, head: Buffer): void;
  failed(error: unknown): void;
}

/** A request on its way. After `abort` nothing is told any more. */
export interface Exchange {
  resume(): void;
  abort(): void;
}
