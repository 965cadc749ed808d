import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Container } from '../../src/workloads/host.ts';
import type { WorkloadSpec } from '../../src/workloads/workload.ts';
import { TestEngine } from '../fixtures/engine.ts';
import { applications } from '../fixtures/leftovers.ts';
import { SlotRig } from '../fixtures/slot-rig.ts';
import { until } from '../fixtures/until.ts';

/** Has threads, as most have, and says something every tenth of a millisecond and never sleeps: an instruction that ran too many stands in the log. */
const TALKER = `
import os, threading, time
threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
os.write(1, b"cold\\n")
while True:
    end = time.perf_counter() + 1e-4
    while time.perf_counter() < end: pass
    os.write(1, b"on\\n")
`;

let shared: string;
let engine: TestEngine;
let rig: SlotRig;
let all: WorkloadSpec;

function fewer(change: Partial<WorkloadSpec['container']>): WorkloadSpec {
  return { ...all, container: { ...all.container, ...change } };
}

beforeAll(async () => {
  shared = await mkdtemp(join(tmpdir(), 'rekindle-shared-'));
  all = TestEngine.workload(`
workloads:
  talker:
    container:
      rootfs: host
      command: [/usr/bin/python3, -S, -c, ${JSON.stringify(TALKER)}]
      noNewPrivileges: false
      seccomp: unconfined
      volumes: [{ at: /mnt, from: ${shared} }]
      readiness: { command: 'true', periodSeconds: 0.05 }
`);
  engine = await TestEngine.open();
  const { container, snapshot } = await engine.seed(all);
  await engine.engine.host.remove(container.uid);
  rig = await SlotRig.open(engine, snapshot.digest);
});

afterAll(async () => {
  await rig?.[Symbol.asyncDispose]();
  await engine?.[Symbol.asyncDispose]();
  if (shared !== undefined) await rm(shared, { recursive: true, force: true });
});

/** The container started its own command, and nothing else spoke in it before. */
async function expectOnlyCold(container: Container): Promise<void> {
  const log = await until(
    `${container.name} speaks`,
    async () => (await readFile(engine.engine.host.logFile(container), 'utf8')) || undefined,
  );
  expect(log.split('\n')[0]).toMatch(/ stdout F cold$/);
  expect(applications(container)).toEqual({ restored: false, pids: [container.pid] });
  await engine.engine.host.remove(container.uid);
}

test('a slot with the same rights takes the snapshot', async () => {
  const { container, outcome } = await rig.start(all, 'equal');

  expect(outcome).toHaveProperty('slotPid');
  const log = await until('the clone speaks', async () => (await readFile(engine.engine.host.logFile(container), 'utf8')) || undefined);
  expect(log).not.toContain('cold');
  await engine.engine.host.remove(container.uid);
});

test.each([
  ['another user', { user: '65534:65534' }, /uid 0, the slot runs as 65534/],
  ['no capabilities', { capabilities: [] }, /capabilities [0-9a-f]+, which the slot does not have/],
  [
    'one capability less',
    { capabilities: ['CAP_CHOWN', 'CAP_SETUID', 'CAP_SETGID', 'CAP_KILL'] },
    /capabilities [0-9a-f]+, which the slot does not have/,
  ],
  ['no new privileges', { noNewPrivileges: true }, /new privileges are allowed, the slot has no_new_privs/],
  ['a seccomp filter', { seccomp: 'default' as const }, /seccomp mode 0, the slot has 2/],
  ['a read-only root', { readOnlyRoot: true }, /the mount at \/ lacks ro of the slot's/],
  [
    'a read-only volume',
    {
      get volumes() {
        return [{ at: '/mnt', from: shared, readOnly: true }];
      },
    },
    /the mount at \/mnt lacks ro of the slot's/,
  ],
])('a slot with %s refuses a snapshot with more, before its first instruction', async (_what, change, reason) => {
  rig.trusting = true;
  const { container, error } = await rig.refused(fewer(change), 'fewer');
  rig.trusting = false;

  expect(error.message).toMatch(reason);
  expect(error.code).toBe('rights_exceeded');
  await expectOnlyCold(container);
});

test('a slot whose volume is read-only refuses a snapshot that could write there', async () => {
  const { container, error } = await rig.refused(fewer({ volumes: [{ at: '/mnt', from: shared, readOnly: true }] }), 'reader');

  expect(error.message).toMatch(/the mount at \/mnt is \w+ \(ro\), the seed's was \w+ \(rw\)/);
  await expectOnlyCold(container);
});

test('a slot without a mount that the seed had refuses its snapshot', async () => {
  const { container, error } = await rig.refused(fewer({ volumes: [] }), 'without');

  expect(error.message).toContain('the slot has no mount at /mnt, the seed had one');
  await expectOnlyCold(container);
});

test('a slot too small for a restore goes cold without an instruction of the clone', async () => {
  const { container, error } = await rig.refused(fewer({ pids: 4 }), 'tight');

  expect(error.code).toBe('restore_failed');
  await expectOnlyCold(container);
});
