import { access, constants } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { errno, RekindleError } from '../../lib/errors.ts';
import type { Exec } from '../../lib/exec.ts';
import { examine, type Fact, type Finding, fail, ok, warn } from '../../lib/fact.ts';
import { hasSysResource } from '../machine.ts';

const SETUP = 'run scripts/setup';
const TIMEOUT_MS = 2_500;

export type ToolsDeps = { readonly exec: Exec; readonly buildDir: string; readonly runtime: 'crun' | 'runc' | undefined };

/** Programs that rekindle runs, and its own. */
export function examineTools({ exec, buildDir, runtime }: ToolsDeps): Promise<Fact[]> {
  const agent = (name: string) => join(buildDir, 'agent', name);
  const slot = (name: string) => join(buildDir, 'slot', name);
  const optional = (name: string, without: string) => async () =>
    programFinding(name, await programVersion(exec, name), { level: 'warn', without });
  return examine('programs', {
    Node: () => nodeVersion(process.versions.node, availableParallelism()),
    'container runtime': async () => runtimeFinding(runtime, await programVersion(exec, 'crun'), await programVersion(exec, 'runc')),
    conmon: async () =>
      programFinding('conmon', await programVersion(exec, 'conmon'), { level: 'fail', without: 'no container can be started' }),
    skopeo: optional('skopeo', 'no images can be fetched, only `rootfs: host` works'),
    umoci: optional('umoci', 'no images can be unpacked, only `rootfs: host` works'),
    'redis-server': optional('redis-server', '`rekindle up` needs it; the demo and single commands do not'),
    slot: () => runsFinding(exec, slot('slot'), ['--version'], /^rekindle slot/),
    helper: () => runsFinding(exec, agent('helper'), [], /usage: helper/),
    connect: () => runsFinding(exec, agent('connect'), [], /usage: connect/),
    'random-probe': () => runsFinding(exec, agent('random-probe'), [], /usage: random-probe/),
    'preloaded files': async () => {
      const files = [
        slot('entropy.so'),
        slot('random-uuid.cjs'),
        agent('no-tls.so'),
        ...((await hasSysResource()) ? [] : [agent('rlimit.so')]),
      ];
      const missing = (await Promise.all(files.map(async (file) => ((await readable(file)) ? [] : [file])))).flat();
      return missing.length === 0
        ? ok('preloaded files', files.map((file) => file.slice(buildDir.length + 1)).join(', '))
        : fail('preloaded files', `not built: ${missing.join(', ')}`, SETUP);
    },
  });
}

/** The first version number that `PROGRAM --version` prints (`?` if none); undefined when it is not installed. */
export async function programVersion(exec: Exec, program: string): Promise<string | undefined> {
  try {
    const { stdout, stderr } = await exec(program, ['--version'], { timeoutMs: TIMEOUT_MS });
    return versionIn(`${stdout}\n${stderr}`);
  } catch (error) {
    if (error instanceof RekindleError && error.code === 'machine_unsupported') return undefined;
    throw error;
  }
}

export function versionIn(text: string): string {
  return /\d+\.\d+(?:\.\d+)?(?:[-+~]\S+)?/.exec(text)?.[0] ?? '?';
}

export function programFinding(
  name: string,
  version: string | undefined,
  missing: { readonly level: 'warn' | 'fail'; readonly without: string },
): Finding {
  if (version !== undefined) return ok(name, version);
  return (missing.level === 'warn' ? warn : fail)(name, `not installed: ${missing.without}`, SETUP);
}

/** crun is taken where both are installed, unless the configuration names one. */
export function runtimeFinding(wanted: 'crun' | 'runc' | undefined, crun: string | undefined, runc: string | undefined): Finding {
  const name = 'container runtime';
  const used = wanted ?? (crun === undefined ? 'runc' : 'crun');
  const versions = { crun, runc };
  if (versions[used] === undefined)
    return fail(
      name,
      wanted === undefined ? 'neither crun nor runc is installed' : `REKINDLE_RUNTIME says ${wanted}, which is not installed`,
      SETUP,
    );
  const other = used === 'crun' ? 'runc' : 'crun';
  return ok(name, `${used} ${versions[used]}${versions[other] === undefined ? '' : ` (${other} ${versions[other]} is there too)`}`);
}

export function nodeVersion(version: string, cores: number): Finding {
  const says = `${version}, ${cores} core${cores === 1 ? '' : 's'}: so many restores run at once`;
  return Number(version.split('.')[0]) >= 24
    ? ok('Node', says)
    : fail('Node', `${version}: 24 or newer is needed`, `${SETUP}, and start rekindle with scripts/rekindle`);
}

/** One of our own programs, by what it says to harmless arguments. */
async function runsFinding(exec: Exec, file: string, args: readonly string[], says: RegExp): Promise<Finding> {
  const name = file.split('/').at(-1) ?? file;
  const why = await access(file, constants.X_OK).then(
    () => undefined,
    (error: unknown) => (errno(error) === 'ENOENT' ? 'is not built' : 'may not be run'),
  );
  if (why !== undefined) return fail(name, `${file} ${why}`, SETUP);
  const { stdout, stderr, status } = await exec(file, args, { timeoutMs: TIMEOUT_MS });
  const first = `${stdout}${stderr}`.split('\n')[0] ?? '';
  return says.test(`${stdout}${stderr}`)
    ? ok(name, 'runs')
    : fail(
        name,
        `${file} does not do what it should: it ended with ${status} and said ${JSON.stringify(first)}`,
        'build it again: make -C images clean all',
      );
}

function readable(file: string): Promise<boolean> {
  return access(file, constants.R_OK).then(
    () => true,
    () => false,
  );
}
