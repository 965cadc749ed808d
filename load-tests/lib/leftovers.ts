import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { exec, mustExec } from '../../src/lib/exec.ts';

/** How many of each there are; `files` are those in the engine's own directories, `descriptors` this process' own. */
export type Census = Readonly<Record<'processes' | 'mounts' | 'namespaces' | 'cgroups' | 'veths' | 'files' | 'descriptors', number>>;

/** Counts what belongs to one engine, on a machine where others may run: what names its directories, or one of the containers it ever had. */
export async function census(engine: { readonly stateDir: string; readonly runDir: string }, uids: ReadonlySet<string>): Promise<Census> {
  const dirs = [engine.stateDir, engine.runDir];
  const ours = (text: string): boolean => dirs.some((dir) => text.includes(dir)) || [...uids].some((uid) => text.includes(uid));
  const [processes, mountinfo, netns, groups, links, files] = await Promise.all([
    processTexts(),
    readFile('/proc/self/mountinfo', 'utf8'),
    readdir('/run/netns').catch((): string[] => []),
    cgroupNames(),
    mustExec(exec, 'ip', ['-brief', 'link'], { timeoutMs: 10_000 }),
    // Not into mounts: below a container's root lies the whole machine.
    mustExec(exec, 'find', [...dirs, '-xdev', '-printf', '.'], { timeoutMs: 30_000 }),
  ]);
  // When nothing else is being read.
  const descriptors = await readdir('/proc/self/fd');
  // The bridge's end of a cable is named after the container (src/local/network.ts).
  const cables = new Set([...uids].map((uid) => `rk${uid.replaceAll('-', '').slice(0, 12)}`));
  return {
    processes: processes.filter(ours).length,
    mounts: mountinfo.split('\n').filter(ours).length,
    namespaces: netns.filter(ours).length,
    cgroups: groups.filter((name) => uids.has(name)).length,
    veths: links.stdout.split('\n').filter((line) => cables.has(line.split(/[@ ]/)[0] ?? '')).length,
    files: files.stdout.length,
    descriptors: descriptors.length,
  };
}

/** Command line and cgroups of every other process. */
async function processTexts(): Promise<string[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid);
  const read = (pid: string, file: string) => readFile(`/proc/${pid}/${file}`, 'utf8').catch(() => '');
  return Promise.all(pids.map(async (pid) => `${await read(pid, 'cmdline')} ${await read(pid, 'cgroup')}`));
}

async function cgroupNames(): Promise<string[]> {
  const hierarchies = await readdir('/sys/fs/cgroup');
  const found = await Promise.all(
    ['', ...hierarchies].map((name) => readdir(join('/sys/fs/cgroup', name, 'rekindle')).catch((): string[] => [])),
  );
  return found.flat();
}
