import { resolve } from 'node:path';
import { describe, expect, it } from 'vitest';
import { exec, mustExec } from '../../../src/lib/exec.ts';

const preload = resolve(import.meta.dirname, '../../../images/slot/random-uuid.cjs');

/** What an ES module prints as JSON when the preload is one of several NODE_OPTIONS. */
async function printed(module: string): Promise<unknown> {
  const env = { NODE_OPTIONS: `--require=${preload} --max-old-space-size=99` };
  const { stdout } = await mustExec(exec, process.execPath, ['--input-type=module', '-e', module], { env });
  return JSON.parse(stdout);
}

// That UUIDs of clones differ is seen in test/integration/random.test.ts; here, that callers get the replaced function.
describe('the preloaded module for random UUIDs', () => {
  it('reaches require, named imports, the global crypto and worker threads', async () => {
    const seen = await printed(`
      import crypto, { randomUUID } from 'node:crypto'; import { Worker } from 'node:worker_threads'; import { once } from 'node:events';
      const worker = new Worker("require('worker_threads').parentPort.postMessage(String(require('crypto').randomUUID))", { eval: true, execArgv: [] });
      const [inWorker] = await once(worker, 'message');
      const fresh = (text) => text.includes('disableEntropyCache: true');
      console.log(JSON.stringify([String(randomUUID), String(crypto.randomUUID), String(globalThis.crypto.randomUUID), inWorker].map(fresh)));`);

    expect(seen).toEqual([true, true, true, true]);
  });

  it('leaves names, lengths, errors and other NODE_OPTIONS as they are', async () => {
    const module = `
      import crypto from 'node:crypto';
      const tries = [undefined, {}, { disableEntropyCache: false }, { disableEntropyCache: true }, { disableEntropyCache: 3 }, null, 3, []];
      const outcome = (f) => { try { return /^[0-9a-f]{8}-[0-9a-f]{4}-4/.test(f()); } catch (error) { return error.code; } };
      const web = globalThis.crypto.randomUUID;
      console.log(JSON.stringify([crypto.randomUUID.name, crypto.randomUUID.length, web.name, web.length, process.execArgv,
        ...tries.map((options) => outcome(() => crypto.randomUUID(options))), outcome(() => globalThis.crypto.randomUUID()), outcome(() => web.call({}))]));`;

    const plain = await mustExec(exec, process.execPath, ['--input-type=module', '-e', module]);

    expect(await printed(module)).toEqual(JSON.parse(plain.stdout));
  });
});
