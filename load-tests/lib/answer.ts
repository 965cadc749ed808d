import { get } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';

/** Asks until the answer is 200, every 2 ms as the agent does, and resolves with the time of that answer (performance.now()). */
export async function firstAnswer(url: string, timeoutMs: number, signal?: AbortSignal): Promise<number> {
  const until = performance.now() + timeoutMs;
  for (;;) {
    if ((await status(url)) === 200) return performance.now();
    signal?.throwIfAborted();
    if (performance.now() > until) throw new Error(`${url} did not answer within ${timeoutMs} ms`);
    await delay(2);
  }
}

/** Asks so many times, and fails unless every answer is 200. */
export async function ask(url: string, times: number): Promise<void> {
  for (let i = 0; i < times; i++) {
    const answered = await status(url);
    if (answered !== 200) throw new Error(`${url} answered ${answered ?? 'nothing'}`);
  }
}

function status(url: string): Promise<number | undefined> {
  return new Promise((resolve) => {
    const request = get(url, { agent: false, timeout: 30_000 }, (response) => {
      response.resume();
      response.on('end', () => resolve(response.statusCode));
      response.on('error', () => resolve(undefined));
    });
    request.on('timeout', () => request.destroy());
    request.on('error', () => resolve(undefined));
  });
}
