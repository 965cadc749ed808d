import { createHash } from 'node:crypto';
import { request as httpRequest } from 'node:http';
import type { HttpCall } from '../workloads/normalise.ts';
import { openConnection, type ProbeTarget } from './target.ts';

/** What came back. `sha256` (hexadecimal) and `sizeBytes` are of the body as far as it was read. */
export type HttpAnswer = { readonly status: number; readonly sha256: string; readonly sizeBytes: number; readonly truncated: boolean };

/**
 * Sends one request over a connection of its own and reads the answer to its end, or to `maxBodyBytes` of body; then the connection is
 * closed. Redirects are not followed. Rejects with the connection's error, or the signal's reason.
 */
export async function callHttp(target: ProbeTarget, call: HttpCall, maxBodyBytes: number, signal: AbortSignal): Promise<HttpAnswer> {
  await using connection = await openConnection(target, call.port, signal);
  const body = call.body === undefined ? undefined : Buffer.from(call.body);
  return await new Promise<HttpAnswer>((resolve, reject) => {
    const request = httpRequest({
      method: call.method,
      path: call.path,
      // Without a length Node would send a body of GET or DELETE that no server can find the end of.
      headers: {
        host: `localhost:${call.port}`,
        'user-agent': 'rekindle',
        ...(body ? { 'content-length': body.length } : {}),
        ...call.headers,
      },
      createConnection: () => connection.stream,
      signal,
    });
    request.on('error', reject);
    request.on('response', (response) => {
      const hash = createHash('sha256');
      let sizeBytes = 0;
      const done = (truncated: boolean) => resolve({ status: response.statusCode ?? 0, sha256: hash.digest('hex'), sizeBytes, truncated });
      response.on('data', (chunk: Buffer) => {
        const room = chunk.subarray(0, maxBodyBytes - sizeBytes);
        hash.update(room);
        sizeBytes += room.length;
        if (room.length === chunk.length) return;
        response.removeAllListeners('data').removeAllListeners('end');
        done(true);
      });
      response.on('end', () => done(false));
      response.on('error', reject);
    });
    request.end(body);
  });
}

/** `GET http://localhost:8080/ready`, for messages. */
export function describeCall(call: HttpCall): string {
  return `${call.method} http://localhost:${call.port}${call.path}`;
}
