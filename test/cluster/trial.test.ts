import { randomInt, randomUUID } from 'node:crypto';
import { chmod, mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import path from 'node:path';
import type { V1Container, V1Pod, V1PodSpec } from '@kubernetes/client-node';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { externalMounts, readMounts, remotePlaces, rightsOf } from '../../src/checkpoint/mountinfo.ts';
import { membership, PodGroups } from '../../src/cluster/cgroups.ts';
import { Cri } from '../../src/cluster/cri.ts';
import { TrialMaker } from '../../src/cluster/trial.ts';
import { systemClock } from '../../src/lib/clock.ts';
import { exec } from '../../src/lib/exec.ts';
import { silentLog } from '../../src/lib/log.ts';
import { installSlotFiles } from '../../src/local/slot-files.ts';
import { newNonce, proveProcess } from '../../src/slots/prove.ts';
import type { SlotConnection } from '../../src/slots/slot-connection.ts';
import { SlotServer } from '../../src/slots/slot-server.ts';
import type { Container, HostVolume } from '../../src/workloads/host.ts';
import { until } from '../fixtures/until.ts';
import { aWorkload, SLOT_DIR } from '../integration/local-fixture.ts';
import { BOX, containerIdOf, missingNodes, nodeInit, nodeRoot, type Pods, somePods } from './node-fixture.ts';

const MOUNTER = path.join(import.meta.dirname, '../../.build/agent/trial-mounts');
const reason = missingNodes();
const signal = () => AbortSignal.timeout(60_000);

/** As the pod security level `restricted` wants it, with a root that cannot be written and volumes of several kinds. */
const RESTRICTED: Partial<V1PodSpec> & { readonly container: V1Container } = {
  securityContext: { runAsNonRoot: true, fsGroup: 3000, seccompProfile: { type: 'RuntimeDefault' } },
  volumes: [
    { name: 'tmp', emptyDir: {} },
    { name: 'memory', emptyDir: { medium: 'Memory', sizeLimit: '8Mi' } },
    { name: 'shared', emptyDir: {} },
    { name: 'config', configMap: { name: 'kube-root-ca.crt' } },
  ],
  container: {
    name: 'box',
    image: BOX,
    command: ['sh', '-c', 'echo mine >/tmp/mine; echo mine >/memory/mine; echo ours >/shared/ours; sleep 3600'],
    securityContext: {
      runAsUser: 1001,
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ['ALL'] },
    },
    resources: { limits: { memory: '48Mi', cpu: '300m' } },
    volumeMounts: [
      { name: 'tmp', mountPath: '/tmp' },
      { name: 'memory', mountPath: '/memory' },
      { name: 'shared', mountPath: '/shared' },
      { name: 'config', mountPath: '/config', readOnly: true },
    ],
  },
};
const PRIVATE: readonly HostVolume[] = [
  { at: '/tmp', kind: 'private' },
  { at: '/memory', kind: 'private' },
  { at: '/shared', kind: 'shared' },
  { at: '/config', kind: 'shared' },
];

describe.skipIf(reason !== undefined)(`trial containers on a node${reason === undefined ? '' : ` (skipped: ${reason})`}`, () => {
  let pods: Pods;
  let cri: Cri;
  let dir: string;
  let server: SlotServer;
  const said = new Map<string, SlotConnection>();

  beforeAll(async () => {
    pods = await somePods();
    cri = await Cri.open({ clock: systemClock, root: await nodeRoot() });
    dir = await mkdtemp('/var/tmp/rekindle-trial-');
    await chmod(dir, 0o755);
    await installSlotFiles(SLOT_DIR, path.join(dir, 'agent'));
    server = new SlotServer({
      unixPath: path.join(dir, 'agent/agent.sock'),
      clock: systemClock,
      log: silentLog,
      onConnection: (connection) => said.set(connection.hello.uid, connection),
    });
    await server.listen();
  });
  afterAll(async () => {
    await server.close();
    cri[Symbol.dispose]();
    await pods[Symbol.asyncDispose]();
    await rm(dir, { recursive: true });
  });

  const aMaker = async (runtime: string) => {
    const [stateDir, runDir, slotDir] = ['state', 'run', 'agent'].map((name) => path.join(dir, name)) as [string, string, string];
    const fixed = { exec, clock: systemClock, log: silentLog, cri, remotePlaces, nodeInit: await nodeInit(), mounter: MOUNTER };
    return TrialMaker.open({ ...fixed, runtime, stateDir, runDir, slotDir });
  };
  const seedOf = async (pod: V1Pod, volumes: readonly HostVolume[]): Promise<Container> => {
    const uid = pod.metadata?.uid ?? '';
    const pid = PodGroups.of(await nodeInit(), () => performance.now()).init(uid, containerIdOf(pod)) ?? 0;
    const about = { uid, name: pod.metadata?.name ?? '', imageDigest: 'sha256:0', volumes, createdAtMs: 0, addresses: ['10.90.1.9'] };
    return { ...about, pid, restarts: 2, workload: aWorkload({}) };
  };
  const aSeed = async () => {
    const { container, ...spec } = RESTRICTED;
    return seedOf(await pods.start({ ...spec, containers: [container] }), PRIVATE);
  };
  const slotOf = async ({ uid, pid }: Container) => {
    const connection = await until('the slot says hello', () => said.get(uid));
    const nonce = newNonce();
    await connection.prove(nonce, signal());
    expect(proveProcess(pid, nonce)).toBe(true);
    return connection;
  };

  describe.each(['crun', 'runc'])('made by %s', (runtime) => {
    let maker: TrialMaker;
    let seed: Container;
    const run = async ({ uid }: Container, script: string) =>
      (await maker.exec(uid, ['sh', '-c', script], { timeoutMs: 10_000, signal: signal() })).output.trim();

    beforeAll(async () => {
      maker = await aMaker(runtime);
      seed = await aSeed();
    });

    test("one beside a restricted pod is a slot like the seed's, with its rights, mounts and limits", async () => {
      const trial = await maker.create(seed, signal());

      const connection = await slotOf(trial);

      expect(connection.hello).toMatchObject({ state: 'undecided' });
      expect(trial).toMatchObject({ addresses: [], restarts: 0, imageDigest: seed.imageDigest });
      expect(maker.find(trial.uid)).toEqual(trial);
      expect(await rights(trial.pid)).toEqual(await rights(seed.pid));
      const mounts = (pid: number) => new Map(externalMounts(readMounts(pid)).map((mount) => [mount.at, rightsOf(mount).join()]));
      const [ofTrial, ofSeed] = [mounts(trial.pid), mounts(seed.pid)];
      expect([...ofSeed].filter(([at, options]) => ofTrial.get(at) !== options)).toEqual([]);
      expect(await limits(trial.pid)).toEqual(await limits(seed.pid));
      // Beside all the pods of the node, not among them.
      expect(await limits(trial.pid, { cpu: ['cpu.shares'], '': ['cpu.weight'] })).toEqual([
        expect.stringMatching(/^cpu\.(shares 512|weight \d\d+)$/),
      ]);
      await maker.remove(trial.uid);
    });

    test('a slot that goes cold runs the original command', async () => {
      const trial = await maker.create(seed, signal());

      (await slotOf(trial)).cold();

      await expect.poll(() => run(trial, 'cat /tmp/mine')).toBe('mine');
      await expect.poll(async () => (await readFile(`/proc/${trial.pid}/cmdline`, 'utf8')).split('\0')).toContain('3600');
      await maker.remove(trial.uid);
    });

    test('private volumes are empty, shared ones copies, and nothing that is written in it is seen in the pod', async () => {
      await until('the pod wrote', async () => (await readdir(`/proc/${seed.pid}/root/shared`)).length > 0);
      const trial = await maker.create(seed, signal());
      await slotOf(trial);

      expect(await run(trial, 'ls /tmp /memory; cat /shared/ours')).toBe('/memory:\n\n/tmp:\nours');
      expect(await run(trial, 'cat /config/ca.crt | head -1')).toBe('-----BEGIN CERTIFICATE-----');
      expect(await run(trial, 'echo theirs >/shared/ours; echo more >/shared/more; echo x >/tmp/x; touch /y; cat /shared/ours')).toContain(
        'theirs',
      );
      expect(await run(trial, 'stat -f -c %T /memory; hostname; id -G')).toMatch(/^tmpfs\ntrial-\w{6}\n/);

      expect((await readdir(`/proc/${seed.pid}/root/shared`)).sort()).toEqual(['ours']);
      expect(await readFile(`/proc/${seed.pid}/root/shared/ours`, 'utf8')).toBe('ours\n');
      expect(await readdir(`/proc/${seed.pid}/root/tmp`)).toEqual(['mine']);
      await maker.remove(trial.uid);
    });

    test("its network has another address than the seed's, and leads nowhere", async () => {
      const trial = await maker.create(seed, signal());
      await slotOf(trial);

      const [addresses, routes] = [await run(trial, 'ip -4 addr show dev eth0'), await run(trial, 'ip route')];

      expect(addresses).toContain('192.0.2.2/24');
      expect(routes.split('\n')).toEqual([expect.stringMatching(/^192\.0\.2\.0\/24 dev eth0/)]);
      expect(await run(trial, 'nc -w 1 10.89.0.1 6443 </dev/null 2>/dev/null && echo reached || echo not')).toMatch(/not$/);
      // As the pod's sandbox has it.
      expect(await run(trial, 'cat /proc/sys/net/ipv4/ip_unprivileged_port_start')).toBe('0');
      await maker.remove(trial.uid);
    });

    test('two at once do not disturb each other, and nothing remains of them', async () => {
      const [one, other] = await Promise.all([maker.create(seed, signal()), maker.create(seed, signal())]);
      await Promise.all([slotOf(one), slotOf(other)]);

      await run(one, 'echo one >/tmp/who; echo one >/shared/who');
      await run(other, 'echo other >/tmp/who; echo other >/shared/who');

      expect(await run(one, 'cat /tmp/who /shared/who')).toBe('one\none');
      expect(await run(other, 'cat /tmp/who /shared/who')).toBe('other\nother');
      expect(maker.list().map(({ uid }) => uid)).toEqual(expect.arrayContaining([one.uid, other.uid]));
      await maker.remove(one.uid);
      expect(await run(other, 'cat /tmp/who')).toBe('other');
      await maker.remove(other.uid);
      expect(await remains(dir, [one.uid, other.uid])).toEqual([]);
      expect(maker.find(one.uid)).toBeUndefined();
      await maker.remove(one.uid);
    });

    test('a command has exactly the rights of PID 1, and is killed with all that it started when its time is up', async () => {
      const trial = await maker.create(seed, signal());
      await slotOf(trial);
      const marker = `7${randomInt(1e9)}`;

      const shown = await run(
        trial,
        'for p in 1 self; do grep -E "^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp)" /proc/$p/status; echo ---; done',
      );

      const [ofInit, ofCommand] = shown.split('---').map((text) => text.trim());
      expect(ofInit).toContain('Seccomp');
      expect(ofCommand).toBe(ofInit);
      const late = maker.exec(trial.uid, ['sh', '-c', `sleep ${marker} & sleep ${marker}`], { timeoutMs: 400, signal: signal() });

      await expect(late).rejects.toMatchObject({ code: 'timeout' });
      await expect.poll(() => withArgument(marker), { timeout: 5_000 }).toEqual([]);
      expect(maker.find(trial.uid)).toBeDefined();
      await maker.remove(trial.uid);
    });

    test('the next agent removes what one that was killed left, in whatever state', async () => {
      const trial = await maker.create(seed, signal());
      await slotOf(trial);

      const next = await aMaker(runtime);

      expect(await remains(dir, [trial.uid])).toEqual([]);
      expect(next.list()).toEqual([]);
    });

    test('an abort at any moment leaves nothing', async () => {
      for (const afterMs of [0, 20, 60, 120, 200]) {
        const abort = new AbortController();
        const enough = new Error('enough');
        const making = maker.create(seed, abort.signal);
        setTimeout(() => abort.abort(enough), afterMs);

        await making.then(
          ({ uid }) => maker.remove(uid),
          (error: unknown) => expect(error).toBe(enough),
        );
      }

      expect(maker.list().filter(({ uid }) => said.get(uid) !== undefined && maker.find(uid) === undefined)).toEqual([]);
      expect(await readdir(path.join(dir, 'state'))).toEqual([]);
      expect((await readdir(path.join(dir, 'run'))).filter((name) => /^[0-9a-f-]{36}$/.test(name))).toEqual([]);
    });
  });

  test("one made by the seed's own runtime has the same masks and places for mounts, so that a snapshot's rights and files fit", async () => {
    const maker = await aMaker('runc');
    const seed = await aSeed();
    const places = 'stat -c "%n %a %u:%g" / /etc /var /var/run /var/run/secrets /tmp /memory /shared';
    const ofSeed = await cri.execSync(containerOf(seed), ['sh', '-c', places], {
      timeoutMs: 10_000,
      processes: () => [],
      signal: signal(),
    });

    const trial = await maker.create(seed, signal());

    const ofTrial = await maker.exec(trial.uid, ['sh', '-c', places], { timeoutMs: 10_000, signal: signal() });
    expect(ofTrial).toEqual(ofSeed);
    const mounts = (pid: number) => readMounts(pid).map((mount) => `${mount.at} ${mount.type} ${rightsOf(mount).join()}`);
    const own = (lines: readonly string[]) => lines.filter((line) => !/^\/(?:shared|rekindle|rekindle-agent) /.test(line)).sort();
    expect(own(mounts(trial.pid))).toEqual(own(mounts(seed.pid)));
    await maker.remove(trial.uid);
  });

  test('one of an image without a slot gets the slot, and runs as root with a root that can be written', async () => {
    const maker = await aMaker('crun');
    const pod = await pods.start({ containers: [{ name: 'box', image: BOX, command: ['sleep', '3600'] }] });
    const trial = await maker.create(await seedOf(pod, []), signal());

    await slotOf(trial);

    const { output } = await maker.exec(trial.uid, ['sh', '-c', 'id -u; echo x >/x && cat /x'], { timeoutMs: 10_000, signal: signal() });
    expect(output).toBe('0\nx\n');
    expect(await readdir(`/proc/${(await seedOf(pod, [])).pid}/root`)).not.toContain('x');
    await maker.remove(trial.uid);
  });

  test('what cannot be made says why, and leaves nothing', async () => {
    const maker = await aMaker('/nonexistent/crun');
    const seed = await aSeed();

    await expect(maker.create(seed, signal())).rejects.toMatchObject({ code: 'container_failed', message: /\/nonexistent\/crun/ });
    await expect(maker.create({ ...seed, pid: process.pid }, signal())).rejects.toMatchObject({ code: 'not_found' });
    expect(await readdir(path.join(dir, 'state'))).toEqual([]);
    await expect(maker.exec(randomUUID(), ['true'], { timeoutMs: 1_000, signal: signal() })).rejects.toMatchObject({ code: 'not_found' });
  });
});

function containerOf({ pid }: Container): string {
  return membership(pid)?.containerId ?? '';
}

async function rights(pid: number): Promise<readonly string[]> {
  const lines = (await readFile(`/proc/${pid}/status`, 'utf8')).split('\n');
  return lines.filter((line) => /^(?:Uid|Gid|Groups|Cap\w+|NoNewPrivs|Seccomp|Seccomp_filters):/.test(line));
}

/** Of memory and CPU, wherever the process's groups are. */
async function limits(
  pid: number,
  files: Readonly<Record<string, readonly string[]>> = {
    memory: ['memory.limit_in_bytes'],
    cpu: ['cpu.cfs_quota_us'],
    '': ['memory.max', 'cpu.max'],
  },
): Promise<readonly string[]> {
  const groups = (await readFile(`/proc/${pid}/cgroup`, 'utf8')).split('\n').map((line) => line.split(':'));
  const found: string[] = [];
  for (const [, controllers = '', at = ''] of groups) {
    const names = Object.entries(files).find(([controller]) => controllers.split(',').includes(controller))?.[1] ?? [];
    for (const name of names) {
      const base = controllers === '' ? '/sys/fs/cgroup' : `/sys/fs/cgroup/${controllers}`;
      const value = await readFile(path.join(base, at, name), 'utf8').catch(() => undefined);
      if (value !== undefined) found.push(`${name} ${value.trim()}`);
    }
  }
  expect(found).not.toEqual([]);
  return found;
}

/** Everything of these trials on this machine and its node. */
async function remains(dir: string, uids: readonly string[]): Promise<readonly string[]> {
  const found: string[] = [];
  const mine = (text: string) => uids.some((uid) => text.includes(uid));
  for (const pid of [process.pid, await nodeInit()])
    for (const line of (await readFile(`/proc/${pid}/mountinfo`, 'utf8')).split('\n')) if (mine(line)) found.push(`mount ${line}`);
  for (const hierarchy of ['.', ...(await readdir('/sys/fs/cgroup'))])
    for (const name of await readdir(path.join('/sys/fs/cgroup', hierarchy)).catch((): string[] => []))
      if (mine(name)) found.push(`cgroup ${hierarchy} ${name}`);
  for (const pid of (await readdir('/proc')).filter((entry) => /^\d+$/.test(entry))) {
    const text = `${await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')}${await readFile(`/proc/${pid}/environ`, 'utf8').catch(() => '')}`;
    if (mine(text)) found.push(`process ${pid} ${text}`);
  }
  for (const where of ['state', 'run'])
    for (const name of await readdir(path.join(dir, where))) if (mine(name)) found.push(`file ${where}/${name}`);
  return found;
}

async function withArgument(argument: string): Promise<string[]> {
  const found: string[] = [];
  for (const pid of (await readdir('/proc')).filter((entry) => /^\d+$/.test(entry))) {
    const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    if (command.split('\0').includes(argument)) found.push(command);
  }
  return found;
}
