import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { terminals, unsupported } from '../../../../src/checkpoint/doctor/descriptors.ts';
import { connections, unixFindings } from '../../../../src/checkpoint/doctor/process.ts';
import { establishedTcp, outsideSockets, socketInodes } from '../../../../src/checkpoint/doctor/sockets.ts';
import { diskRoom, examineWorkload } from '../../../../src/checkpoint/doctor/workload.ts';
import type { OpenFile } from '../../../../src/checkpoint/process.ts';
import { parseRekindleFile } from '../../../../src/workloads/file.ts';

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'rekindle-doctor-'));
});
afterEach(() => rm(dir, { recursive: true, force: true }));

/** The level of each finding about a workload with these lines below `container:` and beside it. */
async function levels(container: string, beside = ''): Promise<Record<string, string>> {
  const text = `workloads:\n  web:\n    container:\n${container.replace(/^/gm, '      ')}\n${beside.replace(/^/gm, '    ')}\n`;
  const [spec] = parseRekindleFile(text, join(dir, 'rekindle.yaml'));
  if (spec === undefined) throw new Error('no workload');
  const facts = await examineWorkload(spec, { stateDir: join(dir, 'state'), lastSnapshotBytes: undefined });
  return Object.fromEntries(facts.map(({ name, level }) => [name, level]));
}

describe('a description tells what keeps a workload from being checkpointed', () => {
  test('a plain one can be, and only what stays equal in clones is a warning', async () => {
    const found = await levels("rootfs: host\ncommand: [sleep, '3600']\nports: [8080]");

    expect(Object.entries(found).filter(([, level]) => level !== 'ok')).toEqual([['equal in every clone', 'warn']]);
  });

  test('with restore.after nothing is left to warn of', async () => {
    const found = await levels("rootfs: host\ncommand: [sleep, '3600']\nports: [8080]", 'restore: { after: "true" }');

    expect(new Set(Object.values(found))).toEqual(new Set(['ok']));
  });

  test('environment per instance without an identity, and no readiness, fail', async () => {
    const found = await levels("rootfs: host\ncommand: [sleep, '3600']\ninstanceEnv: { NAME: name }");

    expect(found).toMatchObject({ identity: 'fail', readiness: 'fail' });
  });

  test('a command, directory or image file that is not there fails', async () => {
    const absent = await levels('rootfs: host\ncommand: [no-such-program]\nworkdir: /no/such/place\nports: [1]');
    const image = await levels(`image: oci-archive:${dir}/missing.tar\nports: [1]`);
    await writeFile(join(dir, 'there.tar'), '');
    const there = await levels(`image: oci-archive:${dir}/there.tar\nports: [1]`);

    expect(absent).toMatchObject({ command: 'fail', workdir: 'fail' });
    expect(image).toMatchObject({ image: 'fail' });
    expect(there).toMatchObject({ image: 'ok' });
  });

  test('volumes that clones would share for writing are a warning, missing ones fail', async () => {
    const found = await levels(
      `rootfs: host\ncommand: [sleep, '1']\nports: [1]\nvolumes:\n  - { at: /a, private: disk }\n  - { at: /b, from: ${dir} }\n  - { at: /c, from: ${dir}, readOnly: true }\n  - { at: /d, from: ${dir}/missing }`,
    );

    expect(found).toMatchObject({ 'volume /a': 'ok', 'volume /b': 'warn', 'volume /c': 'ok', 'volume /d': 'fail' });
  });

  test('no seccomp filter, no preload, small limits and CAP_SYS_ADMIN are warnings', async () => {
    const found = await levels(
      "rootfs: host\ncommand: [sleep, '1']\nports: [1]\nseccomp: unconfined\npreload: false\nmemoryMiB: 32\ncpus: 0.1\ncapabilities: [CAP_SYS_ADMIN]",
    );

    expect(found).toMatchObject({
      'system calls': 'warn',
      'random numbers': 'warn',
      'memory limit': 'warn',
      'CPU limit': 'warn',
      capabilities: 'warn',
    });
  });

  test('the last snapshot tells what room the next one needs', () => {
    expect(diskRoom({}, 1000, 2000).level).toBe('ok');
    expect(diskRoom({}, 2000, 1000).level).toBe('fail');
    expect(diskRoom({ memoryMiB: 512 }, undefined, 1000).level).toBe('warn');
    expect(diskRoom({}, undefined, 1000).level).toBe('ok');
  });
});

describe('what a process has open tells it too', () => {
  const file = (target: string): OpenFile => ({ pid: 7, fd: '3', target, mountId: 1, writable: true });

  test('kinds of descriptors that CRIU does not know are named', () => {
    const found = unsupported(
      ['anon_inode:[perf_event]', 'anon_inode:[userfaultfd]', 'anon_inode:[eventpoll]', 'anon_inode:bpf-prog'].map(file),
    );

    expect(found.map(({ name, level }) => `${level} ${name}`)).toEqual(['fail perf', 'fail userfaultfd', 'fail BPF']);
  });

  test("a terminal from outside fails, a pair of the application's own is a warning", () => {
    expect(terminals([file('/dev/pts/0')]).map(({ level }) => level)).toEqual(['fail']);
    expect(terminals([file('/dev/pts/ptmx'), file('/dev/pts/0')]).map(({ level }) => level)).toEqual(['warn']);
    expect(terminals([file('/dev/null')])).toEqual([]);
  });

  test('established connections are those in the table whose socket the container holds', () => {
    // A listener, an established connection of the container, and one of somebody else in the same network.
    const table = [
      '  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode',
      '   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 40001 1 0000000000000000 100 0 0 10 0',
      '   1: 0100007F:1F90 0100007F:B2A4 01 00000000:00000000 00:00000000 00000000     0        0 40002 1 0000000000000000 20 4 30 10 -1',
      '   2: 0100007F:B2A4 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 50000 1 0000000000000000 20 4 30 10 -1',
      '',
    ].join('\n');

    expect(establishedTcp(table, socketInodes([file('socket:[40001]'), file('socket:[40002]')]))).toEqual(['0100007F:B2A4']);
    expect(connections(1).map(({ level }) => level)).toEqual(['warn']);
    expect(connections(0)).toEqual([]);
  });

  test('a unix socket is outside when its other end is nobody of the container', () => {
    const output = [
      'u_str LISTEN 0      128    /run/app/own.sock 100                   * 0    ',
      'u_str ESTAB  0      0      /run/app/own.sock 101                   * 102  ',
      'u_str ESTAB  0      0                      * 102                   * 101  ',
      'u_str ESTAB  0      0                      * 103                   * 900  ',
      'u_str ESTAB  0      0     /run/with space.sock 900                 * 103  ',
      'u_dgr UNCONN 0      0                      * 104 /run/systemd/journal/dev-log 901  ',
      'u_str ESTAB  0      0                      * 105                   * 902  ',
    ].join('\n');

    const outside = outsideSockets(output, new Set(['100', '101', '102', '103', '104', '105']));

    expect(outside).toEqual(['/run/with space.sock', '/run/systemd/journal/dev-log', 'socket 105']);
    expect(unixFindings(outside).map(({ level }) => level)).toEqual(['fail']);
    expect(unixFindings([])).toEqual([]);
    expect(unixFindings(undefined).map(({ level }) => level)).toEqual(['warn']);
  });
});
