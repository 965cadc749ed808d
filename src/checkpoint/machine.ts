import { readFile } from 'node:fs/promises';
import { arch, release } from 'node:os';
import { join } from 'node:path';
import { RekindleError } from '../lib/errors.ts';
import type { Exec } from '../lib/exec.ts';

/** What must fit between the machine that made a snapshot and the one that restores it. */
export type MachineFacts = { readonly arch: string; readonly cpuFeatures: string[]; readonly kernel: string; readonly criu: string };

/** The compatibility class of this machine. Throws `machine_unsupported` without a working criu. */
export async function machineFacts(exec: Exec, criu: string): Promise<MachineFacts> {
  const cpu = await readFile('/proc/cpuinfo', 'utf8');
  const flags = /^(?:flags|Features)\s*:\s*(.*)$/m.exec(cpu)?.[1] ?? '';
  return {
    arch: { x64: 'x86_64', arm64: 'aarch64' }[arch() as string] ?? arch(),
    cpuFeatures: [...new Set(flags.split(/\s+/).filter((flag) => flag !== ''))].sort(),
    kernel: release(),
    criu: await criuVersion(exec, criu),
  };
}

/** The version of criu, as `4.2.1`. */
export async function criuVersion(exec: Exec, criu: string): Promise<string> {
  const { stdout } = await exec(criu, ['--version'], { timeoutMs: 10_000 });
  const version = /Version:\s*(\d+(?:\.\d+)*)/.exec(stdout)?.[1];
  if (version === undefined)
    throw new RekindleError('machine_unsupported', `${criu} --version says ${JSON.stringify(stdout)}: is this CRIU?`);
  return version;
}

const CAP_SYS_RESOURCE = 24; // linux/capability.h

/**
 * What is preloaded into criu, as LD_PRELOAD has it, of the libraries in `dir` (images/agent, built); undefined for nothing. What this criu cannot
 * start with, as one that is linked with another version of GnuTLS, is left out.
 */
export async function criuPreload(exec: Exec, criu: string, dir: string): Promise<string | undefined> {
  const noTls = join(dir, 'no-tls.so');
  const { status, stderr } = await exec(criu, ['--version'], { env: { LD_PRELOAD: noTls }, timeoutMs: 10_000 });
  const libraries = [...((await hasSysResource()) ? [] : [join(dir, 'rlimit.so')]), ...(status === 0 && stderr === '' ? [noTls] : [])];
  return libraries.length === 0 ? undefined : libraries.join(':');
}

/** Whether this process may raise limits and read other users': where not, criu needs its preload. */
export async function hasSysResource(): Promise<boolean> {
  const effective = /^CapEff:\s*([0-9a-f]+)/m.exec(await readFile('/proc/self/status', 'utf8'))?.[1] ?? '0';
  return ((BigInt(`0x${effective}`) >> BigInt(CAP_SYS_RESOURCE)) & 1n) === 1n;
}
