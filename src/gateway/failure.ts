import { ERRORS, type ErrorCode } from '../lib/errors.ts';

/** An answer of the gateway itself instead of the application's. `message` says what is wrong and what to do. */
export type Failure = { readonly code: ErrorCode; readonly message: string; readonly retryAfterSeconds?: number };

export const statusOf = (failure: Failure): number => ERRORS[failure.code].status;

/** What went wrong between us and an application, in words. */
export function connectionProblem(error: unknown): string {
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  switch (code) {
    case 'ECONNREFUSED':
      return 'it refuses connections';
    case 'ECONNRESET':
    case 'EPIPE':
    case 'UND_ERR_SOCKET':
      return 'it closed the connection before its answer was whole';
    case 'EHOSTUNREACH':
    case 'ENETUNREACH':
      return 'its address cannot be reached';
    case 'UND_ERR_CONNECT_TIMEOUT':
    case 'ETIMEDOUT':
      return 'it does not take connections';
    case 'UND_ERR_HEADERS_OVERFLOW':
    case 'HPE_HEADER_OVERFLOW':
      return 'the head of its answer is larger than 16 KiB';
  }
  const text = error instanceof Error ? error.message : String(error);
  return code.startsWith('HPE_') || /parse/i.test(text) ? `its answer is not HTTP/1.1 (${text})` : text;
}
