import { randomUUID } from 'node:crypto';
import { mkdir, rename, rm, writeFile } from 'node:fs/promises';

import { RekindleError } from '../lib/errors.ts';
import type { Exec } from '../lib/exec.ts';
import { TRIAL_ADDRESS } from '../lib/trial-network.ts';
import type { WorkloadSpec } from '../workloads/workload.ts';
import type { AddressPool } from './addresses.ts';
import type { Cgroups } from './cgroups.ts';
import { writeEtcFiles } from './etc-files.ts';
import type { Images, UnpackedImage } from './images.ts';
import { type LocalNetwork, netnsPath } from './network.ts';
import { identify } from './processes.ts';
import { type ContainerRecord, containerPaths, createRecord, writeRecord } from './record.ts';
import { ContainerFiles } from './root.ts';
import type { Runtime, RuntimeName } from './runtime.ts';
import { commandOf, ociSpec } from './spec.ts';
import { resolveUser } from './user.ts';

export type BuilderDeps = {
  readonly exec: Exec;
  readonly stateDir: string;
  readonly slotDir: string;
  readonly cgroups: Cgroups;
  readonly images: Images;
  readonly network: LocalNetwork;
  readonly pool: AddressPool;
  readonly runtimeName: RuntimeName;
  readonly runtimes: Readonly<Record<RuntimeName, Runtime>>;
};

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** The machine's own root as an image. */
const HOST_IMAGE: UnpackedImage = {
  digest: 'host',
  rootDir: '/',
  defaults: { entrypoint: [], cmd: [], env: [], workdir: '/', user: undefined },
};

/** Makes and starts containers. What a failure leaves behind is the caller's to remove: the record on disk says what there may be. */
export class ContainerBuilder {
  readonly #deps: BuilderDeps;

  constructor(deps: BuilderDeps) {
    this.#deps = deps;
  }

  /** Decides everything about a new container that can be decided before anything is made, and fetches its image. */
  async plan(
    workload: WorkloadSpec,
    options: { uid?: string; name?: string; trial: boolean; pool?: { readonly revision: string }; signal: AbortSignal },
  ): Promise<{ record: ContainerRecord; image: UnpackedImage }> {
    const { images, runtimeName } = this.#deps;
    const uid = options.uid ?? randomUUID();
    if (!UUID.test(uid)) throw new RekindleError('usage', `${uid} cannot be a container's uid: that is a UUID in small letters`);
    const name = options.name ?? `${workload.name}-${uid.slice(0, 6)}`;
    if (!/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(name))
      throw new RekindleError('usage', `${name} cannot be a container's name: it is its host name, so use up to 63 of a-z, 0-9 and -`);
    const { container } = workload;
    if (container.rootfs !== 'host' && container.image === undefined)
      throw new RekindleError('config_invalid', `workload ${workload.name} has neither image nor rootfs: give one`);
    const image = container.image === undefined ? HOST_IMAGE : await images.get(container.image, options.signal);
    if (commandOf(container, image.defaults).length === 0)
      throw new RekindleError('config_invalid', `workload ${workload.name} has no command, and neither has its image: give one`);
    const record: ContainerRecord = {
      version: 1,
      uid,
      name,
      workload,
      trial: options.trial,
      runtime: runtimeName,
      creator: await self(),
      phase: 'creating',
      restarts: 0,
      addresses: [],
      imageDigest: image.digest,
      volumes: container.volumes.map((volume) => ({
        at: volume.at,
        kind: 'private' in volume ? ('private' as const) : ('shared' as const),
      })),
      createdAtMs: Date.now(),
      ...(options.pool === undefined ? {} : { pool: { revision: options.pool.revision, parks: 0 } }),
    };
    return { record, image };
  }

  /** Makes and starts the container. `onPid` is told the record as soon as PID 1 exists, before it runs. */
  async build(
    planned: { record: ContainerRecord; image: UnpackedImage },
    onPid: (record: ContainerRecord) => void,
    signal: AbortSignal,
  ): Promise<ContainerRecord> {
    const { image } = planned;
    const { stateDir, exec, pool, network } = this.#deps;
    const { workload, uid, name, trial } = planned.record;
    const { container } = workload;
    const user = await resolveUser(image.rootDir, container.user ?? image.defaults.user);
    await createRecord(stateDir, planned.record);
    const taken = trial ? undefined : await pool.take(uid);
    const record = taken === undefined ? planned.record : { ...planned.record, address: taken.v4, addresses: [taken.v4, taken.v6] };
    const paths = containerPaths(stateDir, uid);
    const files = new ContainerFiles({ exec, paths });
    const making = files.makeVolumes(container.volumes, trial, signal);
    await settled([
      taken === undefined ? network.attachTrial(uid, signal) : network.attach(uid, taken, signal),
      files.mountRoot(image.rootDir, signal),
      making,
      writeEtcFiles(paths.etc, { name, addresses: trial ? [TRIAL_ADDRESS] : record.addresses, trial }),
      writeRecord(stateDir, record),
    ]);
    const spec = ociSpec({
      uid,
      name,
      workloadName: workload.name,
      restoreDeadlineSeconds: workload.restore.deadlineSeconds,
      container,
      image: image.defaults,
      user,
      address: taken?.v4 ?? TRIAL_ADDRESS,
      rootDir: paths.root,
      netns: netnsPath(uid),
      cgroupVersion: this.#deps.cgroups.version,
      architecture: process.arch,
      slotDir: this.#deps.slotDir,
      etcDir: paths.etc,
      volumes: await making,
    });
    await writeFile(paths.spec, JSON.stringify(spec), { mode: 0o600 });
    return this.#start(record, onPid, signal);
  }

  /**
   * Starts an ended container again, from its own configuration on disk. `over`: as if it had never run, with empty private volumes and a log of its
   * own.
   */
  async rebuild(
    ended: ContainerRecord,
    options: { readonly over: boolean; readonly onPid: (record: ContainerRecord) => void; readonly signal: AbortSignal },
  ): Promise<ContainerRecord> {
    const { over, onPid, signal } = options;
    const { stateDir, exec, images, runtimes } = this.#deps;
    const paths = containerPaths(stateDir, ended.uid);
    const image = ended.imageDigest === 'host' ? HOST_IMAGE : await images.unpacked(ended.imageDigest);
    if (image === undefined)
      throw new RekindleError(
        'image_unavailable',
        `the image ${ended.imageDigest} of container ${ended.name} is no longer on this machine: remove the container and create a new one`,
      );
    const { init: _, ...rest } = ended;
    const next = over ? { restarts: 0, ...afterOver(ended) } : { restarts: ended.restarts + 1 };
    const record: ContainerRecord = { ...rest, ...next, creator: await self(), phase: 'creating' };
    await writeRecord(stateDir, record);
    await runtimes[record.runtime].delete(record.uid);
    await Promise.all([paths.exit, paths.pid, paths.conmonPid, paths.sync].map((file) => rm(file, { force: true })));
    const files = new ContainerFiles({ exec, paths });
    await files.unmountRoot();
    if (over) {
      await files.removeVolumes();
      // The paths are those that the configuration names.
      await files.makeVolumes(record.workload.container.volumes, false, signal);
      await rename(paths.log, paths.oldLog).catch(() => undefined);
    }
    await files.mountRoot(image.rootDir, signal);
    return this.#start(record, onPid, signal);
  }

  async #start(record: ContainerRecord, onPid: (record: ContainerRecord) => void, signal: AbortSignal): Promise<ContainerRecord> {
    const { stateDir, runtimes } = this.#deps;
    const paths = containerPaths(stateDir, record.uid);
    const runtime = runtimes[record.runtime];
    await mkdir(paths.exitDir, { recursive: true });
    const pid = await runtime.create(record.uid, record.name, paths, signal);
    const init = identify(pid);
    if (init === undefined) throw new RekindleError('container_failed', `container ${record.name} ended before it was started`);
    // The slot says hello as soon as it runs: whoever hears it must find its container.
    const made = { ...record, init };
    onPid(made);
    await writeRecord(stateDir, made);
    await runtime.start(record.uid, signal);
    const running = { ...made, phase: 'running' as const };
    await writeRecord(stateDir, running);
    onPid(running);
    return running;
  }
}

/** What a pool's container is in its next life. The state that it was suspended with stays until it is resumed from that. */
function afterOver({ pool }: ContainerRecord): Pick<ContainerRecord, 'pool'> {
  if (pool === undefined) return {};
  const { started: _, ...kept } = pool;
  return { pool: { ...kept, parks: pool.parks + 1 } };
}

async function self() {
  const own = identify(process.pid);
  if (own === undefined) throw new RekindleError('machine_unsupported', '/proc does not show this process: mount /proc');
  return own;
}

/** Waits for all to end, then throws the first failure: nothing is still being made when the caller begins to clean up. */
async function settled(making: readonly Promise<unknown>[]): Promise<void> {
  await Promise.allSettled(making);
  await Promise.all(making);
}
