import { readFile } from 'node:fs/promises';
import { text } from 'node:stream/consumers';
import { RekindleError } from '../lib/errors.ts';
import { type Context, type JsonOption, print, say } from './context.ts';

export type InvokeOptions = JsonOption & {
  readonly method?: string;
  readonly data?: string;
  readonly header?: readonly string[];
  readonly include?: boolean;
  readonly gateway: string;
};

/** From this status on a request has failed. */
const FAILED = 400;

/** `rekindle invoke`: one request through the gateway. Ends with 1 when it was answered with a failure. Throws `agent_unavailable` when no gateway answers. */
export async function invoke(context: Context, workload: string, path: string | undefined, options: InvokeOptions): Promise<void> {
  const url = new URL(`/invoke/${encodeURIComponent(workload)}/${(path ?? '').replace(/^\//, '')}`, options.gateway);
  const body = await bodyOf(options.data);
  const method = options.method ?? (body === undefined ? 'GET' : 'POST');
  const headers = headersOf(options.header ?? []);
  if (context.config.token !== undefined) headers.set('authorization', `Bearer ${context.config.token}`);
  let answer: Response;
  try {
    answer = await fetch(url, { method, headers, redirect: 'manual', signal: context.signal, ...(body === undefined ? {} : { body }) });
  } catch (cause) {
    if (context.signal.aborted) throw cause;
    throw new RekindleError(
      'agent_unavailable',
      `no gateway answers at ${options.gateway}: start one with \`rekindle up\`, or name it with --gateway`,
      {
        cause,
      },
    );
  }
  if (answer.status >= FAILED) context.exitCode = 1;
  if (options.json) {
    const said = Object.fromEntries(answer.headers);
    const waitMs = Number(said['rekindle-wait-ms'] ?? 0);
    return print(
      JSON.stringify({ status: answer.status, start: said['rekindle-start'], waitMs, headers: said, body: await answer.text() }),
    );
  }
  if (options.include || answer.status >= FAILED) say(`HTTP ${answer.status} ${answer.statusText}`);
  if (options.include) for (const [name, value] of answer.headers) say(`${name}: ${value}`);
  // As it comes: it may be long, or never end.
  for await (const chunk of answer.body ?? []) process.stdout.write(chunk);
}

async function bodyOf(data: string | undefined): Promise<string | Uint8Array<ArrayBuffer> | undefined> {
  if (data === '-') return await text(process.stdin);
  if (!data?.startsWith('@')) return data;
  try {
    return new Uint8Array(await readFile(data.slice(1)));
  } catch (cause) {
    throw new RekindleError('usage', `cannot read the body from ${data.slice(1)}: ${String(cause)}`, { cause });
  }
}

function headersOf(lines: readonly string[]): Headers {
  const headers = new Headers();
  for (const line of lines) {
    const colon = line.indexOf(':');
    try {
      headers.append(line.slice(0, Math.max(colon, 0)).trim(), line.slice(colon + 1).trim());
    } catch (cause) {
      throw new RekindleError('usage', `${line} is no header: write NAME: VALUE`, { cause });
    }
  }
  return headers;
}
