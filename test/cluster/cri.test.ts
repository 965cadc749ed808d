import { randomInt } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { PodGroups } from '../../src/cluster/cgroups.ts';
import { Cri, type CriContainer } from '../../src/cluster/cri.ts';
import { findSocket } from '../../src/cluster/cri-channel.ts';
import { hearOfContainers } from '../../src/cluster/cri-news.ts';
import { systemClock } from '../../src/lib/clock.ts';
import { silentLog } from '../../src/lib/log.ts';
import { BOX, containerIdOf, missingNodes, nodeInit, nodeRoot, type Pods, somePods } from './node-fixture.ts';

const reason = missingNodes();
const signal = () => AbortSignal.timeout(30_000);

describe.skipIf(reason !== undefined)(`the container runtime of a node${reason === undefined ? '' : ` (skipped: ${reason})`}`, () => {
  let pods: Pods;
  let cri: Cri;
  let id: string;
  let podUid: string;
  let groups: PodGroups;
  const processes = () => groups.processes(podUid, id);
  const run = (command: readonly string[], timeoutMs = 10_000, stop = signal()) =>
    cri.execSync(id, command, { timeoutMs, processes, signal: stop });

  beforeAll(async () => {
    pods = await somePods();
    groups = PodGroups.of(await nodeInit(), () => performance.now());
    cri = await Cri.open({ clock: systemClock, root: await nodeRoot() });
    const pod = await pods.start({
      containers: [
        {
          name: 'box',
          image: BOX,
          command: ['sleep', '3600'],
          env: [{ name: 'FLAVOUR', value: 'vanilla' }],
          securityContext: { runAsUser: 1001, runAsGroup: 1002, seccompProfile: { type: 'RuntimeDefault' } },
        },
      ],
    });
    id = containerIdOf(pod);
    podUid = pod.metadata?.uid ?? '';
  });
  afterAll(async () => {
    cri[Symbol.dispose]();
    await pods[Symbol.asyncDispose]();
  });

  test('it is found below the root of its node, and says its version', async () => {
    expect(await cri.version(signal())).toMatch(/^containerd \d+\.\d+/);
  });

  test('where no runtime listens the sockets that were looked for are named', async () => {
    await expect(findSocket('/nonexistent')).rejects.toMatchObject({
      code: 'machine_unsupported',
      message: /containerd\.sock.*crio\.sock/,
    });
  });

  test('a runtime that does not answer is told from one that refuses', async () => {
    using nobody = new Cri({ clock: systemClock, socket: '/nonexistent/containerd.sock' });

    await expect(nobody.version(signal())).rejects.toMatchObject({ code: 'machine_unsupported', retryable: true });
  });

  test('a container is told with its pod, state, image and the configuration that it was made from', async () => {
    const container = await cri.container(id, signal());

    expect(container).toMatchObject({ id, podUid, namespace: pods.namespace, name: 'box', state: 'running', restarts: 0, exitCode: 0 });
    expect(container?.pid).toBeGreaterThan(1);
    expect(container?.image).toBe(BOX);
    expect(container?.logFile).toContain(podUid);
    expect(container?.runtimeSpec).toMatchObject({ process: { args: ['sleep', '3600'] } });
    expect(Date.now() - (container?.createdAtMs ?? 0)).toBeLessThan(120_000);
  });

  test('it tells by itself of a container that it has made, before that starts', async () => {
    const stop = new AbortController();
    const made = new Map<string, Promise<readonly CriContainer[]>>();
    const hear = (uid: string) => void made.set(uid, cri.containersOf(uid, signal()));
    const heard = hearOfContainers({ cri, clock: systemClock, log: silentLog }, hear, stop.signal);
    // From when it listens.
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    const pod = await pods.start({ containers: [{ name: 'told', image: BOX, command: ['sleep', '3600'] }] });
    const [then] = (await made.get(pod.metadata?.uid ?? '')) ?? [];
    stop.abort();
    await heard;

    expect(then).toMatchObject({ id: containerIdOf(pod), name: 'told', state: 'created', imageId: expect.stringContaining('sha256:') });
  });

  test('the containers of a pod are found by its uid', async () => {
    const found = await cri.containersOf(podUid, signal());

    expect(found.map((one) => [one.id, one.name, one.state])).toEqual([[id, 'box', 'running']]);
    expect(await cri.containersOf('00000000-0000-4000-8000-000000000000', signal())).toEqual([]);
  });

  test('a container or an image that is not there is undefined', async () => {
    expect(await cri.container('0'.repeat(64), signal())).toBeUndefined();
    expect(await cri.image('localhost/no-such-image:1', signal())).toBeUndefined();
  });

  test('the image of a container is told by the digest of its configuration, with what it runs', async () => {
    const container = await cri.container(id, signal());

    const image = await cri.image(container?.imageId ?? '', signal());

    expect(image).toMatchObject({ entrypoint: [], cmd: ['sleep', '1234'], workdir: '/www', user: undefined });
    expect(image?.env).toContain('COLOUR=blue');
    expect(image?.digest).toMatch(/^sha256:[0-9a-f]{64}$/);
    expect(await cri.image(BOX, signal())).toEqual(image);
  });

  test('a command gives its status and what it wrote to stdout and stderr', async () => {
    const outcome = await run(['sh', '-c', 'echo out; echo err >&2; exit 3']);

    expect(outcome).toEqual({ status: 3, output: 'out\nerr\n' });
  });

  test('a command has the environment, working directory and user of the container', async () => {
    const { output } = await run(['sh', '-c', 'echo $FLAVOUR $COLOUR $PWD $(id -u):$(id -g)']);

    expect(output.trim()).toBe('vanilla blue /www 1001:1002');
  });

  test('a command that does not exist fails without an exception', async () => {
    expect(await run(['no-such-program'])).toMatchObject({ status: 127, output: /no-such-program/ });
  });

  test('at most 64 KiB of output are kept of a command that writes for ever, which ends with its time', async () => {
    const few = await run(['sh', '-c', 'yes 0123456789 | head -c 300000']);
    const forever = run(['yes'], 500);

    expect(Buffer.byteLength(few.output)).toBe(64 * 1024);
    await expect(forever).rejects.toMatchObject({ code: 'timeout' });
  });

  test('a command whose time is up is killed with all that it started, and nobody else is', async () => {
    const [marker, other] = [`3${randomInt(1e9)}`, `5${randomInt(1e9)}`];
    const stop = new AbortController();
    // As a probe of the kubelet's would: started after, with a child.
    const late = run(['sh', '-c', `sleep ${marker} & sleep ${marker}`], 1_500);
    late.catch(() => undefined);
    const innocent = run(['sh', '-c', `sleep ${other} & wait`], 60_000, stop.signal);
    innocent.catch(() => undefined);
    await expect.poll(() => withArgument(other), { timeout: 5_000 }).toHaveLength(1);

    await expect(late).rejects.toMatchObject({ code: 'timeout' });

    await expect.poll(() => withArgument(marker), { timeout: 5_000 }).toEqual([]);
    const [survivor] = await withArgument(other);
    expect(await stateOf(survivor ?? 0)).not.toMatch(/^[TtZX]/);
    stop.abort(new Error('over'));
    await expect(innocent).rejects.toThrow('over');
    await expect.poll(() => withArgument(other), { timeout: 5_000 }).toEqual([]);
    expect((await cri.container(id, signal()))?.state).toBe('running');
  });

  test('a command that became another program is killed too', async () => {
    const marker = `6${randomInt(1e9)}`;

    await expect(run(['sh', '-c', `exec sleep ${marker}`], 500)).rejects.toMatchObject({ code: 'timeout' });

    await expect.poll(() => withArgument(marker), { timeout: 5_000 }).toEqual([]);
  });

  test('an abort at any moment kills the command and rejects with its reason', async () => {
    const markers = Array.from({ length: 12 }, () => `4${randomInt(1e9)}`);
    const enough = new Error('enough');

    for (const [i, marker] of markers.entries()) {
      const stop = new AbortController();
      const running = run(['sh', '-c', `sleep ${marker} & sleep ${marker}`], 20_000, stop.signal);
      setTimeout(() => stop.abort(enough), i * 10);
      await expect(running).rejects.toBe(enough);
    }

    await expect.poll(async () => (await Promise.all(markers.map(withArgument))).flat(), { timeout: 5_000 }).toEqual([]);
  });

  test('a container that ended takes no commands', async () => {
    const pod = await pods.start({ containers: [{ name: 'box', image: BOX, command: ['sleep', '3600'] }] });
    const gone = containerIdOf(pod);

    await pods.remove(pod);

    const options = { timeoutMs: 10_000, processes: () => [], signal: signal() };
    await expect(cri.execSync(gone, ['true'], options)).rejects.toMatchObject({ code: 'not_found' });
  });
});

async function withArgument(argument: string): Promise<number[]> {
  const found: number[] = [];
  for (const pid of (await readdir('/proc')).filter((entry) => /^\d+$/.test(entry))) {
    const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    if (command.split('\0').includes(argument)) found.push(Number(pid));
  }
  return found;
}

async function stateOf(pid: number): Promise<string> {
  return /^State:\t(.*)$/m.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1] ?? '';
}
