import { connect } from 'node:http2';
import { type Outcome, openConnection, type ProbeTarget } from './target.ts';

/** HealthCheckResponse.ServingStatus: https://github.com/grpc/grpc-proto/blob/master/grpc/health/v1/health.proto */
const SERVING_STATUS = ['UNKNOWN', 'SERVING', 'NOT_SERVING', 'SERVICE_UNKNOWN'];
/** The codes that a health service answers with: https://grpc.io/docs/guides/status-codes/ */
const STATUS_CODES: Readonly<Record<string, string>> = { '5': 'NOT_FOUND', '12': 'UNIMPLEMENTED', '14': 'UNAVAILABLE' };
const MAX_ANSWER_BYTES = 4096;

/**
 * grpc.health.v1.Health/Check in plain text. One string goes out and one small number comes back, so both are encoded by hand: gRPC's own
 * client dials by itself, and a trial container can only be reached through the target.
 */
export async function checkGrpc(target: ProbeTarget, port: number, service: string, signal: AbortSignal): Promise<Outcome> {
  await using connection = await openConnection(target, port, signal);
  const session = connect(`http://localhost:${port}`, { createConnection: () => connection.stream });
  try {
    const call = session.request({
      ':method': 'POST',
      ':path': '/grpc.health.v1.Health/Check',
      'content-type': 'application/grpc',
      te: 'trailers',
    });
    const { promise, resolve, reject } = Promise.withResolvers<Outcome>();
    // The stream says `cancelled` where the session says `connection refused`: the session is heard first.
    session.on('error', reject);
    session.on('close', () => reject(new Error('connection closed early')));
    let grpcStatus: string | undefined;
    let answer = Buffer.alloc(0);
    const readStatus = (headers: Readonly<Record<string, unknown>>) => {
      if (headers['grpc-status'] !== undefined) grpcStatus = String(headers['grpc-status']);
    };
    call.on('response', (headers) =>
      headers[':status'] === 200 ? readStatus(headers) : resolve({ ok: false, why: `HTTP status ${headers[':status']}` }),
    );
    call.on('trailers', readStatus);
    call.on('data', (chunk: Buffer) => {
      answer = Buffer.concat([answer, chunk]);
      if (answer.length > MAX_ANSWER_BYTES) resolve({ ok: false, why: 'an answer too long for a health check' });
    });
    call.on('end', () => resolve(judge(grpcStatus, answer)));
    call.on('error', reject);
    call.end(encodeRequest(service));
    return await promise;
  } finally {
    session.destroy();
  }
}

/** Message HealthCheckRequest { string service = 1 } behind gRPC's prefix: one byte `not compressed`, four of length. */
export function encodeRequest(service: string): Buffer {
  const name = Buffer.from(service);
  const length: number[] = [];
  for (let rest = name.length; ; rest >>>= 7) {
    length.push(rest > 0x7f ? (rest & 0x7f) | 0x80 : rest);
    if (rest <= 0x7f) break;
  }
  const message = name.length === 0 ? name : Buffer.concat([Buffer.from([0x0a, ...length]), name]);
  const prefix = Buffer.alloc(5);
  prefix.writeUInt32BE(message.length, 1);
  return Buffer.concat([prefix, message]);
}

/** HealthCheckResponse { ServingStatus status = 1 }: a default value (UNKNOWN) is not sent at all. */
function judge(grpcStatus: string | undefined, answer: Buffer): Outcome {
  if (grpcStatus !== '0')
    return { ok: false, why: grpcStatus === undefined ? 'no gRPC status' : `gRPC status ${STATUS_CODES[grpcStatus] ?? grpcStatus}` };
  const value = answer[5] === 0x08 ? answer[6] : 0;
  const status = SERVING_STATUS[value ?? 0] ?? String(value);
  return status === 'SERVING' ? { ok: true } : { ok: false, why: status };
}
