import { spawn } from 'node:child_process';
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { expect, onTestFinished, test } from 'vitest';
import { endInterrupted } from '../../../src/agent/recover.ts';
import { monotonicClock } from '../../../src/lib/clock.ts';
import { until } from '../../fixtures/until.ts';
import { aContainer } from './rig.ts';

const UID = ['a', 'b', 'c'].map((digit) => `${digit.repeat(8)}-0000-4000-8000-000000000000`);

/** A process that looks like a slot, until the end of the test. */
async function aSlot(): Promise<number> {
  const slot = spawn('bash', ['-c', 'sleep 60 & wait'], { argv0: '/rekindle/slot', detached: true });
  const { pid = 0 } = slot;
  onTestFinished(() => void process.kill(-pid, 'SIGKILL'));
  await until('it runs', async () => (await readFile(`/proc/${pid}/cmdline`, 'utf8')).startsWith('/rekindle/slot'));
  return pid;
}

/** Journals of these containers' restores, by the PID that their slot had; `helper` is a script in the place of `helper undo`. */
async function interrupted(journals: readonly (readonly [uid: string, pid: number, now: number])[], helper = '') {
  const dir = await mkdtemp(join(tmpdir(), 'rekindle-recover-'));
  onTestFinished(() => rm(dir, { recursive: true }));
  await writeFile(join(dir, 'helper'), `#!/bin/sh\n${helper}\necho "$@" >>${dir}/undone\n`);
  await chmod(join(dir, 'helper'), 0o755);
  const names = journals.map(([uid, pid], i) => `${uid}-${pid}-0000000${i}.journal`);
  for (const name of names) await writeFile(join(dir, name), '');
  const containers = new Map(journals.map(([uid, , now]) => [uid, aContainer({ uid, pid: now })]));
  const restarted: string[] = [];
  const lines: { msg: string; slot?: string; err?: { message: string } }[] = [];
  const host = {
    find: async (uid: string) => containers.get(uid),
    restart: async (container: { readonly uid: string }) => {
      restarted.push(container.uid);
      return aContainer({ uid: container.uid, pid: 1 });
    },
  };
  const deps = { host, tools: { helper: join(dir, 'helper') }, clock: monotonicClock, workDir: dir };
  const log = pino({}, { write: (line: string) => lines.push(JSON.parse(line)) });
  await endInterrupted({ ...deps, log }, ['dump-x', ...names], AbortSignal.timeout(20_000));
  const undone = await readFile(join(dir, 'undone'), 'utf8').catch(() => '');
  return { dir, undone: undone.replaceAll(`${dir}/`, ''), restarted, lines };
}

test('what is left of a restore is undone in a slot that still is one, and that is not started again', async () => {
  const pid = await aSlot();

  const { undone, restarted } = await interrupted([[UID[0] ?? '', pid, pid]]);

  expect(undone).toBe(`undo --pid ${pid} --journal ${UID[0]}-${pid}-00000000.journal\n`);
  expect(restarted).toEqual([]);
});

test('a container that was started anew meanwhile is put in order and started again, though a slot waits in it', async () => {
  const pid = await aSlot();

  const { undone, restarted } = await interrupted([[UID[0] ?? '', 4_194_303, pid]]);

  expect(undone).toBe(`undo --pid ${pid} --journal ${UID[0]}-4194303-00000000.journal --cold\n`);
  expect(restarted).toEqual([UID[0]]);
});

test('what cannot be undone is told, and keeps no other', async () => {
  const pid = await aSlot();
  const journals = UID.map((uid) => [uid, pid, pid] as const);

  const { undone, lines } = await interrupted(
    journals,
    `case "$*" in *${UID[1]}*) echo 'helper: cannot put back etc: no space' >&2; exit 1;; esac`,
  );

  expect(undone.trim().split('\n')).toHaveLength(2);
  expect(lines.filter(({ msg }) => msg.includes('could not be ended'))).toMatchObject([
    { slot: UID[1], err: { message: 'the files of the slot could not be put back: cannot put back etc: no space' } },
  ]);
});
