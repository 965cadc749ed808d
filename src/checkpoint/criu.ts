import type { Mount } from './mountinfo.ts';
import { encodeBytes, encodeNumber } from './protobuf.ts';

/** Where the helper puts things for the criu that it runs (images/agent/helper.c). */
const NET_FD = 100;
const STDOUT_FD = 101;
const STDERR_FD = 102;
const IMAGES_FD = 103;
const WORK_FD = 104;
const CRIU_FD = 105;
/** -1 as protocol buffers write an int32. */
const NO_DESCRIPTOR = 2n ** 64n - 1n;
const MOUNTS = '/run/rekindle';

/** What every dump and restore says: no cgroups of CRIU's own, connections closed rather than carried. */
const COMMON = ['--tcp-close', '--manage-cgroups=ignore', '--file-locks', '--link-remap', '--skip-in-flight', '--ghost-limit', '1G'];

/** Arguments of `criu dump` for the process tree at `pid`. */
export function dumpArguments(dump: {
  pid: number;
  imagesDir: string;
  workDir: string;
  netInode: number;
  external: readonly Mount[];
  inotifyPaths: readonly string[];
  helper: string;
  timeoutSeconds: number;
  leave: 'running' | 'stopped';
}): string[] {
  return [
    'dump',
    ...['-t', String(dump.pid), '-D', dump.imagesDir, '-W', dump.workDir, '-o', 'dump.log', '-v2', `--leave-${dump.leave}`],
    ...COMMON,
    // Saves 22 ms and needs no firewall: nothing is lost, since connections are not carried.
    ...['--network-lock', 'skip', '--root', `/proc/${dump.pid}/root`, '--external', `net[${dump.netInode}]:extRootNetNS`],
    ...dump.external.flatMap(({ at }) => ['--external', `mnt[${at}]:${at}`]),
    ...dump.inotifyPaths.flatMap((path, i) => [...(i === 0 ? ['--force-irmap'] : []), '--irmap-scan-path', path]),
    ...['--action-script', dump.helper, '--timeout', String(Math.ceil(dump.timeoutSeconds))],
  ];
}

/** Arguments of the criu that restores: it takes its options from a request, over a socket. */
export const RESTORE_ARGUMENTS = ['swrk', String(CRIU_FD)];

/**
 * The request for a restore inside a slot, as the helper prepared it: what on a command line would be `restore -d -o restore.log -v2` and the
 * options of every dump. `external` in the order of the helper's `--mount` options. Numbers of fields: criu/images/rpc.proto.
 */
export function restoreRequest(restore: {
  stdio: { stdout: string | null; stderr: string | null };
  external: readonly string[];
  lsmProfile: string | undefined;
}): Buffer {
  const { stdout, stderr } = restore.stdio;
  const yes = (number: number) => encodeNumber(number, 1n);
  const text = (number: number, value: string) => encodeBytes(number, Buffer.from(value));
  const inherit = (fd: number, key: string) => encodeBytes(27, Buffer.concat([text(1, key), encodeNumber(2, BigInt(fd))]));
  const options = [
    encodeNumber(1, NO_DESCRIPTOR), // images_dir_fd
    text(68, `/proc/self/fd/${IMAGES_FD}`), // images_dir
    encodeNumber(17, BigInt(WORK_FD)), // work_dir_fd
    text(10, 'restore.log'), // log_file
    encodeNumber(9, 2n), // log_level
    yes(12), // notify_scripts
    text(13, `${MOUNTS}/0`), // root
    yes(52), // tcp_close
    encodeNumber(64, 3n), // network_lock: SKIP
    encodeNumber(34, 0n), // manage_cgroups_mode: IGNORE
    yes(8), // file_locks
    yes(18), // link_remap
    yes(46), // tcp_skip_in_flight
    encodeNumber(35, BigInt(2 ** 30)), // ghost_limit
    inherit(NET_FD, 'extRootNetNS'),
    ...(stdout === null ? [] : [inherit(STDOUT_FD, stdout)]),
    ...(stderr === null || stderr === stdout ? [] : [inherit(STDERR_FD, stderr)]),
    ...restore.external.map((at, i) => text(37, `mnt[${at}]:${MOUNTS}/${i + 1}`)),
    ...(restore.lsmProfile === undefined ? [] : [text(53, restore.lsmProfile)]),
  ];
  return Buffer.concat([encodeNumber(1, 2n), encodeBytes(2, Buffer.concat(options))]);
}
