import { describe, expect, test } from 'vitest';
import { explainLog, explainLogFile, failureText } from '../../../src/checkpoint/criu-log.ts';

/** What stands before every real error on a machine without CAP_SYS_RESOURCE. */
const BEFORE = `Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted
Warn  (compel/arch/x86/src/lib/infect.c:419): Will restore 26722 with interrupted system call
`;
const AFTER = '\nError (criu/cr-dump.c:1975): Dumping FAILED.\n';

describe('of a log of CRIU 4.2.1, the cause is told in words:', () => {
  test.each([
    ['Error (criu/tty.c:410): tty: Found slave peer index 0 without correspond master peer', 'refused', 'holds a terminal'],
    [
      'Error (criu/sk-unix.c:874): unix: External socket is used. Consider using --ext-unix-sk option.',
      'refused',
      'unix socket whose other end is outside',
    ],
    ["Error (criu/namespaces.c:460): Can't dump nested pid namespace for 28810", 'refused', 'namespaces of its own'],
    ["Error (criu/namespaces.c:739): Can't dump nested time namespace for 7539", 'refused', 'namespaces of its own'],
    ['Error (criu/namespaces.c:931): Unable to convert uid or gid', 'refused', 'namespaces of its own'],
    ["Error (criu/files-ext.c:94): Can't dump file 3 of that type [600] (anon anon_inode:bpf-map)", 'refused', 'kernel object'],
    ["Error (criu/files-ext.c:94): Can't dump file 3 of that type [600] (anon anon_inode:[perf_event])", 'refused', 'kernel object'],
    ["Error (criu/files-ext.c:94): Can't dump file 3 of that type [600] (anon anon_inode:[io_uring])", 'refused', 'io_uring_setup'],
    ["Error (criu/files-ext.c:94): Can't dump file 5 of that type [20600] (chr 10:229)", 'refused', 'a device open'],
    ['Error (criu/sk-inet.c:137): inet: Unsupported proto 262 for socket f7fc3', 'refused', 'MPTCP'],
    ['Error (criu/sockets.c:767): sockets: BUG! Unknown socket collected (family 40)', 'refused', 'a kind of socket'],
    ["Error (criu/files-reg.c:1790): Can't lookup mount=156 for fd=3 path=/q", 'refused', 'lies on no mount'],
    ["Error (criu/fsnotify.c:284): fsnotify: \tCan't dump that handle", 'refused', 'watches a file (inotify)'],
    ['Error (compel/src/lib/infect.c:262): Unseizable non-zombie 7796 found, state t, err -1/10', 'refused', 'being traced'],
    ['1: Error (criu/tun.c:391): tun: No tun device for file tun0', 'refused', 'network interface of its own'],
    [
      "1: Error (criu/sk-inet.c:1059): inet: Can't bind inet socket (id 13): Cannot assign requested address",
      'snapshot',
      'an address or port',
    ],
    // Not recorded but as CRIU's source has them: they need another machine.
    [
      'Error (criu/arch/x86/cpu.c:247): cpu: FPU feature required by image is not supported on host (fpu:0 fxsr:0 osxsave:0 xsaves:1)',
      'machine',
      "this machine's CPU lacks",
    ],
    ['Error (criu/arch/x86/cpu.c:223): cpu: CPU instruction capabilities do not match run time', 'machine', "this machine's CPU lacks"],
    ['Error (criu/arch/x86/cpu.c:262): cpu: CPU xfeatures has unsupported bits (0xe0)', 'machine', "this machine's CPU lacks"],
    ['Error (criu/arch/x86/cpu.c:274): cpu: CPU xsave size mismatch (2696/832)', 'machine', "this machine's CPU lacks"],
    [
      "1: Error (criu/files-reg.c:2353): Can't open file var/lib/app/state.db on restore: No such file or directory",
      'snapshot',
      'a file that the application had open is missing or different',
    ],
    ['1: Error (criu/files-reg.c:2175): File usr/lib/libapp.so has bad size 4096 (expect 8192)', 'snapshot', 'missing or different'],
    ['1: Error (criu/files-reg.c:2153): File usr/lib/libapp.so has bad build-ID', 'snapshot', 'missing or different'],
    ['1: Error (criu/files-reg.c:2294): File etc/app has bad mode 0100600 (expect 0100644)', 'snapshot', 'missing or different'],
    ['Error (compel/src/lib/infect.c:365): Unable to detach from 4711: Operation not permitted', 'machine', 'lacks a right'],
    ['pie: 1: Error (criu/pie/restorer.c:317): Unable to drop capability 21: -1', 'machine', 'lacks a right'],
    ['pie: 1: Error (criu/pie/restorer.c:347): Unable to restore capabilities: -1', 'machine', 'lacks a right'],
    ["Error (criu/cr-check.c:759): Kernel doesn't support PTRACE_O_SUSPEND_SECCOMP", 'machine', 'kernel lacks something'],
    ['Error (criu/kerndat.c:1962): check_pagemap failed when initializing kerndat.', 'machine', 'kernel lacks something'],
    ['Error (criu/crtools.c:280): Could not initialize kernel features detection.', 'machine', 'kernel lacks something'],
  ] as const)('%s', (line, kind, words) => {
    const failure = explainLog(`${BEFORE}${line}${AFTER}`);

    expect(failure.line).toBe(line.trim());
    expect(failure.kind).toBe(kind);
    expect(failure.means).toContain(words);
    expect(failureText(failure)).toBe(`${failure.means} (CRIU says: ${line.trim()})`);
  });
});

test('a criu without the right to begin has no log, and its words are on stderr', async () => {
  const said = `CRIU needs to have the CAP_SYS_ADMIN or the CAP_CHECKPOINT_RESTORE capability: \nsetcap cap_checkpoint_restore+eip criu\n`;

  const failure = await explainLogFile('/nowhere/dump.log', said);

  expect(failure).toMatchObject({ kind: 'machine', means: expect.stringContaining('CAP_CHECKPOINT_RESTORE') });
});

test('an error of unknown cause is told as it is', () => {
  const failure = explainLog(`${BEFORE}Error (criu/mem.c:1): something new${AFTER}`);

  expect(failure).toEqual({ line: 'Error (criu/mem.c:1): something new', means: undefined, kind: 'unknown' });
  expect(failureText(failure)).toBe('CRIU says: Error (criu/mem.c:1): something new');
});

test('a known cause further down explains a first error that says little', () => {
  const failure = explainLog(
    `${BEFORE}Error (criu/cr-dump.c:1): task 7 failed\nError (criu/tty.c:410): tty: Found slave peer index 0${AFTER}`,
  );

  expect(failure).toMatchObject({ line: 'Error (criu/cr-dump.c:1): task 7 failed', kind: 'refused' });
});

test('what the helper itself says comes first', () => {
  expect(explainLog(`${BEFORE}helper: cannot copy /srv/x: No space left on device\n`)).toMatchObject({
    line: 'cannot copy /srv/x: No space left on device',
  });
});

test('a log without an error, or none at all, is no riddle', () => {
  expect(explainLog('').line).toBe('nothing about it in its log: it was killed');
  // Every machine without CAP_SYS_RESOURCE has this line: it is no reason.
  const harmless = "(00.003) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted\n";
  expect(explainLog(harmless)).toEqual({ line: 'nothing about it in its log: it was killed', means: undefined, kind: 'unknown' });
  expect(explainLog('(00.01) last words\n').line).toBe('(00.01) last words');
});

test('that the helper of a criu which has gone lost its connection is no reason', () => {
  const log = 'Error (criu/cgroup.c:2055): cg: cgroupd: recv req error: No such file or directory\n';

  expect(failureText(explainLog(log))).toContain('it was killed');
  expect(failureText(explainLog(`helper: criu was killed by signal 9\n${log}`))).toContain('criu was killed by signal 9');
});
