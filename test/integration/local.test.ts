import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { chmod, mkdir, readdir, readFile, rm, statfs, symlink, writeFile } from 'node:fs/promises';
import http from 'node:http';
import net from 'node:net';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { connectInto } from '../../src/lib/dial.ts';
import { exec, mustExec, spawnDuplex } from '../../src/lib/exec.ts';
import { addressesAt, parseSubnet } from '../../src/local/addresses.ts';
import { LocalHost } from '../../src/local/host.ts';
import type { RuntimeName } from '../../src/local/runtime.ts';
import type { Container } from '../../src/workloads/host.ts';
import type { ContainerSpec } from '../../src/workloads/workload.ts';
import { hostConformance } from '../conformance/host.ts';
import { aPlace, aWorkload, CONNECT, leftovers, missing, type Place, said } from './local-fixture.ts';

const reason = await missing();
const signal = () => AbortSignal.timeout(30_000);
const RUNTIMES: readonly RuntimeName[] = ['crun', 'runc'];

describe.skipIf(reason !== undefined)(`containers on this machine${reason === undefined ? '' : ` (skipped: ${reason})`}`, () => {
  for (const runtime of RUNTIMES) {
    hostConformance(`LocalHost with ${runtime}`, async () => {
      const place = await aPlace({ runtime });
      const workload = aWorkload({ image: place.image, user: 'anna', workdir: '/tmp', env: { FLAVOUR: 'vanilla' } });
      return {
        host: place.host,
        aContainer: () => place.host.create(workload, { signal: signal() }),
        end: (container) => place.host.remove(container.uid),
        [Symbol.asyncDispose]: () => place[Symbol.asyncDispose](),
      };
    });
  }

  describe.each(RUNTIMES)('made by %s', (runtime) => {
    let place: Place;
    beforeAll(async () => {
      place = await aPlace({ runtime });
    });
    afterAll(async () => {
      await place[Symbol.asyncDispose]();
    });

    const create = (container: Partial<ContainerSpec>, options: { name?: string; trial?: boolean } = {}) =>
      place.host.create(aWorkload({ image: place.image, ...container }), { ...options, signal: signal() });
    const run = async (container: Container, command: string) => {
      const { status, output } = await place.host.exec(container, ['sh', '-c', command], { timeoutMs: 10_000, signal: signal() });
      return `${output}${status === 0 ? '' : `status ${status}\n`}`;
    };

    const { image: _image, ...ofHost } = aWorkload({ rootfs: 'host' }).container;
    const onHostRoot = { ...aWorkload({}), container: ofHost };

    test('a container without an agent becomes the original command, as PID 1, within a second', async () => {
      const container = await create({ command: ['sh', '-c', 'echo cold; exec sleep 77'] });

      await expect.poll(() => readFile(`/proc/${container.pid}/cmdline`, 'utf8'), { timeout: 1_000, interval: 10 }).toBe('sleep\x0077\x00');
      await expect.poll(() => said(place.host, container)).toBe('cold\n');
    });

    test('the slot says hello at the agent socket, and whoever hears it finds its container', async () => {
      const heard = Promise.withResolvers<{ line: string; found: Container | undefined }>();
      const agent = net.createServer((connection) => {
        connection.once('data', (data) => {
          const line = data.toString().trim();
          place.host.find(line.split(' ')[2] ?? '').then((found) => heard.resolve({ line, found }), heard.reject);
          connection.end('cold\n');
        });
        connection.on('error', () => {});
      });
      agent.listen(place.host.agentSocket);
      await once(agent, 'listening');
      await chmod(place.host.agentSocket, 0o666);
      try {
        const container = await create({ user: 'anna' });

        const { line, found } = await heard.promise;
        expect(line).toContain(`hello 1 ${container.uid} box`);
        expect(found).toEqual(container);
      } finally {
        agent.close();
      }
    });

    test('the bridge keeps its hardware address while containers come and go, so that nobody remembers a wrong one', async () => {
      const address = () => readFile(`/sys/class/net/${place.deps.bridge}/address`, 'utf8');
      const first = await create({});
      const before = await address();

      const others = await Promise.all(Array.from({ length: 4 }, () => create({})));
      const among = await address();
      await Promise.all([first, ...others].map(({ uid }) => place.host.remove(uid)));
      const after = await address();

      expect([before.trim(), among.trim(), after.trim()]).toEqual(Array(3).fill(addressesAt(parseSubnet(place.deps.subnet ?? ''), 1).mac));
    });

    describe('on a full disk', () => {
      /** A host of its own on a disk of a MiB, and a way to leave so much of it. */
      const onSmallDisk = async (use: (host: LocalHost, leave: (bytes: number) => Promise<void>, containers: string) => Promise<void>) => {
        await using full = await aPlace({ runtime });
        const { stateDir } = full.deps;
        const filler = path.join(stateDir, 'filler');
        await mustExec(exec, 'mount', ['-t', 'tmpfs', '-o', 'size=1m,mode=700', 'rekindle-test', stateDir]);
        const leave = async (bytes: number) => {
          await writeFile(filler, '');
          const { bavail, bsize } = await statfs(stateDir);
          await writeFile(filler, Buffer.alloc(bavail * bsize - bytes));
        };
        try {
          await use(await LocalHost.open(full.deps), leave, path.join(stateDir, 'containers'));
        } finally {
          await full.host.removeAll();
          await mustExec(exec, 'umount', [stateDir]);
        }
      };
      test('a container that cannot be made says so, and leaves nothing behind', () =>
        onSmallDisk(async (host, leave, containers) => {
          const made: string[] = [];
          // From no room at all to nearly enough: whatever it is that fails, the runtime's or our own.
          for (const kib of [0, 4, 16, 24, 32, 40]) {
            await leave(kib * 1024);

            const { uid, error } = await host.create(onHostRoot, { signal: signal() }).then(
              ({ uid }) => ({ uid, error: undefined }),
              (error: unknown) => ({ uid: undefined, error }),
            );

            if (uid === undefined) expect(error).toMatchObject({ code: 'disk_full', message: expect.stringContaining('the disk is full') });
            else made.push(uid);
            if (kib < 16) expect(error).toBeDefined();
            expect((await readdir(containers)).toSorted()).toEqual(made.toSorted());
          }
        }));

      test('a container is started over all the same, again and again', () =>
        onSmallDisk(async (host, leave) => {
          let life = await host.create(onHostRoot, { pool: { revision: '1' }, signal: signal() });
          await leave(0);

          for (let parks = 1; parks <= 3; parks++) {
            await host.end(life, { graceMs: 0, signal: signal() });
            life = await host.startOver(life, signal());
            life = await host.setPool(life.uid, { ...(life.pool ?? { revision: '', parks: 0 }), started: { how: 'restore', ms: parks } });

            expect(await host.find(life.uid)).toMatchObject({ pid: life.pid, pool: { revision: '1', parks, started: { ms: parks } } });
          }
          const [found] = await host.list();
          expect(found).toEqual(life);
        }));
    });

    test('who stands in its file system does not keep a container from being removed', async () => {
      const container = await place.host.create(onHostRoot, { signal: signal() });
      const root = path.join(place.deps.stateDir, 'containers', container.uid, 'root');
      const visitor = spawn('sleep', ['60'], { cwd: root });
      try {
        await once(visitor, 'spawn');

        await place.host.remove(container.uid);

        const left = await leftovers(place, [container.uid]);
        expect(left.filter((one) => one.includes(container.uid))).toEqual([]);
      } finally {
        visitor.kill('SIGKILL');
      }
    });

    test("the image's command, environment and working directory are the defaults, and its digest is known", async () => {
      const { command: _, ...spec } = aWorkload({ image: place.image }).container;

      const container = await place.host.create({ ...aWorkload({}), container: spec }, { signal: signal() });

      expect(container.imageDigest).toBe(place.imageDigest);
      expect(await run(container, 'echo $COLOUR $PWD')).toBe('blue /www\n');
      await expect.poll(() => readFile(`/proc/${container.pid}/cmdline`, 'utf8')).toBe('sleep\x001234\x00');
    });

    test('it has its own name, address and environment, and the slot knows whom to ask', async () => {
      const container = await create(
        { preload: true, env: { LD_PRELOAD: '/mine.so', NODE_OPTIONS: '--trace-gc' }, instanceEnv: { N: 'name', A: 'address', U: 'uid' } },
        { name: 'my-box' },
      );

      const [v4 = '', v6 = ''] = container.addresses;
      // Until the runtime has executed the slot, process 1 is the runtime's own.
      await expect.poll(() => readFile(`/proc/${container.pid}/cmdline`, 'utf8')).not.toContain('init');
      const environment = (await readFile(`/proc/${container.pid}/environ`, 'utf8')).split('\0');
      expect(net.isIPv4(v4) && net.isIPv6(v6)).toBe(true);
      expect(await run(container, 'hostname; cat /etc/hostname')).toBe('my-box\nmy-box\n');
      expect(await run(container, 'cat /etc/hosts')).toContain(`${v4}\tmy-box\n${v6}\tmy-box\n`);
      expect(environment).toEqual(
        expect.arrayContaining([
          'N=my-box',
          `A=${v4}`,
          `U=${container.uid}`,
          `REKINDLE_POD_UID=${container.uid}`,
          'REKINDLE_CONTAINER=box',
        ]),
      );
      expect(environment).toEqual(
        expect.arrayContaining(['REKINDLE_AGENT=unix:/rekindle/agent.sock', 'LD_PRELOAD=/rekindle/entropy.so /mine.so']),
      );
      expect(environment).toContain('NODE_OPTIONS=--require=/rekindle/random-uuid.cjs --trace-gc');
    });

    test('what it serves is reached at both addresses, and it reaches other containers', async () => {
      const server = await create({ command: ['httpd', '-f', '-p', '[::]:8080', '-h', '/www'] });
      const client = await create({});

      for (const address of server.addresses) {
        const url = `http://${net.isIPv6(address) ? `[${address}]` : address}:8080/index.html`;
        await expect.poll(() => get(url), { timeout: 3_000 }).toBe('it works\n');
        expect(await run(client, `wget -q -O - ${url}`)).toBe('it works\n');
      }
    });

    test('users are resolved by the container, with their groups, and hold no capabilities', async () => {
      const container = await create({ user: 'anna' });

      const status = await readFile(`/proc/${container.pid}/status`, 'utf8');

      expect(await run(container, 'id -u; id -g; id -G; echo $HOME')).toBe('1001\n1002\n1002 2000\n/home/anna\n');
      expect(status).toMatch(/^Groups:\s+2000\s*$/m);
      expect(status).toMatch(/^CapEff:\s+0{16}$/m);
      expect(status).toMatch(/^CapPrm:\s+0{16}$/m);
    });

    test('capabilities are those asked for', async () => {
      const none = await create({ capabilities: [] });
      const some = await create({ capabilities: ['CAP_KILL', 'CAP_CHOWN'], noNewPrivileges: false });

      expect(await readFile(`/proc/${none.pid}/status`, 'utf8')).toMatch(/^CapBnd:\s+0{16}$/m);
      expect(await readFile(`/proc/${some.pid}/status`, 'utf8')).toMatch(/^CapEff:\s+0{14}21$/m);
      expect(await readFile(`/proc/${some.pid}/status`, 'utf8')).toMatch(/^NoNewPrivs:\s+0$/m);
    });

    test('the default seccomp filter refuses io_uring, keys and new namespaces with EPERM; unconfined does not filter', async () => {
      const program = path.join(place.dir, 'volume-syscalls');
      await mkdir(program, { recursive: true });
      await buildSyscallProbe(program);
      const volumes = [{ at: '/probe', from: program, readOnly: true }];
      const filtered = await create({ volumes });
      const unconfined = await create({ volumes, seccomp: 'unconfined' });

      expect(await run(filtered, '/probe/probe')).toBe(
        'io_uring_setup EPERM\nadd_key EPERM\nunshare EPERM\nclone-newuser EPERM\nclone3 ENOSYS\ngetpid ok\n',
      );
      expect(await readFile(`/proc/${unconfined.pid}/status`, 'utf8')).toMatch(/^Seccomp:\s+0$/m);
    });

    test('limits stand in its cgroup', async () => {
      const container = await create({ memoryMiB: 64, cpus: 0.5, pids: 20 });

      const groups = new Map(
        (await readFile(`/proc/${container.pid}/cgroup`, 'utf8'))
          .trim()
          .split('\n')
          .map((line) => [line.split(':')[1] ?? '', line.split(':')[2] ?? '']),
      );
      const v1 = groups.has('memory');
      const read = async (controller: string, file: string) =>
        (await readFile(path.join('/sys/fs/cgroup', v1 ? controller : '', groups.get(v1 ? controller : '') ?? '', file), 'utf8')).trim();
      expect(await read('memory', v1 ? 'memory.limit_in_bytes' : 'memory.max')).toBe(String(64 * 1024 * 1024));
      expect(await read('pids', 'pids.max')).toBe('20');
      expect(v1 ? await read('cpu', 'cpu.cfs_quota_us') : await read('cpu', 'cpu.max')).toMatch(/^50000\b/);
    });

    test('private volumes are empty and its own, shared ones are the same for all, read-only ones cannot be written', async () => {
      const shared = path.join(place.dir, 'shared');
      await mkdir(shared, { recursive: true });
      await writeFile(path.join(shared, 'file'), 'from the machine\n');
      const volumes: ContainerSpec['volumes'] = [
        { at: '/disk', private: 'disk' },
        { at: '/memory', private: 'memory', sizeMiB: 1 },
        { at: '/shared', from: shared, readOnly: false },
        { at: '/fixed', from: shared, readOnly: true },
      ];

      const container = await create({ volumes, user: 'anna' });

      expect(container.volumes).toEqual([
        { at: '/disk', kind: 'private' },
        { at: '/memory', kind: 'private' },
        { at: '/shared', kind: 'shared' },
        { at: '/fixed', kind: 'shared' },
      ]);
      expect(await run(container, 'ls -A /disk /memory; touch /disk/a /memory/b; cat /shared/file')).toBe(
        '/disk:\n\n/memory:\nfrom the machine\n',
      );
      expect(await run(container, 'touch /fixed/new 2>&1')).toContain('Read-only file system');
      expect(await run(container, 'dd if=/dev/zero of=/memory/big bs=1M count=3 2>&1')).toContain('No space left');
    });

    test('a read-only root cannot be written, its volumes can', async () => {
      const container = await create({ readOnlyRoot: true, volumes: [{ at: '/data', private: 'disk' }] });

      expect(await run(container, 'touch /new 2>&1; touch /data/new && ls /data')).toMatch(/Read-only file system\nnew\n$/);
    });

    test('what it must not touch of the kernel is hidden or read-only, and stdio is /dev/null and pipes', async () => {
      const container = await create({});

      expect(await run(container, 'touch /sys/x 2>&1')).toContain('Read-only');
      expect(await run(container, 'echo 1 > /proc/sys/kernel/panic')).toContain('status');
      expect(await run(container, 'head -c 1 /proc/timer_list | od -c; ls /sys/firmware')).toBe('0000000\n');
      expect(await run(container, 'ls -l /proc/1/fd/0 /proc/1/fd/1 /proc/1/fd/2')).toMatch(/null\n.*pipe:.*\n.*pipe:/);
      expect(await run(container, 'touch /rekindle/x 2>&1')).toContain('Read-only');
    });

    test('its output is a log of CRI lines', async () => {
      const container = await create({ command: ['sh', '-c', 'echo one; echo two >&2; sleep 100'] });

      await expect.poll(() => said(place.host, container)).toMatch(/one\ntwo|two\none/);
      const lines = (await readFile(place.host.logFile(container), 'utf8')).trim().split('\n');
      expect(lines.every((line) => /^\d{4}-\d\d-\d\dT\S+ (stdout|stderr) [FP] /.test(line))).toBe(true);
    });

    test('what a command leaves in the background keeps it from ending no longer than its time', async () => {
      const container = await create({});

      const outcome = place.host.exec(container, ['sh', '-c', 'sleep 25 & echo started'], { timeoutMs: 1_000, signal: signal() });

      // runc itself copies the output, and waits for its end.
      if (runtime === 'crun') expect(await outcome).toEqual({ status: 0, output: 'started\n' });
      else await expect(outcome).rejects.toMatchObject({ code: 'timeout' });
      expect(await place.host.find(container.uid)).toBeDefined();
    });

    test('its exit status is known, also when it ended before anyone asked', async () => {
      const container = await create({ command: ['sh', '-c', 'exit 7'] });

      expect(await place.host.wait(container, signal())).toBe(7);
      expect(await place.host.wait(container, signal())).toBe(7);
      expect(await place.host.find(container.uid)).toBeUndefined();
    });

    test('restart keeps name, address and volume, begins with a fresh root and counts', async () => {
      const command = ['sh', '-c', 'echo life >> /data/lives; touch /root-file 2>/dev/null; exec sleep 3600'];
      const container = await create({ command, volumes: [{ at: '/data', private: 'memory' }] });
      await expect.poll(() => run(container, 'ls /data')).toBe('lives\n');
      await run(container, 'echo old > /written');
      const waiting = place.host.wait(container, signal());
      process.kill(container.pid, 'SIGKILL');
      expect(await waiting).toBe(137);

      const again = await place.host.restart(container, signal());

      expect(again).toEqual({ ...container, pid: again.pid, restarts: 1 });
      expect(again.pid).not.toBe(container.pid);
      await expect.poll(() => run(again, 'cat /data/lives; ls /written 2>&1')).toMatch(/^life\nlife\nls: \/written: No such file/);
      expect(await run(again, 'hostname')).toBe(`${container.name}\n`);
      await expect(place.host.restart(again, signal())).rejects.toMatchObject({ code: 'container_failed' });
    });

    test('a pool’s container is started over as if it had never run, under the uid that it was given', async () => {
      const uid = randomUUID();
      const command = ['sh', '-c', 'echo life >> /data/lives; echo life >> /disk/lives; echo said; exec sleep 3600'];
      const volumes = [{ at: '/data', private: 'memory' } as const, { at: '/disk', private: 'disk' } as const];
      const workload = { ...aWorkload({ command, volumes }), name: 'pool' };
      const options = { uid, pool: { revision: 'r1' }, signal: signal() };
      const container = await place.host.create({ ...workload, container: { ...workload.container, image: place.image } }, options);
      await expect.poll(() => run(container, 'cat /data/lives /disk/lives')).toBe('life\nlife\n');
      await run(container, 'echo old > /written');
      const noted = await place.host.setPool(uid, { revision: 'r1', parks: 0, started: { how: 'cold', ms: 5 } });

      const status = await place.host.end(noted, { graceMs: 0, signal: signal() });
      const again = await place.host.startOver(noted, signal());

      expect(status).toBe(137);
      expect(container).toMatchObject({ uid, restarts: 0, pool: { revision: 'r1', parks: 0 } });
      expect(again).toEqual({ ...container, pid: again.pid, pool: { revision: 'r1', parks: 1 } });
      await expect
        .poll(() => run(again, 'cat /data/lives /disk/lives; ls /written 2>&1'))
        .toMatch(/^life\nlife\nls: \/written: No such file/);
      await expect.poll(() => said(place.host, again)).toBe('said\n');
      expect(await place.host.wait(container, signal())).toBe(137);
    });

    test('rootfs host is this machine as it is, and what is written there is seen by nobody else', async () => {
      const { image: _, ...spec } = aWorkload({ rootfs: 'host' }).container;
      const container = await place.host.create({ ...aWorkload({}), container: spec }, { signal: signal() });
      const file = `/etc/rekindle-test-${container.uid}`;

      expect(container.imageDigest).toBe('host');
      expect(await run(container, `echo x > ${file}; cat ${file}; cat /etc/passwd`)).toBe(`x\n${await readFile('/etc/passwd', 'utf8')}`);
      await expect(readFile(file)).rejects.toMatchObject({ code: 'ENOENT' });
    });

    test('a trial has another address, no way out and copies of its volumes; only connectInto reaches it', async () => {
      const shared = path.join(place.dir, 'shared-trial');
      await mkdir(shared, { recursive: true });
      await writeFile(path.join(shared, 'file'), 'original\n');
      const bridge = String(place.deps.subnet).replace('.0/24', '.1');

      const container = await create(
        { command: ['httpd', '-f', '-p', '8080', '-h', '/www'], volumes: [{ at: '/shared', from: shared, readOnly: false }] },
        { trial: true },
      );

      expect(container.addresses).toEqual([]);
      expect(await run(container, 'cat /shared/file; echo changed > /shared/file; cat /shared/file')).toBe('original\nchanged\n');
      expect(await readFile(path.join(shared, 'file'), 'utf8')).toBe('original\n');
      expect(await run(container, 'ip route')).toBe('192.0.2.0/24 dev eth0 scope link  src 192.0.2.2 \n');
      expect(await run(container, `nc ${bridge} 1 </dev/null 2>&1`)).toContain('unreachable');
      const deps = { spawnDuplex, connect: CONNECT };
      for (const host of ['127.0.0.1', '192.0.2.2']) {
        await expect.poll(() => getInto({ pid: container.pid, port: 8080, host }), { timeout: 3_000 }).toBe('it works\n');
      }
      await expect(connectInto(deps, { pid: container.pid, port: 81, timeoutMs: 1_000 })).rejects.toMatchObject({
        code: 'not_ready',
        retryable: true,
      });
    });

    test('remove leaves nothing of it, and may be repeated', async () => {
      const container = await create({
        user: 'anna',
        memoryMiB: 64,
        volumes: [
          { at: '/memory', private: 'memory' },
          { at: '/disk', private: 'disk' },
        ],
      });
      await run(container, 'sleep 500 >/dev/null 2>&1 & echo x > /disk/x');
      expect((await leftovers(place, [container.uid])).length).toBeGreaterThan(5);

      await Promise.all([place.host.remove(container.uid), place.host.remove(container.uid)]);
      await place.host.remove(container.uid);

      expect(
        (await leftovers(place, [container.uid])).filter(
          (line) => line.includes(container.uid) || line.includes(container.addresses[0] ?? '-'),
        ),
      ).toEqual([]);
    });

    test('remove with grace lets the application end by itself', async () => {
      const from = path.join(place.dir, 'grace');
      await mkdir(from, { recursive: true });
      const container = await create({
        command: ['sh', '-c', 'trap "echo bye > /out/word; exit 0" TERM; echo up; while :; do sleep 0.05; done'],
        volumes: [{ at: '/out', from, readOnly: false }],
      });
      await expect.poll(() => said(place.host, container)).toContain('up');

      await place.host.remove(container.uid, { graceMs: 5_000 });

      expect(await readFile(path.join(from, 'word'), 'utf8')).toBe('bye\n');
    });

    test('a container that cannot be made is an error that says why, and leaves nothing', async () => {
      const before = await readdir(path.join(place.deps.stateDir, 'containers'));

      await expect(create({ user: 'nobody-of-that-name' })).rejects.toMatchObject({ code: 'config_invalid' });
      await expect(create({ volumes: [{ at: '/x', from: '/does/not/exist', readOnly: false }] })).rejects.toMatchObject({
        code: 'config_invalid',
      });
      await expect(create({ capabilities: ['CAP_NO_SUCH_THING'], volumes: [{ at: '/proc/1/x', private: 'disk' }] })).rejects.toMatchObject({
        code: 'container_failed',
      });
      const abort = new AbortController();
      const aborted = place.host.create(aWorkload({ image: place.image }), { signal: abort.signal });
      setTimeout(() => abort.abort(new Error('stop')), 20);
      await expect(aborted).rejects.toThrow('stop');

      expect(await readdir(path.join(place.deps.stateDir, 'containers'))).toEqual(before);
    });

    test('ten at once get ten addresses and share one unpacked image', async () => {
      const containers = await Promise.all(Array.from({ length: 10 }, () => create({})));

      expect(new Set(containers.map((container) => container.addresses[0])).size).toBe(10);
      expect((await readdir(path.join(place.deps.stateDir, 'images'))).filter((name) => name.startsWith('sha256-'))).toHaveLength(1);
      expect((await readdir(path.join(place.deps.stateDir, 'images'))).filter((name) => name.startsWith('.new'))).toEqual([]);
      await Promise.all(containers.map((container) => place.host.remove(container.uid)));
    });

    test('a creator killed at any moment: what runs goes on, what was half made is removed', async () => {
      await using own = await aPlace({ runtime });
      const { stateDir, runDir, slotDir, subnet, bridge } = own.deps;
      const seen = new Set<string>();
      const announced = new Set<string>();

      // The first is killed while it unpacks the image; from then on the image is there, and the moments hit the making of containers.
      for (const delayMs of [0, 8, 16, 24, 32, 40, 48, 60, 90, 120, 160]) {
        if (delayMs === 8) await own.host.remove((await own.host.create(aWorkload({ image: own.image }), { signal: signal() })).uid);
        const argument = JSON.stringify({ stateDir, runDir, slotDir, subnet, bridge, runtime, image: own.image });
        const creator = spawn(process.execPath, [path.join(import.meta.dirname, 'local-creator.ts'), argument], {
          stdio: ['ignore', 'pipe', 'inherit'],
        });
        const lines = createInterface(creator.stdout);
        lines.on('line', (line) => line !== 'open' && announced.add(line));
        await once(lines, 'line');
        setTimeout(() => creator.kill('SIGKILL'), delayMs);
        await once(creator, 'close');
        for (const uid of await readdir(path.join(stateDir, 'containers')).catch((): string[] => [])) seen.add(uid);
      }
      await using other = { host: await LocalHost.open(own.deps), [Symbol.asyncDispose]: async () => {} };
      const running = (await other.host.list()).map((container) => container.uid);

      const gone = [...seen].filter((uid) => !running.includes(uid));
      expect(running).toEqual(expect.arrayContaining([...announced]));
      expect(gone.length).toBeGreaterThan(0);
      expect((await leftovers(own, gone)).filter((line) => gone.some((uid) => line.includes(uid)))).toEqual([]);
      await other.host.removeAll();
      expect(await leftovers(own, [...seen])).toEqual([]);
      expect(await readdir('/sys/class/net')).not.toContain(bridge);
    });
  });

  describe('images', () => {
    let place: Place;
    beforeAll(async () => {
      place = await aPlace();
    });
    afterAll(async () => {
      await place[Symbol.asyncDispose]();
    });
    const create = (image: string) => place.host.create(aWorkload({ image }), { signal: signal() });

    test('a missing image, a wrong digest and a damaged image are errors that say which', async () => {
      const wrong = `sha256:${'0'.repeat(64)}`;
      const archive = path.join(place.dir, 'damaged.tar');
      await writeFile(archive, 'not an archive');

      await expect(create('oci:/does/not/exist:tag')).rejects.toMatchObject({
        code: 'image_unavailable',
        message: expect.stringContaining('/does/not/exist'),
      });
      await expect(create(`${place.image}-other`)).rejects.toMatchObject({ code: 'image_unavailable' });
      await expect(create(`${place.image}@${wrong}`)).rejects.toMatchObject({
        code: 'image_unavailable',
        message: expect.stringContaining(wrong),
      });
      await expect(create(`oci-archive:${archive}`)).rejects.toMatchObject({
        code: 'image_unavailable',
        message: expect.stringContaining(archive),
      });
      expect((await readdir(path.join(place.deps.stateDir, 'images'))).filter((name) => name.startsWith('.new'))).toEqual([]);
    });

    test('the right digest is accepted', async () => {
      const container = await create(`${place.image}@${place.imageDigest}`);

      expect(container.imageDigest).toBe(place.imageDigest);
    });

    test('an archive of the same image is the same image', async () => {
      const archive = path.join(place.dir, 'image.tar');
      await place.deps.exec('skopeo', ['copy', '--quiet', place.image, `oci-archive:${archive}`]);

      const container = await create(`oci-archive:${archive}`);

      expect(container.imageDigest).toBe(place.imageDigest);
    });
  });

  test("a passwd that is a symbolic link out of the image reads nothing of this machine's", async () => {
    await using place = await aPlace();
    const layers = path.join(place.dir, 'hostile');
    const layout = path.join(place.dir, 'layout');
    const run = place.deps.exec;
    await run('umoci', ['unpack', '--image', `${layout}:box`, layers]);
    await rm(path.join(layers, 'rootfs/etc/passwd'));
    await writeFile('/tmp/rekindle-outside-passwd', 'ghost:x:4242:4242::/:/bin/sh\n');
    await symlink('../../../../../../../../../../tmp/rekindle-outside-passwd', path.join(layers, 'rootfs/etc/passwd'));
    await run('umoci', ['repack', '--image', `${layout}:hostile`, layers]);

    const made = place.host.create(aWorkload({ image: `oci:${layout}:hostile`, user: 'ghost' }), { signal: signal() });

    await expect(made).rejects.toMatchObject({ code: 'config_invalid', message: expect.stringContaining('ghost') });
    await rm('/tmp/rekindle-outside-passwd');
  });
});

async function get(url: string): Promise<string> {
  const answer = await fetch(url, { signal: AbortSignal.timeout(1_000) });
  return answer.text();
}

/** An HTTP request through the process's own network. */
async function getInto(target: { pid: number; port: number; host: string }): Promise<string> {
  const connection = await connectInto({ spawnDuplex, connect: CONNECT }, { ...target, timeoutMs: 1_000 }, AbortSignal.timeout(5_000));
  const request = http.get({ path: '/index.html', createConnection: () => connection, signal: AbortSignal.timeout(5_000) });
  const [response] = await once(request, 'response');
  let body = '';
  for await (const chunk of response) body += String(chunk);
  connection.destroy();
  return body;
}

/** A static program that tries system calls and says how each ended. */
async function buildSyscallProbe(dir: string): Promise<void> {
  const source = `#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
static void say(const char *name, long r) { printf("%s %s\\n", name, r >= 0 ? "ok" : errno == EPERM ? "EPERM" : errno == ENOSYS ? "ENOSYS" : "other"); }
int main(void) {
  say("io_uring_setup", syscall(SYS_io_uring_setup, 1, 0));
  say("add_key", syscall(SYS_add_key, 0, 0, 0, 0, 0));
  say("unshare", syscall(SYS_unshare, CLONE_NEWUSER));
  say("clone-newuser", syscall(SYS_clone, CLONE_NEWUSER | 17, 0, 0, 0, 0));
  say("clone3", syscall(SYS_clone3, 0, 0));
  say("getpid", syscall(SYS_getpid));
}`;
  await writeFile(path.join(dir, 'probe.c'), source);
  const built = spawn('gcc', ['-static', '-o', path.join(dir, 'probe'), path.join(dir, 'probe.c')], { stdio: 'inherit' });
  const [status] = await once(built, 'close');
  expect(status).toBe(0);
}
