import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { AgentEvent, InstanceState } from '../../../src/agent/events.ts';
import { followAgentFile, keepAgentFile, readAgentFile } from '../../../src/commands/agent-file.ts';
import { EventLog } from '../../../src/commands/instances.ts';
import { until } from '../../fixtures/until.ts';

const LIVE: InstanceState = {
  at: 'live',
  snapshot: 'd1',
  timing: { decidedMs: 1, filesMs: 1, criuMs: 1, restoredMs: 1, readyMs: 1 },
};
const instance = (uid: string, state: InstanceState): AgentEvent => ({ type: 'instance', uid, name: uid, workload: 'web', state });
const failed: AgentEvent = { type: 'checkpoint-failed', workload: 'web', specHash: 'h', code: 'not_ready', reason: 'never ready' };

let dir = '';
let path = '';
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'rekindle-agent-file-'));
  path = join(dir, 'agent.json');
});
afterEach(() => rm(dir, { recursive: true, force: true }));

const states = async () =>
  Object.fromEntries(
    (await readAgentFile(path))?.events.flatMap((event) => (event.type === 'instance' ? [[event.uid, event.state.at]] : [])) ?? [],
  );

test('before there was an agent there is nothing', async () => {
  expect(await readAgentFile(path)).toBeUndefined();
});

test('it holds the process that writes it at once, and the last state of each instance that has not ended', async () => {
  const keep = await keepAgentFile(path, []);
  expect(await readAgentFile(path)).toEqual({ pid: process.pid, events: [] });

  keep(instance('one', { at: 'restoring', snapshot: 'd1' }));
  keep(instance('one', LIVE));
  keep(instance('two', { at: 'cold', reason: 'so' }));
  keep(instance('three', LIVE));
  keep(instance('three', { at: 'ended', status: 0 }));

  await until('the file to hold all', async () => JSON.stringify(await states()) === '{"one":"live","two":"cold"}');
});

test('once written is awaited it says all that was told, also what was told while it was being written', async () => {
  const keep = await keepAgentFile(path, []);

  keep(instance('one', { at: 'restoring', snapshot: 'd1' }));
  await new Promise(setImmediate);
  keep(instance('one', LIVE));
  await keep.written();

  expect(await states()).toEqual({ one: 'live' });
});

test('the next agent goes on with what it said of instances that live, and a seed of the last one is only cold', async () => {
  const first = await keepAgentFile(path, []);
  for (const uid of ['live', 'gone']) first(instance(uid, LIVE));
  first(instance('seed', { at: 'seed', step: 'checkpointing' }));
  first(failed);
  await until('the file to hold all', async () => (await readAgentFile(path))?.events.length === 4);

  await keepAgentFile(path, ['live', 'seed']);

  expect(await states()).toEqual({ live: 'live', seed: 'cold' });
});

test('a follower hears what comes after it began, each once', async () => {
  const keep = await keepAgentFile(path, []);
  keep(instance('before', LIVE));
  await until('the first event in the file', async () => (await readAgentFile(path))?.events.length === 1);
  const heard: AgentEvent[] = [];
  const stop = new AbortController();

  const following = await followAgentFile(path, (event) => heard.push(event), stop.signal);
  keep(instance('after', LIVE));
  keep(failed);
  await until('both to be heard', () => heard.length >= 2);
  stop.abort();
  await following.ended;

  expect(heard.map((event) => (event.type === 'instance' ? event.uid : event.type))).toEqual(['after', 'checkpoint-failed']);
});

test('an instance that has ended meanwhile is known by how it started', async () => {
  const log = new EventLog();
  log.add(instance('one', LIVE));
  log.add(instance('one', { at: 'ended', status: 3 }));

  expect((await log.settled('one', AbortSignal.timeout(1_000))).at).toBe('live');
});

test('waiting for a checkpoint tells the steps of its seed, and ends with the outcome or the signal', async () => {
  const log = new EventLog();
  const steps: string[] = [];
  const outcome = log.checkpointed('web', AbortSignal.timeout(1_000), (step) => steps.push(step));

  log.add(instance('one', { at: 'seed', step: 'warming up' }));
  log.add({ ...failed, workload: 'other' });
  log.add(failed);

  expect(await outcome).toBe(failed);
  expect(steps).toEqual(['one: warming up …']);
  await expect(log.checkpointed('none', AbortSignal.abort(new Error('told to end')))).rejects.toThrow('told to end');
});
