import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { RekindleError } from '../lib/errors.ts';
import { type ExecResult, runDetached } from '../lib/exec.ts';
import { addressesOf, rewriteAddresses } from './addresses.ts';
import { RESTORE_ARGUMENTS, restoreRequest } from './criu.ts';
import { explainLog, explainLogFile, failureText } from './criu-log.ts';
import type { DumpFacts } from './dump.ts';
import { readMounts, rightsOf } from './mountinfo.ts';
import type { RestoreHelpers } from './restore-helpers.ts';
import type { CheckpointTools } from './tools.ts';

export type RestoreRequest = {
  /** Names the restore in paths; unique among those that run. */
  readonly id: string;
  readonly snapshot: {
    readonly facts: Pick<DumpFacts, 'stdio' | 'mounts' | 'volumes'> & { readonly addresses: readonly string[] };
    readonly imagesDir: string;
    readonly filesDir: string;
  };
  readonly slot: {
    readonly pid: number;
    /** Where the slot is reached; where it is not, as in a trial, its own addresses are looked up. */
    readonly addresses: readonly string[];
    /**
     * The connection on which the slot was claimed; the helper inherits our descriptor of it and writes `restored` to it. It throws once the connection is
     * closed, and is asked for when a helper is started: a slot that ends closes it at any moment, and its number is the next one's then.
     */
    readonly connection: { readonly descriptor: number };
  };
  /** Where work directories of restores and journals are made; on a tmpfs. */
  readonly workDir: string;
  readonly deadlineMs: number;
  /** The application runs, and can be asked whether it is ready; the restore may still fail. */
  readonly onResumed: () => void;
  readonly mergeMemory: boolean;
};

export type Restored = {
  /** Process 1 of the restored tree as this process sees it, and as the slot does. */
  readonly pid: number;
  readonly slotPid: number;
  /** Until the files were in place, beside which criu has started; from then until criu had ended; and by the helper as a whole. */
  readonly filesMs: number;
  readonly criuMs: number;
  readonly totalMs: number;
};

export type RestoreTools = CheckpointTools & { readonly helpers: RestoreHelpers };

/**
 * Restores a snapshot into a claimed slot and tells the slot; its helper has begun when this returns. On any failure every process started is
 * killed, every file of the slot is put back and nothing of ours remains in it; the slot can then go cold. Rejects with `rights_exceeded`,
 * `snapshot_incompatible` (a mount that the slot lacks) or `restore_failed`, with the reason in words.
 */
export async function restore(tools: RestoreTools, request: RestoreRequest): Promise<Restored> {
  const { facts } = request.snapshot;
  checkMounts(facts.mounts, request.slot);
  const work = join(request.workDir, request.id);
  const journal = join(request.workDir, `${request.id}.journal`);
  let told = false;
  // Not by promises until the helper runs: each would be a turn of the event loop, and a restore waits for it.
  mkdirSync(work, { mode: 0o700 });
  try {
    const asked = restoreRequest({
      stdio: facts.stdio,
      external: facts.mounts.map(({ at }) => at),
      lsmProfile: lsmProfile(request.slot.pid),
    });
    writeFileSync(join(work, 'request'), asked, { mode: 0o600 });
    const ownFiles = writeOwnFiles(request, work);
    const running = tools.helpers.run(helperArguments(tools, request, { work, journal, ownFiles }), request.slot.connection.descriptor);
    const resumed = await running.line(0);
    if (resumed !== undefined) request.onResumed();
    const line = await running.line(1);
    // The slot has heard it too. What the helper removes after that is nobody's to wait for.
    told = line !== undefined;
    if (line === undefined) return await afterFailure(tools, request, journal, work, await running.ended);
    tools.helpers.afterwards(tidy(tools, request, journal, work, running.ended));
    return parseRestored(line);
  } finally {
    if (!told) await rm(work, { recursive: true, force: true });
  }
}

function helperArguments(
  tools: RestoreTools,
  request: RestoreRequest,
  own: { work: string; journal: string; ownFiles: boolean },
): string[] {
  const { facts, imagesDir, filesDir } = request.snapshot;
  return [
    'restore',
    ...['--pid', String(request.slot.pid), '--images', imagesDir, '--work', own.work, '--journal', own.journal],
    ...['--run', tools.criuRunDir, '--deadline-ms', String(request.deadlineMs), '--files', filesDir],
    ...['--generation', randomBytes(6).readUIntBE(0, 6).toString()],
    ...facts.volumes.flatMap(({ at, dir }) => ['--volume', `${at}=${dir}`]),
    ...facts.mounts.flatMap(({ at }) => ['--mount', at]),
    ...(facts.stdio.stdout === null ? [] : ['--stdout']),
    ...(facts.stdio.stderr === null ? [] : ['--stderr']),
    ...(own.ownFiles ? ['--own-files'] : []),
    ...(request.mergeMemory ? ['--merge'] : []),
    ...(tools.preload === undefined ? [] : ['--preload', tools.preload]),
    '--',
    tools.criu,
    ...RESTORE_ARGUMENTS,
  ];
}

/** Once the restore is told: what its helper had still to remove. */
async function tidy(
  tools: RestoreTools,
  request: RestoreRequest,
  journal: string,
  work: string,
  ended: Promise<ExecResult>,
): Promise<void> {
  const { status } = await ended;
  // Killed among its last words: a second one finds that all was done, and removes what is left. What that cannot is the next agent's.
  if (status !== 0) await endRestore(tools, { slotPid: request.slot.pid, journal }).catch(() => undefined);
  // Its slot has ended meanwhile: there are no files of which the journal could still tell.
  if (hasEnded(request.slot.pid)) await rm(journal, { force: true });
  await rm(work, { recursive: true, force: true });
}

function hasEnded(pid: number): boolean {
  try {
    // Also a process that nobody has waited for yet has none.
    readlinkSync(`/proc/${pid}/root`);
    return false;
  } catch {
    return true;
  }
}

/** A helper that was killed could neither finish nor put the files back; a second one does. Throws why there is no restored application. */
async function afterFailure(
  tools: RestoreTools,
  request: RestoreRequest,
  journal: string,
  work: string,
  result: ExecResult,
): Promise<Restored> {
  if (result.status < 128) throw await failure(result.stderr, work);
  const { pid: slotPid, connection } = request.slot;
  const completed = await endRestore(tools, { slotPid, journal, connection: descriptorIfOpen(connection) }).catch((cause: unknown) => {
    const also = cause instanceof Error ? cause.message : String(cause);
    throw new RekindleError('restore_failed', `the restore helper was killed, and ${also}`, { cause });
  });
  if (completed !== undefined) return completed;
  throw await failure(result.stderr, work);
}

/** Killed with its helper, as for want of memory, a slot has closed its connection. */
function descriptorIfOpen(connection: RestoreRequest['slot']['connection']): number | undefined {
  try {
    return connection.descriptor;
  } catch {
    return undefined;
  }
}

/**
 * Ends the restore of a helper that was killed. Where the application runs already it is given to the slot and returned; otherwise what was
 * started in the slot is killed, and the slot's files are put back. `cold`: the slot has become its own command among half of the files, so that
 * is killed too, and the container is to be started again. Safe to repeat. Throws `restore_failed` when not every file could be put back.
 */
export async function endRestore(
  tools: Pick<CheckpointTools, 'helper'>,
  restore: { readonly slotPid: number; readonly journal: string; readonly connection?: number | undefined; readonly cold?: boolean },
): Promise<Restored | undefined> {
  const { slotPid, journal, connection, cold } = restore;
  const args = ['undo', '--pid', String(slotPid), '--journal', journal, ...(cold ? ['--cold'] : [])];
  const result = await runDetached(tools.helper, args, connection).ended;
  if (result.stdout !== '') return parseRestored(result.stdout);
  if (result.status === 0) return undefined;
  const why = wordsOf(result.stderr).join('; ') || 'the slot is gone';
  throw new RekindleError('restore_failed', `the files of the slot could not be put back: ${why}`);
}

/** What the helper has said. */
function wordsOf(said: string): string[] {
  return said.split('\n').flatMap((line) => (line.startsWith('helper: ') ? [line.slice('helper: '.length)] : []));
}

async function failure(said: string, work: string): Promise<RekindleError> {
  const lines = wordsOf(said);
  const rights = lines.find((line) => line.startsWith('rights: '));
  if (rights !== undefined)
    return new RekindleError('rights_exceeded', `the snapshot has more rights than this slot: ${rights.slice('rights: '.length)}`);
  if (lines.length > 0 && lines.every((line) => line.startsWith('criu ended'))) {
    // What happened beside criu (it was killed, the rights could not be looked at) stands in what it and its parent wrote.
    const beside = await readFile(join(work, 'criu.out'), 'utf8').catch(() => '');
    const explained = beside.includes('helper: ') ? explainLog(beside) : await explainLogFile(join(work, 'restore.log'));
    return new RekindleError('restore_failed', `${failureText(explained)}; ${lines.join('; ')}`);
  }
  return new RekindleError('restore_failed', lines.join('; ') || 'the restore helper was killed', { retryable: true });
}

function parseRestored(line: string): Restored {
  const parsed: unknown = JSON.parse(line);
  const number = (key: string): number => {
    const value = typeof parsed === 'object' && parsed !== null && key in parsed ? Reflect.get(parsed, key) : undefined;
    if (typeof value !== 'number') throw new RekindleError('internal', `the restore helper answered ${line}`);
    return value;
  };
  return {
    pid: number('pid'),
    slotPid: number('slotPid'),
    filesMs: number('filesMs'),
    criuMs: number('criuMs'),
    totalMs: number('totalMs'),
  };
}

/** Each external mount of the seed must be a mount of the slot, of the same type and with the same rights. */
function checkMounts(mounts: DumpFacts['mounts'], slot: RestoreRequest['slot']): void {
  const here = new Map(readMounts(slot.pid).map((mount) => [mount.at, mount]));
  for (const mount of mounts) {
    const mine = here.get(mount.at);
    if (mine === undefined) throw new RekindleError('snapshot_incompatible', `the slot has no mount at ${mount.at}, the seed had one`);
    // A slot of a trial, which has no address, has copies of the shared volumes: overlays, or files where the snapshots are.
    const copy = slot.addresses.length === 0;
    if ((mine.type !== mount.type && !copy) || rightsOf(mine).join() !== rightsOf(mount).join()) {
      throw new RekindleError(
        'snapshot_incompatible',
        `the mount at ${mount.at} is ${mine.type} (${rightsOf(mine).join() || 'rw'}), the seed's was ${mount.type} (${rightsOf(mount).join() || 'rw'})`,
      );
    }
  }
}

/** Where a socket is bound to the seed's address: writes a `files.img` into the work directory that names the slot's address instead. Whether there is one. */
function writeOwnFiles(request: RestoreRequest, work: string): boolean {
  const { imagesDir, facts } = request.snapshot;
  const { slot } = request;
  // A slot without addresses is one of a trial.
  const isTrial = slot.addresses.length === 0;
  const own = isTrial ? addressesOf(slot.pid) : slot.addresses;
  const change = new Map<string, string>();
  for (const from of facts.addresses) {
    const to = own.find((address) => address.includes(':') === from.includes(':'));
    if (to !== undefined && to !== from) change.set(from, to);
  }
  if (change.size === 0 && !isTrial) return false;
  const rewritten = rewriteAddresses(readFileSync(join(imagesDir, 'files.img')), { own: change, ...(isTrial ? { outside: own } : {}) });
  if (rewritten === undefined) return false;
  writeFileSync(join(work, 'files.img'), rewritten, { mode: 0o600 });
  return true;
}

/** The slot's AppArmor or SELinux label in CRIU's words, where one confines it. */
function lsmProfile(slotPid: number): string | undefined {
  let label: string;
  try {
    label = readFileSync(`/proc/${slotPid}/attr/current`, 'utf8').replace(/\0|\n/g, '');
  } catch {
    return undefined;
  }
  if (label === '' || label === 'unconfined' || label === 'kernel') return undefined;
  return label.includes(':') ? `selinux:${label}` : `apparmor:${label.replace(/ \(\w+\)$/, '')}`;
}
