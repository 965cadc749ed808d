import { randomUUID } from 'node:crypto';
import { chmod, cp, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { exec, mustExec } from '../../src/lib/exec.ts';
import type { Container } from '../../src/workloads/host.ts';
import type { WorkloadSpec } from '../../src/workloads/workload.ts';
import { get, TestEngine } from '../fixtures/engine.ts';
import { ParkedRig, reset } from '../fixtures/parked-rig.ts';
import { SlotProcess } from '../fixtures/slot-process.ts';
import { until } from '../fixtures/until.ts';

/** A directory of this machine, and so of the image `rootfs: host`. */
let tree: string;

beforeAll(async () => {
  tree = await mkdtemp('/var/tmp/reset-');
  for (const dir of ['deleted-dir', 'becomes-link', 'emptied', 'other-mode', 'whole', 'moved']) {
    await mkdir(`${tree}/${dir}`);
    await writeFile(`${tree}/${dir}/old`, 'of the image');
  }
  for (const file of ['deleted', 'becomes-dir', 'changed']) await writeFile(`${tree}/${file}`, 'of the image');
  await symlink('/etc', `${tree}/link-out`);
  await symlink('moved', `${tree}/whole/link`);
  await cp('/etc/ssl', `${tree}/whole/ssl`, { recursive: true, verbatimSymlinks: true });
  await chmod(`${tree}/other-mode`, 0o755);
});

afterAll(() => rm(tree, { recursive: true, force: true }));

/** As the webhook would make it. */
function vandal(): WorkloadSpec {
  const { container, ...rest } = TestEngine.workload(`
workloads:
  vandal:
    container:
      rootfs: host
      command: [/usr/bin/python3, -S, ${import.meta.dirname}/../fixtures/vandal.py, ${tree}, /data]
      noNewPrivileges: false
      volumes: [{ at: /data, private: disk }, { at: /scratch, private: memory }]
      ports: [8080]
      readiness: { http: { port: 8080 }, periodSeconds: 0.05 }
`);
  return { ...rest, container: { ...container, env: { REKINDLE_PARKED_PORTS: '8080', REKINDLE_MODE: 'on-demand' } } };
}

/** Everything that a process could see of the files that a container can change. Times of directories above mounts are the runtime's. */
async function look({ pid }: Pick<Container, 'pid'>): Promise<string[]> {
  const trees = [tree, '/var/run', '/data:top', '/scratch:top', '/dev/shm:top', '/dev:flat', '/etc:flat', '/:flat'];
  const { stdout } = await mustExec(exec, 'python3', ['-S', `${import.meta.dirname}/../fixtures/look.py`, `/proc/${pid}/root`, ...trees]);
  return stdout.split('\n');
}

/** As its user root, in the container. */
async function inside(engine: TestEngine, container: Container, script: string): Promise<string> {
  const { status, output } = await engine.engine.host.exec(container, ['sh', '-c', script], {
    timeoutMs: 30_000,
    signal: AbortSignal.timeout(30_000),
  });
  if (status !== 0) throw new Error(`${script} ended with ${status}: ${output}`);
  return output;
}

test.each(['crun', 'runc'] as const)('a slot that %s has just started has nothing to be reset', async (runtime) => {
  await using engine = await TestEngine.open({ runtime });
  await using rig = await ParkedRig.open(engine);
  const container = await rig.park(vandal(), 'fresh');
  const before = await look(container);

  expect(await rig.reset(container)).toEqual({ removed: 0, putBack: 0 });

  expect(await look(container)).toEqual(before);
});

test('a slot is restored into again and again, each time into the files it had at its start, and answers probes in between', async () => {
  await using engine = await TestEngine.open();
  const workload = vandal();
  const { container: seed, snapshot } = await engine.seed(workload);
  const seeds = JSON.parse(await get(seed, '/now'));
  await using rig = await ParkedRig.open(engine);
  const slot = await rig.park(workload, 'slot');
  const fresh = await look(slot);
  let probed = 0;
  const probing = setInterval(() => {
    // As kubelet does: whatever answers, at once, and all the time, in the moment of a restore too.
    fetch(`http://${slot.addresses[0]}:8080/`, { signal: AbortSignal.timeout(1_000) }).then(
      () => probed++,
      () => undefined,
    );
  }, 5);

  for (let life = 0; life < 3; life++) {
    await until(
      'an answer of the slot',
      async () => (await fetch(`http://${slot.addresses[0]}:8080/`)).headers.get('content-length') === '0',
    );
    await rig.restore(slot, snapshot.digest);
    // The times of the tops are those of the restore.
    expect(withoutTimesOfTops(JSON.parse(await get(slot, '/now')))).toEqual(withoutTimesOfTops(seeds));
    await inside(
      engine,
      slot,
      `echo changed >>/etc/passwd && rm -rf ${tree}/whole && cp -r ${tree}/moved ${tree}/away && rm -r ${tree}/moved && touch /here /dev/shm/x /dev/log /scratch/y && mkfifo /dev/fifo && ln -s / /dev/link && chmod 600 /dev/null &&
       rm ${tree}/changed && mkdir -p /scratch/a/b && chattr +i /data/file 2>/dev/null; chmod 700 /`,
    );

    expect(await rig.parkAgain(slot)).toBeGreaterThan(128);
    expect(await look(slot)).not.toEqual(fresh);
    const facts = await rig.reset(slot);

    expect(facts.removed).toBeGreaterThan(10);
    expect(facts.putBack).toBeGreaterThan(5);
    expect(await look(slot)).toEqual(fresh);
    expect(await rig.reset(slot)).toEqual({ removed: 0, putBack: 0 });
  }
  clearInterval(probing);
  expect(probed).toBeGreaterThan(20);
  expect(await readdir(tree)).toHaveLength(10);
});

describe('what a hostile application leaves', () => {
  let engine: TestEngine;
  let rig: ParkedRig;
  let slot: Container;
  let fresh: string[];

  beforeAll(async () => {
    engine = await TestEngine.open();
    rig = await ParkedRig.open(engine);
  });

  beforeEach(async () => {
    slot = await rig.park(vandal(), `slot-${randomUUID().slice(0, 8)}`);
    fresh = await look(slot);
  });

  afterAll(async () => {
    await rig?.[Symbol.asyncDispose]();
    await engine?.[Symbol.asyncDispose]();
  });

  /** As root with every right there is, in the container's mounts. */
  const does = (script: string) =>
    mustExec(exec, 'nsenter', ['-t', `${slot.pid}`, '-m', '-r', '-w', 'sh', '-c', script], { timeoutMs: 30_000 });
  const python = (script: string) => does(`python3 -S -c '${script}'`);

  test.each(['/', '/data', '/dev/shm', '/dev', '/scratch'])('is gone from %s, however deep, many, odd or immutable it is', async (top) => {
    const canary = await mkdtemp('/var/tmp/canary-');
    await writeFile(`${canary}/file`, 'precious');
    await python(`
import os, socket
os.mkdir("${top}/deep"); os.chdir("${top}/deep")
for i in range(3000): os.mkdir("d" * 200); os.chdir("d" * 200)
open("bottom", "w").close()
os.chdir("${top}"); os.mkdir("many"); os.chdir("many")
for i in range(5000): open(str(i), "w").close()
os.chdir("${top}"); os.mkdir(".rekindle-moved-0"); os.mkdir("deep/.rekindle-moved-0"); open("deep/.rekindle-moved-1", "w").close()
for name in ["a\\nb", "-rf", "..a", " ", "a" * 255]: os.symlink("${canary}", name)
os.symlink("/", "to-root"); os.symlink("${canary}/file", "many/file"); os.mkfifo("fifo"); os.mknod("many/disk", 0o60666, os.makedev(254, 0))
s = socket.socket(socket.AF_UNIX); s.bind("socket"); os.mkdir("locked"); open("locked/file", "w").close(); os.link("locked/file", "locked/link")
os.chmod("locked", 0)`);
    const frozen = await exec('nsenter', ['-t', `${slot.pid}`, '-m', '-r', '-w', 'chattr', '+i', `${top}/locked/file`, `${top}/locked`]);

    await rig.reset(slot);

    expect(await look(slot)).toEqual(fresh);
    expect(await readdir(canary)).toEqual(['file']);
    // On some filesystems nothing can be immutable; on the container's disk it can.
    expect(frozen.status === 0 || top !== '/data').toBe(true);
    await rm(canary, { recursive: true });
  });

  test('is undone where it was done to files of the image', async () => {
    await python(`
import os, shutil
os.chdir("${tree}")
for name in [n for n in os.listdir("whole/ssl/certs") if n.endswith(".pem")][:50]: os.remove("whole/ssl/certs/" + name); os.mkdir("whole/ssl/certs/" + name)
os.chmod("deleted", 0o4777); os.setxattr("changed", "user.x", b"1"); os.setxattr("other-mode", "user.x", b"1"); os.chown("emptied", 1, 2)
os.utime("becomes-dir", (1, 1)); os.utime("moved", (1, 1)); os.remove("link-out"); os.symlink("/etc", "link-out"); os.link("changed", "again")
shutil.rmtree("becomes-link"); os.symlink("${tree}/whole", "becomes-link")
with open("emptied/old", "r+") as f: f.write("OF")
os.utime("emptied/old", ns=(1, ${(await stat(`${tree}/emptied/old`, { bigint: true })).mtimeNs}))`);
    await exec('nsenter', ['-t', `${slot.pid}`, '-m', '-r', '-w', 'chattr', '+i', `${tree}/changed`, `${tree}/other-mode`]);

    await rig.reset(slot);

    expect(await look(slot)).toEqual(fresh);
    expect(await rig.reset(slot)).toEqual({ removed: 0, putBack: 0 });
  });

  test('does not change whose a volume is', async () => {
    const volumes = slot.volumes.map((volume) => ({ ...volume, group: 4711 }));
    await does('chgrp 4711 /data /scratch; chmod 2777 /data /scratch');
    expect(await rig.reset({ pid: slot.pid, volumes })).toEqual({ removed: 0, putBack: 0 });

    await does('chown 1:2 /data /scratch; chmod 700 /data /scratch; chmod 1 /dev/shm');
    expect(await rig.reset({ pid: slot.pid, volumes })).toEqual({ removed: 0, putBack: 3 });

    expect((await does('stat -c "%n %a %u %g" /data /scratch /dev/shm')).stdout).toBe(
      '/data 2777 0 4711\n/scratch 2777 0 4711\n/dev/shm 1777 0 0',
    );
  });

  test.each([
    ['/dev/null is gone', 'rm /dev/null', '/dev/null is gone'],
    ['/dev/null is a file', 'rm /dev/null; echo >/dev/null', '/dev/null is gone'],
    ['what stood there cannot be known', 'mount -t tmpfs tmpfs /', 'the root filesystem of the slot is no overlay'],
  ])('is told where it cannot be undone: %s', async (_what, script, said) => {
    await does(script);

    const outcome = await rig.reset(slot).then(() => 'reset', String);

    expect(outcome).toContain(`the files of the container cannot be made as they were at its start: ${said}`);
  });

  test('has ended, or is no container: nothing is touched', async () => {
    await engine.engine.host.remove(slot.uid);

    await expect(rig.reset(slot)).rejects.toMatchObject({ code: 'container_failed' });
    await expect(rig.reset({ pid: process.pid, volumes: [] })).rejects.toThrow('no container');
  });
});

test('an image of several layers is read as the kernel reads it', async () => {
  const dir = await mkdtemp('/var/tmp/layers-');
  await using _ = { [Symbol.asyncDispose]: () => rm(dir, { recursive: true, force: true }) };
  // Named as containerd names many: from the directory of all.
  const script = `cd ${dir}; mkdir -p one/fs/bin one/fs/proc one/fs/old one/fs/gone-dir one/fs/opaque one/fs/kept two/fs three/fs work root; mkdir two/fs/opaque; cp /bin/busybox one/fs/bin/
    for f in gone gone-dir/f opaque/hidden opaque/again kept/one both; do echo one >one/fs/$f; done; mknod two/fs/gone c 0 0; mknod two/fs/gone-dir c 0 0
    setfattr -n trusted.overlay.opaque -v y two/fs/opaque 2>/dev/null || python3 -S -c 'import os; os.setxattr("two/fs/opaque", "trusted.overlay.opaque", b"y")'
    echo two >two/fs/opaque/again; echo two >two/fs/both; mkdir two/fs/kept; echo two >two/fs/kept/two`;
  await mustExec(exec, 'sh', ['-ec', script]);
  const mounted = `cd ${dir}; mount -t overlay -o lowerdir=two/fs:one/fs,upperdir=${dir}/three/fs,workdir=${dir}/work overlay root; mount -t proc proc root/proc; cd root; pivot_root . old; exec /bin/busybox sh -c "/bin/busybox umount -l /old; cd /kept; exec /bin/busybox sleep 1000"`;
  await using container = new SlotProcess({ agent: '', command: [], program: ['sh', '-ec', mounted] });
  const pid = await until('it runs', async () => {
    const pid = await container.pid();
    return (await readFile(`/proc/${pid}/comm`, 'utf8')) === 'busybox\n' && pid;
  });
  const see = async () =>
    (
      await mustExec(exec, 'python3', [
        '-S',
        `${import.meta.dirname}/../fixtures/look.py`,
        `/proc/${pid}/root`,
        '/opaque',
        '/kept',
        '/both',
        '/bin',
        '/:flat',
      ])
    ).stdout;
  const helper = `${import.meta.dirname}/../../.build/agent/helper`;
  const fresh = await see();
  expect(await reset(helper, pid, [])).toEqual({ removed: 0, putBack: 0 });

  await mustExec(exec, 'sh', [
    '-ec',
    `cd /proc/${pid}/root; echo x >gone; mkdir gone-dir; echo x >gone-dir/f; rm -r opaque; mkdir opaque; echo x >opaque/hidden; rm -r kept/* both; ln bin/busybox bin/sh`,
  ]);
  expect(await reset(helper, pid, [])).toEqual({ removed: 4, putBack: 4 });

  expect(await see()).toBe(fresh);
  expect(fresh).not.toContain('hidden');
  expect((await readdir(`/proc/${pid}/root`)).sort()).toEqual(['bin', 'both', 'kept', 'old', 'opaque', 'proc']);

  await mustExec(exec, 'sh', ['-ec', `cd /proc/${pid}/root; rm -r kept; mkdir kept`]);

  // A clone would be restored into it, and a cold application would start in it.
  await expect(reset(helper, pid, [])).rejects.toThrow('the directory that the slot stands in (/kept');
});

function withoutTimesOfTops(said: Record<string, Record<string, { time?: number }>>): unknown {
  for (const found of ['tree', 'volume']) delete said[found]?.['']?.time;
  return said;
}
