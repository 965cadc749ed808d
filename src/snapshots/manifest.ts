import { type Static, Type } from 'typebox';
import { Compile } from 'typebox/compile';
import { RekindleError } from '../lib/errors.ts';

/**
 * manifest.json: what a snapshot is. It lists every entry below `images/` and `files/`; the snapshot's name is the SHA-256 of the manifest's
 * exact bytes, so it vouches for everything. Pulled and imported ones are untrusted: {@link parseManifest} is the only way in.
 */

/** A snapshot with more entries is refused: the manifest is read whole, and looked through before each restore. */
export const MAX_ENTRIES = 50_000;
export const MAX_MANIFEST_BYTES = 32 * 1024 * 1024;
/** PATH_MAX and NAME_MAX of Linux (limits.h), in bytes. */
const MAX_PATH_BYTES = 4095;
const MAX_NAME_BYTES = 255;

const Count = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER });
/** 4294967295 means "no id" to chown. */
const Id = Type.Integer({ minimum: 0, maximum: 4_294_967_294 });
const Text = Type.String({ maxLength: 4096 });
const AbsolutePath = Type.String({ pattern: '^/', maxLength: MAX_PATH_BYTES });
const Strings = Type.Array(Text, { maxItems: 1024 });

const common = {
  /** Relative to the snapshot's directory: `images/…` or `files/…`. */
  path: Type.String({ minLength: 1, maxLength: MAX_PATH_BYTES }),
  mode: Type.Integer({ minimum: 0, maximum: 0o7777 }),
  uid: Id,
  gid: Id,
  /** Rounded, so that a copy made with `utimes` has the same. */
  mtimeMs: Type.Integer({ minimum: -8.64e15, maximum: 8.64e15 }),
};

const Entry = Type.Union([
  Type.Object({ type: Type.Literal('file'), ...common, size: Count, sha256: Type.String({ pattern: '^[0-9a-f]{64}$' }) }),
  Type.Object({ type: Type.Literal('dir'), ...common }),
  Type.Object({ type: Type.Literal('symlink'), ...common, target: Type.String({ minLength: 1, maxLength: MAX_PATH_BYTES }) }),
  Type.Object({ type: Type.Literal('fifo'), ...common }),
]);

/** What must fit between the machine that made a snapshot and the one that restores it; see `compatibility.ts`. */
export const MachineClass = Type.Object({
  /** As `uname -m`. */
  arch: Type.String({ minLength: 1, maxLength: 64 }),
  /** The `flags` of /proc/cpuinfo, sorted. */
  cpuFeatures: Type.Array(Type.String({ minLength: 1, maxLength: 64 }), { maxItems: 4096 }),
  /** As `uname -r`. */
  kernel: Type.String({ minLength: 1, maxLength: 256 }),
  /** Version of CRIU, as `4.2.1`. */
  criu: Type.String({ minLength: 1, maxLength: 64 }),
});

const Manifest = Type.Object({
  schema: Type.Literal(1),
  workload: Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9._/-]{0,252}$' }),
  specHash: Type.String({ pattern: '^[A-Za-z0-9:_-]{1,128}$' }),
  /** When the seed was frozen, ISO 8601 in UTC. */
  createdAt: Type.String({ pattern: '^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d(\\.\\d{1,3})?Z$' }),
  class: MachineClass,
  imageDigest: Text,
  /** What the seed's descriptors 1 and 2 were, as `pipe:[123]`; null where they were nothing the slot must replace. */
  stdio: Type.Object({ stdout: Type.Union([Text, Type.Null()]), stderr: Type.Union([Text, Type.Null()]) }),
  /** The seed's external mounts: each must be a mount of the slot with the same type and options. */
  mounts: Type.Array(Type.Object({ at: AbsolutePath, type: Text, options: Strings }), { maxItems: 1024 }),
  /** Private volumes whose content travels, as `files/<dir>`. */
  volumes: Type.Array(Type.Object({ at: AbsolutePath, dir: Type.String({ pattern: '^[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}$' }) }), {
    maxItems: 1024,
  }),
  /** Inode of the seed's network namespace: CRIU's images name it. */
  netns: Count,
  /** The seed's own addresses, which a restore rewrites to the slot's. */
  addresses: Strings,
  freezeMs: Type.Number({ minimum: 0 }),
  pages: Count,
  memoryBytes: Count,
  allowSharedRandom: Type.Optional(Type.Boolean()),
  origin: Type.Object({ node: Type.String({ minLength: 1, maxLength: 253 }) }),
  /** Sum of the sizes of all files. */
  totalBytes: Count,
  files: Type.Array(Entry, { maxItems: MAX_ENTRIES }),
});

export type MachineClass = Static<typeof MachineClass>;
export type ManifestEntry = Static<typeof Entry>;
export type Manifest = Static<typeof Manifest>;
/** What the maker of a snapshot knows; the store adds the rest. */
export type SnapshotFacts = Omit<Manifest, 'schema' | 'files' | 'totalBytes'>;

let compiled: ReturnType<typeof Compile<typeof Manifest>> | undefined;

/**
 * The manifest in these bytes. Throws `snapshot_incompatible` for another schema version (the snapshot may be fine for another rekindle) and
 * `snapshot_corrupt`, naming `where` and the first fault, for everything else. Unknown keys are allowed and ignored.
 */
export function parseManifest(bytes: Uint8Array, where: string): Manifest {
  const bad = (fault: string, cause?: unknown): RekindleError =>
    new RekindleError('snapshot_corrupt', `${where}: the manifest is wrong: ${fault}. Remove the snapshot or fetch it again`, { cause });
  if (bytes.length > MAX_MANIFEST_BYTES) throw bad(`${bytes.length} bytes, more than ${MAX_MANIFEST_BYTES}`);
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (error) {
    throw bad(`not JSON (${String(error)})`, error);
  }
  const schema = typeof value === 'object' && value !== null && 'schema' in value ? value.schema : undefined;
  if (typeof schema === 'number' && schema !== 1) {
    throw new RekindleError(
      'snapshot_incompatible',
      `${where}: manifest schema ${schema}, but this rekindle reads schema 1. Use a rekindle that fits, or remove the snapshot`,
    );
  }
  compiled ??= Compile(Manifest);
  if (!compiled.Check(value)) {
    const first = compiled.Errors(value)[0];
    throw bad(`${first?.instancePath || '/'} ${first?.message ?? 'does not fit the schema'}`);
  }
  const fault = whyUnsound(value);
  if (fault !== undefined) throw bad(fault);
  return value;
}

/** What the schema cannot say. Entries must come sorted, each after its directory: then no path can lead through a symlink. */
function whyUnsound(manifest: Manifest): string | undefined {
  if (Number.isNaN(Date.parse(manifest.createdAt))) return `createdAt ${manifest.createdAt} is no date`;
  const dirs = new Set(['images', 'files']);
  let last = '';
  let total = 0;
  for (const entry of manifest.files) {
    const fault = whyBadPath(entry.path) ?? (entry.type === 'symlink' ? whyBadText(entry.target) : undefined);
    if (fault !== undefined) return `entry ${JSON.stringify(entry.path)}: ${fault}`;
    if (entry.path <= last) return `entry ${JSON.stringify(entry.path)} is listed twice or out of order`;
    if (!dirs.has(parentOf(entry.path))) return `entry ${JSON.stringify(entry.path)} is in no directory of the snapshot`;
    if (entry.path.startsWith('images/') && (entry.type !== 'file' || entry.uid !== 0 || entry.gid !== 0 || entry.mode !== 0o600)) {
      return `entry ${JSON.stringify(entry.path)}: images are plain files of root with mode 0600`;
    }
    if (entry.type === 'dir') dirs.add(entry.path);
    if (entry.type === 'file') total += entry.size;
    last = entry.path;
  }
  if (total !== manifest.totalBytes) return `totalBytes is ${manifest.totalBytes}, but the files have ${total}`;
  const missing = manifest.volumes.find((volume) => !dirs.has(`files/${volume.dir}`));
  return missing === undefined ? undefined : `volume ${missing.at} has no directory files/${missing.dir}`;
}

function parentOf(path: string): string {
  return path.slice(0, path.lastIndexOf('/'));
}

function whyBadText(text: string): string | undefined {
  if (text.includes('\0')) return 'contains a NUL';
  if (!text.isWellFormed()) return 'is not well-formed Unicode';
  return Buffer.byteLength(text) > MAX_PATH_BYTES ? `is longer than ${MAX_PATH_BYTES} bytes` : undefined;
}

/** Why this is no path of an entry, or undefined: it must be below images/ or files/, with no empty, `.` or `..` segment and no NUL. */
export function whyBadPath(path: string): string | undefined {
  const segments = path.split('/');
  if (segments.length < 2 || (segments[0] !== 'images' && segments[0] !== 'files')) return 'is not below images/ or files/';
  if (segments.some((segment) => segment === '' || segment === '.' || segment === '..')) return 'has an empty, "." or ".." segment';
  if (segments.some((segment) => Buffer.byteLength(segment) > MAX_NAME_BYTES)) return `has a name longer than ${MAX_NAME_BYTES} bytes`;
  return whyBadText(path);
}
