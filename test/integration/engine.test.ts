import { expect, test } from 'vitest';
import { get, TestEngine } from '../fixtures/engine.ts';

const NODE = `${import.meta.dirname}/../../.build/node`;

const counter = TestEngine.workload(`
workloads:
  counter:
    container:
      rootfs: host
      command:
        - ${NODE}
        - -e
        - |
          const os = require('node:os'); const fs = require('node:fs'); let n = 0;
          fs.writeFileSync('/var/tmp/state', 'written by the seed');
          require('node:http').createServer((q, r) => r.end(os.hostname() + ' ' + (n++) + ' ' + fs.readFileSync('/var/tmp/state', 'utf8'))).listen(8080);
      ports: [8080]
      readiness: { http: { path: /, port: 8080 } }
      warmup: { request: { port: 8080 }, count: 41, concurrency: 4 }
`);

test('a clone answers under its own name, with the memory and the files of the warmed seed', async () => {
  await using engine = await TestEngine.open();
  const { container: seed } = await engine.seed(counter);

  const clones = await Promise.all([engine.clone(counter, 'one'), engine.clone(counter, 'two')]);

  // One request of readiness and 41 of the warm-up came before the checkpoint, one of readiness after each restore.
  expect(await Promise.all(clones.map((clone) => get(clone)))).toEqual(['one 43 written by the seed', 'two 43 written by the seed']);
  expect(await get(seed)).toBe('seed 42 written by the seed');
});

test('a slot without an agent starts its application cold', async () => {
  await using engine = await TestEngine.open();
  await engine.engine[Symbol.asyncDispose]();

  const container = await engine.engine.host.create(counter, { name: 'alone', signal: AbortSignal.timeout(10_000) });

  expect(await get(container)).toBe('alone 0 written by the seed');
});
