import { mkdir, open, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { type Static, Type } from 'typebox';
import { Value } from 'typebox/value';
import { toRekindleError } from '../lib/errors.ts';
import type { Container } from '../workloads/host.ts';
import { Workload } from '../workloads/workload.ts';
import { isAlive } from './processes.ts';

/** In which stat(2) counts. */
const BLOCK_BYTES = 512;

const Process = Type.Object({ pid: Type.Integer({ minimum: 1 }), startTime: Type.String() });

/**
 * `container.json`: all that is known of a container, so that any process can find, use and remove it. Written before anything of the
 * container is made; holds its environment, so only root may read it.
 */
const ContainerRecord = Type.Object({
  version: Type.Literal(1),
  uid: Type.String({ pattern: '^[0-9a-f-]{36}$' }),
  name: Type.String(),
  workload: Type.Object({ name: Type.String(), ...Type.Required(Workload).properties }),
  trial: Type.Boolean(),
  runtime: Type.Union([Type.Literal('crun'), Type.Literal('runc')]),
  /** Who makes it (or makes it again): as long as that process lives nobody else cleans up after it. */
  creator: Process,
  phase: Type.Union([Type.Literal('creating'), Type.Literal('running'), Type.Literal('removing')]),
  /** PID 1; absent until it exists. */
  init: Type.Optional(Process),
  restarts: Type.Integer({ minimum: 0 }),
  /** IPv4 address held in the address pool; trial containers hold none. */
  address: Type.Optional(Type.String()),
  addresses: Type.Array(Type.String()),
  imageDigest: Type.String(),
  volumes: Type.Array(Type.Object({ at: Type.String(), kind: Type.Union([Type.Literal('private'), Type.Literal('shared')]) })),
  createdAtMs: Type.Number(),
  /** Of a pool's container. */
  pool: Type.Optional(
    Type.Object({
      revision: Type.String(),
      parks: Type.Integer({ minimum: 0 }),
      suspended: Type.Optional(Type.String()),
      started: Type.Optional(
        Type.Object({
          how: Type.Union([Type.Literal('restore'), Type.Literal('cold')]),
          ms: Type.Number(),
          snapshot: Type.Optional(Type.String()),
          reason: Type.Optional(Type.String()),
        }),
      ),
    }),
  ),
});
export type ContainerRecord = Static<typeof ContainerRecord>;

/** Where the parts of one container lie. */
export type ContainerPaths = ReturnType<typeof containerPaths>;

export function containerPaths(stateDir: string, uid: string) {
  const dir = path.join(stateDir, 'containers', uid);
  return {
    dir,
    record: path.join(dir, 'container.json'),
    spec: path.join(dir, 'config.json'),
    pid: path.join(dir, 'pid'),
    conmonPid: path.join(dir, 'conmon.pid'),
    sync: path.join(dir, 'sync'),
    log: path.join(dir, 'log'),
    /** Of the life before, of a container that was started over. */
    oldLog: path.join(dir, 'log.1'),
    exitDir: path.join(dir, 'exit'),
    exit: path.join(dir, 'exit', uid),
    root: path.join(dir, 'root'),
    /** Upper and work directory of the root's overlay: below here, on the disk or on a tmpfs. */
    fresh: path.join(dir, 'fresh'),
    volumes: path.join(dir, 'volumes'),
    etc: path.join(dir, 'etc'),
  };
}

/** Makes the container's directory with its record in it, both at once, so that a directory without a record is always half removed. */
export async function createRecord(stateDir: string, record: ContainerRecord): Promise<void> {
  const dir = containerPaths(stateDir, record.uid).dir;
  const { pid, startTime } = record.creator;
  const made = path.join(path.dirname(dir), `.new-${pid}-${startTime}-${record.uid}`);
  try {
    await mkdir(made, { recursive: true, mode: 0o700 });
    await writeFile(path.join(made, 'container.json'), JSON.stringify(record), { mode: 0o600 });
    await rename(made, dir);
  } catch (error) {
    // Nobody else looks at it as long as this process lives.
    await rm(made, { recursive: true, force: true });
    throw error;
  }
}

/** Replaces the record whole. On a full disk too, so that what is there goes on, and slots are parked again. */
export async function writeRecord(stateDir: string, record: ContainerRecord): Promise<void> {
  const file = containerPaths(stateDir, record.uid).record;
  const text = JSON.stringify(record);
  try {
    await writeFile(`${file}.new`, text, { mode: 0o600 });
    await rename(`${file}.new`, file);
  } catch (error) {
    await rm(`${file}.new`, { force: true });
    if (toRekindleError(error).code !== 'disk_full' || !(await overwritten(file, text))) throw error;
  }
}

/** Writes over a file where it lies, if there is room enough: by one write of all that it has, so that a kill leaves the one text or the other. */
async function overwritten(file: string, text: string): Promise<boolean> {
  await using handle = await open(file, 'r+');
  const { size, blocks } = await handle.stat();
  const length = Buffer.byteLength(text);
  // JSON may end with spaces.
  const bytes = Buffer.alloc(Math.max(size, length), ' ');
  bytes.write(text);
  if (bytes.length > blocks * BLOCK_BYTES) return false;
  return (await handle.write(bytes, 0, bytes.length, 0)).bytesWritten === bytes.length;
}

/** The record, or undefined when there is no such container or its record cannot be understood. */
export async function readRecord(stateDir: string, uid: string): Promise<ContainerRecord | undefined> {
  const text = await readFile(containerPaths(stateDir, uid).record, 'utf8').catch(() => undefined);
  if (text === undefined) return undefined;
  try {
    const value: unknown = JSON.parse(text);
    return Value.Check(ContainerRecord, value) ? value : undefined;
  } catch {
    return undefined;
  }
}

/** The uids of every container that has a directory, half-made and half-removed ones too. */
export async function listUids(stateDir: string): Promise<readonly string[]> {
  const entries = await readdir(path.join(stateDir, 'containers')).catch(() => []);
  return entries.filter((entry) => !entry.startsWith('.'));
}

/** Removes directories that processes which are gone began to make and never finished. */
export async function removeUnfinished(stateDir: string): Promise<void> {
  const containers = path.join(stateDir, 'containers');
  for (const entry of await readdir(containers).catch(() => [])) {
    const [, pid, startTime] = /^\.new-(\d+)-(\d+)-/.exec(entry) ?? [];
    if (pid === undefined || startTime === undefined || isAlive({ pid: Number(pid), startTime })) continue;
    await rm(path.join(containers, entry), { recursive: true, force: true });
  }
}

/** What the rest of rekindle sees of a container that has a PID 1. */
export function asContainer(record: ContainerRecord): Container | undefined {
  if (record.init === undefined) return undefined;
  const { uid, name, workload, restarts, addresses, imageDigest, volumes, createdAtMs, pool } = record;
  const container = { uid, name, workload, pid: record.init.pid, restarts, addresses, imageDigest, volumes, createdAtMs };
  return pool === undefined ? container : { ...container, pool };
}

/** Whether the record tells of a later start than the one that the container was. */
export function isLaterLife(record: ContainerRecord, container: Container): boolean {
  const parks = (record.pool?.parks ?? 0) - (container.pool?.parks ?? 0);
  return parks === 0 ? record.restarts > container.restarts : parks > 0;
}
