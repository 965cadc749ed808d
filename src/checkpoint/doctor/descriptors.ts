import { stat } from 'node:fs/promises';
import { bytesText, type Finding, fail, warn } from '../../lib/fact.ts';
import type { OpenFile } from '../process.ts';

const GHOST_LIMIT = 1024 ** 3; // --ghost-limit of our dumps

/** Kinds of descriptors that CRIU has no image for (criu/files.c lists those it has). */
const UNSUPPORTED: readonly { readonly says: RegExp; readonly name: string; readonly remedy: string }[] = [
  { says: /\[perf_event\]/, name: 'perf', remedy: 'do not profile it while it is checkpointed' },
  { says: /\[userfaultfd\]/, name: 'userfaultfd', remedy: 'switch off the garbage collector or debugger that uses it' },
  { says: /bpf-(?:prog|link)/, name: 'BPF', remedy: 'load programs from outside the container' },
  { says: /\[landlock-ruleset\]/, name: 'Landlock', remedy: 'close the ruleset once it is in force' },
  { says: /^\/(?:secretmem|\[secretmem\])|anon_inode:\[?secretmem/, name: 'secret memory', remedy: 'do without memfd_secret' },
];

/** Descriptors of kinds that CRIU does not know. */
export function unsupported(files: readonly OpenFile[]): Finding[] {
  return UNSUPPORTED.flatMap(({ says, name, remedy }) => {
    const file = files.find(({ target }) => says.test(target));
    return file === undefined
      ? []
      : [fail(name, `process ${file.pid} has ${file.target} open (descriptor ${file.fd}), which CRIU cannot dump`, remedy)];
  });
}

/** Terminals among open files: those whose master the container does not hold come from outside. */
export function terminals(files: readonly OpenFile[]): Finding[] {
  const master = files.find(({ target }) => /^\/dev\/(?:pts\/)?ptmx$/.test(target));
  const slave = files.find(({ target }) => /^\/dev\/(?:pts\/\d+|tty\w*|console|hvc\d+)$/.test(target));
  if (slave === undefined && master === undefined) return [];
  if (slave !== undefined && master === undefined)
    return [
      fail(
        'terminal',
        `process ${slave.pid} has the terminal ${slave.target} open, whose other end is outside the container`,
        'start it without one',
      ),
    ];
  return [
    warn(
      'terminal',
      `process ${(master ?? slave)?.pid} has a pseudo-terminal; both ends must be inside the container`,
      'close it before the checkpoint if you can',
    ),
  ];
}

/** What every container has, and CRIU opens again by its name. */
const PLAIN_DEVICE = /^\/dev\/(?:null|zero|full|random|urandom|ptmx|pts\/.*|tty\w*|console|hvc\d+)$/;

/** Devices among open files, of any kind but those of {@link PLAIN_DEVICE}. */
export async function openDevices(files: readonly OpenFile[]): Promise<Finding[]> {
  const suspects = files.filter(({ fd, target }) => fd !== 'mapping' && target.startsWith('/') && !PLAIN_DEVICE.test(target));
  const kinds = await Promise.all(suspects.map(({ pid, fd }) => stat(`/proc/${pid}/fd/${fd}`).catch(() => undefined)));
  const devices = suspects.filter((_, i) => kinds[i]?.isCharacterDevice() || kinds[i]?.isBlockDevice());
  const targets = [...new Set(devices.map(({ target }) => target))];
  return targets.length === 0 ? [] : [deviceFinding(devices[0]?.pid, targets)];
}

function deviceFinding(pid: number | undefined, targets: readonly string[]): Finding {
  const what = targets.some((target) => target.startsWith('/dev/nvidia')) ? ' (a GPU)' : '';
  return fail(
    'devices',
    `process ${pid} has ${targets.join(', ')} open${what}, whose state CRIU cannot save`,
    'open it only on use, or let this workload start cold',
  );
}

/** Deleted files too large to travel. */
export async function deletedFiles(files: readonly OpenFile[]): Promise<Finding[]> {
  const deleted = files.filter(({ fd, target }) => fd !== 'mapping' && target.endsWith(' (deleted)') && !target.startsWith('/memfd:'));
  const sizes = await Promise.all(
    deleted.map(({ pid, fd }) =>
      stat(`/proc/${pid}/fd/${fd}`).then(
        ({ size }) => size,
        () => 0,
      ),
    ),
  );
  return deleted.flatMap((file, i) => {
    const size = sizes[i] ?? 0;
    return size <= GHOST_LIMIT
      ? []
      : [
          fail(
            'deleted file',
            `process ${file.pid} holds ${file.target} of ${bytesText(size)} open; at most ${bytesText(GHOST_LIMIT)} travel`,
            'close it before the checkpoint',
          ),
        ];
  });
}
