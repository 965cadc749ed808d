import { readdir, readFile } from 'node:fs/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { Container, Host } from '../../src/workloads/host.ts';

/** A host under test, and the two deeds that a `Host` leaves to others. */
export type HostUnderTest = AsyncDisposable & {
  readonly host: Host;
  /** A running container with `sh`, `cat`, `grep`, `sleep` and `yes`, a user other than root, the working directory /tmp and FLAVOUR=vanilla in its environment. */
  aContainer(): Promise<Container>;
  /** Ends the container and removes it. */
  end(container: Container): Promise<void>;
};

const RIGHTS = [
  'sh',
  '-c',
  'for p in 1 self; do grep -E "^(Uid|Gid|Groups|Cap[A-Za-z]+|NoNewPrivs|Seccomp|Seccomp_filters):" /proc/$p/status; echo ---; done',
];

/** What every `Host` promises. `open` makes one with nothing in it. */
export function hostConformance(name: string, open: () => Promise<HostUnderTest>): void {
  describe(`${name} keeps the promises of a host`, () => {
    let subject: HostUnderTest;
    const signal = () => AbortSignal.timeout(30_000);
    const options = () => ({ timeoutMs: 10_000, signal: signal() });

    beforeEach(async () => {
      subject = await open();
    });
    afterEach(async () => {
      await subject[Symbol.asyncDispose]();
    });

    test('a running container is found by its uid and is in the list', async () => {
      const container = await subject.aContainer();

      const found = await subject.host.find(container.uid);
      const listed = await subject.host.list();

      expect(found).toEqual(container);
      expect(listed).toContainEqual(container);
      expect(await readdir(`/proc/${container.pid}`)).toContain('ns');
    });

    test('an unknown uid is not found, without an error', async () => {
      expect(await subject.host.find('00000000-0000-4000-8000-000000000000')).toBeUndefined();
      expect(await subject.host.find('../../etc')).toBeUndefined();
    });

    test('a container that ended is neither found nor listed, and takes no commands', async () => {
      const container = await subject.aContainer();

      await subject.end(container);

      expect(await subject.host.find(container.uid)).toBeUndefined();
      expect((await subject.host.list()).map((one) => one.uid)).not.toContain(container.uid);
      await expect(subject.host.exec(container, ['true'], options())).rejects.toMatchObject({ code: 'not_found' });
    });

    test('a container is leaving once it was removed, and not before', async () => {
      const container = await subject.aContainer();

      const before = await subject.host.isLeaving(container.uid);
      await subject.end(container);

      expect(before).toBe(false);
      expect(await subject.host.isLeaving(container.uid)).toBe(true);
    });

    test('a command gives its status and what it wrote to stdout and stderr', async () => {
      const container = await subject.aContainer();

      const outcome = await subject.host.exec(container, ['sh', '-c', 'echo out; echo err >&2; exit 3'], options());

      expect(outcome.status).toBe(3);
      expect(outcome.output.trim().split('\n').sort()).toEqual(['err', 'out']);
    });

    test('a command has the environment, working directory and host name of the container', async () => {
      const container = await subject.aContainer();

      const outcome = await subject.host.exec(container, ['sh', '-c', 'echo $FLAVOUR $PWD $(cat /proc/sys/kernel/hostname)'], options());

      expect(outcome.output.trim()).toBe(`vanilla /tmp ${container.name}`);
    });

    test('a command has exactly the rights of PID 1: ids, groups, every capability set, no_new_privs, seccomp', async () => {
      const container = await subject.aContainer();

      const outcome = await subject.host.exec(container, RIGHTS, options());

      const [ofInit, ofCommand] = outcome.output.split('---\n');
      expect(ofInit).toContain('CapEff:');
      expect(ofCommand).toBe(ofInit);
    });

    test('a command that does not exist fails without an exception', async () => {
      const container = await subject.aContainer();

      const outcome = await subject.host.exec(container, ['no-such-program'], options());

      expect(outcome.status).not.toBe(0);
    });

    test('at most 64 KiB of output are kept of a command that writes for ever, which ends with its time', async () => {
      const container = await subject.aContainer();

      const few = await subject.host.exec(container, ['sh', '-c', 'yes 0123456789 | head -c 300000'], options());
      const forever = subject.host.exec(container, ['yes'], { timeoutMs: 500, signal: signal() });

      expect(Buffer.byteLength(few.output)).toBe(64 * 1024);
      await expect(forever).rejects.toMatchObject({ code: 'timeout' });
    });

    test('a command whose time is up is killed with all that it started', async () => {
      const container = await subject.aContainer();
      const marker = `3${Math.floor(Math.random() * 1e9)}`;

      const late = subject.host.exec(container, ['sh', '-c', `sleep ${marker} & sleep ${marker}`], { timeoutMs: 400, signal: signal() });

      await expect(late).rejects.toMatchObject({ code: 'timeout' });
      await expect.poll(() => processesWith(marker), { timeout: 5_000 }).toEqual([]);
      expect(await subject.host.find(container.uid)).toBeDefined();
    });

    test('an abort kills the command and rejects with its reason', async () => {
      const container = await subject.aContainer();
      const marker = `4${Math.floor(Math.random() * 1e9)}`;
      const abort = new AbortController();
      const reason = new Error('enough');

      const running = subject.host.exec(container, ['sleep', marker], { timeoutMs: 20_000, signal: abort.signal });
      await Promise.race([expect.poll(() => processesWith(marker), { timeout: 5_000 }).not.toEqual([]), running]);
      abort.abort(reason);

      await expect(running).rejects.toBe(reason);
      await expect.poll(() => processesWith(marker), { timeout: 5_000 }).toEqual([]);
    });
  });
}

/** Processes with this as one of their arguments, as the machine sees them. */
async function processesWith(argument: string): Promise<readonly string[]> {
  const found: string[] = [];
  for (const pid of (await readdir('/proc')).filter((entry) => /^\d+$/.test(entry))) {
    const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    if (command.split('\0').includes(argument)) found.push(command);
  }
  return found;
}
