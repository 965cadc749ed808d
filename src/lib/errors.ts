/**
 * Every error a user can meet: what it means, the exit code of the CLI and the HTTP status of the API. One table; the README lists it
 * and a test holds the two together.
 */
export const ERRORS = {
  usage: { exit: 2, status: 400, meaning: 'the command line or request is wrong' },
  config_invalid: { exit: 3, status: 400, meaning: 'rekindle.yaml (or a ConfigMap) does not say something we can do' },
  machine_unsupported: { exit: 4, status: 501, meaning: 'this machine lacks something rekindle needs; `rekindle doctor` says what' },
  image_unavailable: { exit: 5, status: 502, meaning: 'a container image is missing, unreadable or not the digest asked for' },
  container_failed: { exit: 6, status: 502, meaning: 'a container could not be created or ended by itself' },
  not_found: { exit: 7, status: 404, meaning: 'no such workload, container or snapshot' },
  not_ready: { exit: 8, status: 503, meaning: 'the application did not pass its readiness checks, or its warm-up failed' },
  dump_refused: { exit: 9, status: 409, meaning: 'the application does something that no clone could share; it starts cold' },
  dump_failed: { exit: 10, status: 500, meaning: 'CRIU could not dump the application; it goes on serving' },
  restore_failed: { exit: 11, status: 500, meaning: 'CRIU could not restore the snapshot; the slot started cold' },
  rights_exceeded: { exit: 12, status: 403, meaning: 'the snapshot has more rights than the slot; the slot started cold' },
  snapshot_corrupt: { exit: 13, status: 500, meaning: 'a snapshot is not what was written: it is never restored again' },
  snapshot_incompatible: { exit: 14, status: 409, meaning: 'a snapshot was made for another CPU, kernel, CRIU or workload' },
  verify_failed: { exit: 15, status: 500, meaning: 'the trial restore of a new snapshot failed; it was not published' },
  random_shared: { exit: 16, status: 409, meaning: 'two clones drew the same random bytes; not published' },
  quarantined: { exit: 17, status: 409, meaning: 'restores of this snapshot failed repeatedly; it is left alone' },
  disk_full: { exit: 18, status: 507, meaning: 'no room on the disk for a snapshot or a container; nothing was left behind' },
  agent_unavailable: { exit: 19, status: 503, meaning: 'no agent answers' },
  timeout: { exit: 20, status: 504, meaning: 'something took longer than its deadline' },
  unauthorized: { exit: 21, status: 401, meaning: 'the gateway has an API token, and it was not sent' },
  cluster_unavailable: { exit: 22, status: 503, meaning: 'the Kubernetes API server does not answer, or refuses' },
  conflict: { exit: 23, status: 409, meaning: 'an object of the cluster is there already, or was changed by somebody else meanwhile' },
  internal: { exit: 70, status: 500, meaning: 'a defect of rekindle: please report it' },
} as const;

export type ErrorCode = keyof typeof ERRORS;

/** The one error class. `message` says what is wrong, where, and what to do; `cause` keeps the foreign error. */
export class RekindleError extends Error {
  override readonly name = 'RekindleError';
  readonly code: ErrorCode;
  /** Whether the same call may succeed later with nothing changed. */
  readonly retryable: boolean;

  constructor(code: ErrorCode, message: string, options: { cause?: unknown; retryable?: boolean } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.retryable = options.retryable ?? false;
  }
}

/** The `errno` code (`ENOENT`, …) of a system error, or undefined. */
export function errno(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}

/** Any thrown value as ours: one of ours stays itself, everything else becomes `internal` with it as cause; ENOSPC becomes `disk_full`. */
export function toRekindleError(error: unknown): RekindleError {
  if (error instanceof RekindleError) return error;
  if (errno(error) === 'ENOSPC' || errno(error) === 'EDQUOT') {
    return new RekindleError(
      'disk_full',
      `the disk is full: ${String(error)}. Free some space, or keep fewer snapshots (checkpoint.keep)`,
      { cause: error },
    );
  }
  return new RekindleError('internal', error instanceof Error ? error.message : String(error), { cause: error });
}
