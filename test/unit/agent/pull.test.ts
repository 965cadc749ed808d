import { join } from 'node:path';
import { expect, test } from 'vitest';
import { Inventory } from '../../../src/agent/inventory.ts';
import { PeerServer } from '../../../src/agent/peer-server.ts';
import { Puller } from '../../../src/agent/pull.ts';
import { systemClock } from '../../../src/lib/clock.ts';
import { silentLog } from '../../../src/lib/log.ts';
import type { Snapshot } from '../../../src/snapshots/shelf.ts';
import { aNodeTruth } from '../../fixtures/truths.ts';
import { aFolder, aStore, machine, never, publish } from '../snapshots/builders.ts';

test('a snapshot that came from another node is told once, however many asked for it and heard how much of it had come', async () => {
  await using folder = await aFolder();
  const [there, here] = [aStore(join(folder.path, 'there')), aStore(join(folder.path, 'here'))];
  const { digest } = await publish(there);
  await using peer = await PeerServer.open({ store: there, log: silentLog, token: () => 'token', listen: '127.0.0.1:0' });
  const theirs = new Inventory({ store: there, machine, now: () => 0 });
  await theirs.refresh();
  const said = aNodeTruth({ name: 'b', peer: peer.url, snapshots: theirs.truth() });
  const received: Snapshot[] = [];
  await using puller = new Puller({
    ...{ store: here, inventory: new Inventory({ store: here, machine, now: () => 0 }), machine, clock: systemClock, log: silentLog },
    token: () => 'token',
    view: () => ({ nodes: new Map([['b', { said, heardAtMs: 0 }]]) }),
    received: async (snapshot) => void received.push(snapshot),
    changed: () => undefined,
    stop: never,
  });
  const parts: number[][] = [[], [], []];
  const bring = (i: number) => puller.bring(digest, Number.POSITIVE_INFINITY, never, (part) => parts[i]?.push(part));

  await Promise.all([bring(0), bring(1)]);
  await bring(2);

  // Each who asked while it came has heard of it.
  expect(parts[0]?.length).toBeGreaterThan(2);
  expect(parts[0]).toEqual(parts[0]?.toSorted((a, b) => a - b));
  expect(parts[0]?.at(-1)).toBe(1);
  expect(parts).toEqual([parts[0], parts[0], []]);
  expect(received.map((one) => one.digest)).toEqual([digest]);
  expect((await here.verify(digest, never)).manifest).toEqual(received[0]?.manifest);
});
