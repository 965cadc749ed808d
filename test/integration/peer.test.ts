import { statfs } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { Inventory } from '../../src/agent/inventory.ts';
import { Puller } from '../../src/agent/pull.ts';
import { systemClock } from '../../src/lib/clock.ts';
import { exec, mustExec } from '../../src/lib/exec.ts';
import { silentLog } from '../../src/lib/log.ts';
import type { View } from '../../src/queue/truth.ts';
import { SnapshotStore } from '../../src/snapshots/store.ts';
import { TestEngine } from '../fixtures/engine.ts';
import { leftovers } from '../fixtures/leftovers.ts';
import { aService, ask, TestNode, type TestService } from '../fixtures/node.ts';

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
          const fs = require('node:fs'); let n = 0; fs.writeFileSync('/data/a name with % and ü', 'written by the seed');
          require('node:http').createServer((q, r) => r.end(++n + ' ' + fs.readFileSync('/data/a name with % and ü', 'utf8'))).listen(8080);
      ports: [8080]
      volumes: [{ at: /data, private: disk }]
      readiness: { tcp: { port: 8080 } }
      warmup: { request: { path: /, port: 8080 }, count: 5 }
`);

type Meddle = (path: string, range: string | undefined, body: Buffer) => Buffer | 'cut' | 'half';

/** Stands before a peer and does to its answers what it is told. */
async function aMeddler(
  url: string,
  meddle: Meddle,
): Promise<AsyncDisposable & { url: string; asked: { path: string; range: string | undefined }[] }> {
  const asked: { path: string; range: string | undefined }[] = [];
  const server: Server = createServer((request, response) => {
    const { authorization = '', range } = request.headers;
    const path = request.url ?? '/';
    asked.push({ path, range });
    void fetch(url + path, { headers: { authorization, ...(range === undefined ? {} : { range }) } }).then(async (answer) => {
      const body = Buffer.from(await answer.arrayBuffer());
      const given = meddle(path, range, body);
      response.writeHead(answer.status, { 'content-length': body.length });
      if (given === 'cut') return response.destroy();
      if (given === 'half') return response.write(body.subarray(0, body.length >> 1), () => setTimeout(() => response.destroy(), 50));
      return response.end(given);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    asked,
    [Symbol.asyncDispose]: () =>
      new Promise<void>((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  };
}

/** Says that `node` is reached at another URL. */
function standBefore(service: TestService, node: TestNode, url: string, name = node.name): void {
  service.view.nodes.set(name, { said: { ...node.truth, name, peer: url }, heardAtMs: 0 });
}

const isPages = (path: string) => path.includes('/files/images/pages-');

test('a snapshot of one node is restored on another, fetched while the request waits', async () => {
  const service = aService(counter);
  await using a = await TestNode.open(service, { name: 'a' });
  await using b = await TestNode.open(service, { name: 'b' });
  const { digest } = await a.warm('counter');
  const slot = await b.park('counter');
  a.tell();

  await b.restore(slot, digest);

  expect(b.slot(slot.uid)).toMatchObject({ state: 'live', snapshot: digest, start: { how: 'restore' } });
  expect(await ask(slot)).toBe('6 written by the seed');
  expect(b.truth.snapshots.map((snapshot) => snapshot.digest)).toEqual([digest]);
  expect(b.truth.phases).toMatchObject([{ at: 'ready', digest }]);
  expect(b.truth.pulling).toEqual([]);
  await expect.poll(() => leftovers(b.config, b.engine.host), { timeout: 5_000 }).toEqual([]);
});

test('a node that only fetches keeps no more than the policy says', async () => {
  const revision = (number: number): typeof counter => ({
    ...counter,
    container: { ...counter.container, env: { REVISION: String(number) } },
    checkpoint: { ...counter.checkpoint, keep: 1 },
  });
  const service = aService(revision(1));
  await using a = await TestNode.open(service, { name: 'a' });
  await using b = await TestNode.open(service, { name: 'b' });
  const pull = async (number: number): Promise<string> => {
    service.view.describe(revision(number));
    const { digest } = await a.warm('counter');
    a.tell();
    await b.do({ name: 'pull', data: { workload: 'counter', digest, from: 'a' } });
    return digest;
  };

  const first = await pull(1);
  const second = await pull(2);

  expect(second).not.toBe(first);
  await expect.poll(async () => (await b.engine.store.list()).map(({ digest }) => digest)).toEqual([second]);
});

test('a pull that breaks half way goes on at the byte it had reached, and two at once are one', async () => {
  const service = aService(counter);
  await using a = await TestNode.open(service, { name: 'a' });
  await using b = await TestNode.open(service, { name: 'b' });
  const { digest } = await a.warm('counter');
  await using meddler = await aMeddler(a.peers.url, (path, range, body) => (isPages(path) && range === undefined ? 'half' : body));
  standBefore(service, a, meddler.url);
  const job = { name: 'pull', data: { workload: 'counter', digest, from: 'a' } } as const;

  const pulls = [b.do(job), b.do(job)];
  expect(b.truth.pulling).toEqual([digest]);
  await Promise.all(pulls);
  await b.do(job);

  const pages = meddler.asked.filter(({ path }) => isPages(path));
  expect(pages.map(({ range }) => range?.replace(/\d+/, 'N'))).toEqual([undefined, 'bytes=N-']);
  await b.engine.store.verify(digest, AbortSignal.timeout(10_000));
  await expect.poll(() => leftovers(b.config, b.engine.host), { timeout: 5_000 }).toEqual([]);
});

test('what a peer has changed is refused and nothing of it is left; the next peer is asked, and without one the slot starts cold', async () => {
  const service = aService(counter);
  await using a = await TestNode.open(service, { name: 'a' });
  await using b = await TestNode.open(service, { name: 'b' });
  const { digest } = await a.warm('counter');
  const slots = [await b.park('counter'), await b.park('counter')] as const;
  await using liar = await aMeddler(a.peers.url, (path, _range, body) => {
    if (isPages(path)) body.writeUInt8((body[9] ?? 0) ^ 1, 9);
    return body;
  });
  service.view.nodes.clear();
  standBefore(service, a, liar.url, 'liar');

  await b.restore(slots[0], digest);
  const alone = b.slot(slots[0].uid);
  const left = await b.engine.store.list();
  standBefore(service, a, a.peers.url);
  // By a job of its own: this application starts cold sooner than a pull is expected to end.
  await b.do({ name: 'pull', data: { workload: 'counter', digest, from: 'a' } });
  await b.restore(slots[1], digest);

  expect(alone).toMatchObject({ state: 'cold', ready: true });
  expect(left.filter((snapshot) => snapshot.digest === digest)).toEqual([]);
  expect(b.slot(slots[1].uid)).toMatchObject({ state: 'live', snapshot: digest });
  expect(liar.asked.length).toBeGreaterThan(4);
  await b.untilSlot(slots[0].uid, 'is no seed any more', ({ seed }) => !seed);
  await expect.poll(() => leftovers(b.config, b.engine.host), { timeout: 5_000 }).toEqual([]);
});

test('nobody gets a snapshot without the token, nor anything else of the machine', async () => {
  const service = aService(counter);
  await using a = await TestNode.open(service, { name: 'a' });
  const { digest } = await a.warm('counter');
  const get = async (path: string, token = service.token) =>
    (await fetch(a.peers.url + path, { headers: { authorization: `Bearer ${token}` } })).status;

  expect(await get(`/snapshots/${digest}/manifest`)).toBe(200);
  expect(await get(`/snapshots/${digest}/manifest`, 'a guess')).toBe(401);
  expect(await get(`/snapshots/${digest}/files/images/inventory.img`, '')).toBe(401);
  expect(await get(`/snapshots/${'0'.repeat(64)}/manifest`)).toBe(404);
  expect(await get(`/snapshots/${digest}/files/images`)).toBe(404);
  expect(await get(`/snapshots/${digest}/files/..%2f..%2f..%2f..%2fetc%2fpasswd`)).toBe(404);
  expect(await get(`/snapshots/${digest}/files/%2fetc%2fpasswd`)).toBe(404);
  expect(await get('/')).toBe(404);
});

test('a pull that fills the disk, or does not fit this machine, is refused and leaves nothing', async () => {
  const service = aService(counter);
  await using a = await TestNode.open(service, { name: 'a' });
  const { digest } = await a.warm('counter');
  const dir = join(a.config.runDir, 'small');
  await mustExec(exec, 'mkdir', [dir]);
  await mustExec(exec, 'mount', ['-t', 'tmpfs', '-o', 'size=8m', 'small', dir]);
  const store = new SnapshotStore({ dir: join(dir, 'snapshots'), log: silentLog, clock: systemClock, exec });
  const machine = a.engine.machine;
  const pull = async (machineClass: typeof machine) => {
    const inventory = new Inventory({ store, machine: machineClass, now: () => 0 });
    const view: Pick<View, 'nodes'> = service.view;
    const stop = AbortSignal.timeout(30_000);
    const rest = {
      clock: systemClock,
      log: silentLog,
      token: () => service.token,
      view: () => view,
      changed: () => undefined,
      received: async () => undefined,
      stop,
    };
    await using puller = new Puller({ store, inventory, machine: machineClass, ...rest });
    await puller.bring(digest, Number.POSITIVE_INFINITY, stop);
  };
  const before = (await statfs(dir)).bfree;

  try {
    await expect(pull(machine)).rejects.toMatchObject({ code: 'disk_full' });
    await expect(pull({ ...machine, cpuFeatures: [] })).rejects.toMatchObject({ code: 'snapshot_incompatible' });

    expect(await store.list()).toEqual([]);
    expect(before - (await statfs(dir)).bfree).toBeLessThan(4);
  } finally {
    await mustExec(exec, 'umount', [dir]);
  }
});
