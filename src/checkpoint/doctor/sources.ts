import { access, constants, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { errno } from '../../lib/errors.ts';
import { type Finding, fail, ok, warn } from '../../lib/fact.ts';
import type { ContainerSpec, VolumeSpec } from '../../workloads/workload.ts';

const CONTAINER_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** The image's file and the command as far as they lie on this machine. */
export async function rootFilesystem(container: ContainerSpec): Promise<Finding[]> {
  if (container.image === undefined) return hostCommand(container);
  const name = 'image';
  const [, transport = '', place = ''] = /^(oci-archive|oci|docker-archive):(\/?[^:@]+)/.exec(container.image) ?? [];
  if (transport === '') return [ok(name, `${container.image} comes from a registry: asked for when a container is made`)];
  const file = transport === 'oci' ? join(place, 'index.json') : place;
  const why = await whyNot(file, constants.R_OK);
  return [why === undefined ? ok(name, container.image) : fail(name, `${file} ${why}`, 'build or copy the image there')];
}

async function hostCommand({ command, workdir = '/', env }: ContainerSpec): Promise<Finding[]> {
  const [program = ''] = command ?? [];
  const directory = await stat(workdir).catch(() => undefined);
  const places = program.includes('/')
    ? [resolve(workdir, program)]
    : (env.PATH ?? CONTAINER_PATH).split(':').map((dir) => join(dir, program));
  const reasons = await Promise.all(places.map((place) => whyNot(place, constants.X_OK)));
  const at = places.find((_, i) => reasons[i] === undefined);
  const tried = places.length === 1 ? `${places[0]} ${reasons[0]}` : `${program} is in none of ${places.length} directories of PATH`;
  return [
    at === undefined ? fail('command', `${tried} on this machine`, 'install it, or correct container.command') : ok('command', at),
    ...(directory?.isDirectory() ? [] : [fail('workdir', `${workdir} is no directory on this machine`, 'correct container.workdir')]),
  ];
}

/** Whether a volume's source is there, and whether two clones could share it. */
export async function volume(spec: VolumeSpec): Promise<Finding[]> {
  const name = `volume ${spec.at}`;
  if ('private' in spec) return [ok(name, 'private: what it holds travels with the snapshot')];
  const why = await whyNot(spec.from, constants.R_OK);
  if (why !== undefined) return [fail(name, `${spec.from} ${why}`, 'create it, or correct `from`')];
  if (spec.readOnly) return [ok(name, `${spec.from}, read-only`)];
  return [
    warn(
      name,
      `${spec.from} is shared and writable: with a file open for writing there, the application cannot be checkpointed`,
      'make it readOnly or private, or close such files before the checkpoint',
    ),
  ];
}

async function whyNot(file: string, mode: number): Promise<string | undefined> {
  try {
    await access(file, mode);
    return (mode & constants.X_OK) !== 0 && (await stat(file)).isDirectory() ? 'is a directory' : undefined;
  } catch (error) {
    return errno(error) === 'ENOENT' || errno(error) === 'ENOTDIR' ? 'does not exist' : `cannot be used (${errno(error)})`;
  }
}
