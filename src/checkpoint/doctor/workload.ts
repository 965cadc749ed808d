import { access, statfs } from 'node:fs/promises';
import { bytesText, examine, type Fact, type Finding, fail, ok, warn } from '../../lib/fact.ts';
import { coldReason } from '../../workloads/normalise.ts';
import type { ContainerSpec, WorkloadSpec } from '../../workloads/workload.ts';
import { sharedState } from './machine.ts';
import { rootFilesystem, volume } from './sources.ts';
import { existing } from './storage.ts';

/** A restore runs criu in the slot's own groups; below this both are throttled or killed before they are done. */
const SMALL_MEMORY_MIB = 64;
const SMALL_CPUS = 0.5;

export type WorkloadDeps = {
  readonly stateDir: string;
  /** Bytes of its newest snapshot, if there is one. */
  readonly lastSnapshotBytes: number | undefined;
};

/** Whether a workload can be checkpointed as far as its description tells, and why not. Never throws. */
export function examineWorkload(spec: WorkloadSpec, deps: WorkloadDeps): Promise<Fact[]> {
  const { container } = spec;
  return examine(`workload ${spec.name}`, {
    identity: () => identity(spec),
    readiness: () => readiness(container),
    'root filesystem': () => rootFilesystem(container),
    volumes: async () => (await Promise.all(container.volumes.map(volume))).flat(),
    terminal: () => ok('terminal', 'none: containers of rekindle have no terminal'),
    'system calls': () => systemCalls(container),
    limits: () => limits(container),
    'random numbers': () => randomNumbers(spec),
    'equal in every clone': () => equalState(spec),
    'merged memory': async () =>
      spec.restore.mergeMemory
        ? mergedMemory(
            await access('/sys/kernel/mm/ksm/run').then(
              () => true,
              () => false,
            ),
          )
        : [],
    'disk room': async () => {
      const { bavail, bsize } = await statfs(await existing(deps.stateDir));
      return diskRoom(container, deps.lastSnapshotBytes, bavail * bsize);
    },
  });
}

export function identity(spec: Pick<WorkloadSpec, 'container' | 'restore'>): Finding {
  const reason = coldReason(spec);
  if (reason !== undefined) return fail('identity', reason);
  const names = Object.keys(spec.container.instanceEnv).join(', ');
  if (names === '') return ok('identity', 'no environment variable differs per instance');
  return spec.restore.identity === 'file'
    ? ok('identity', `clones find their own ${names} in ${spec.restore.identityFile}; the application must read it`)
    : warn('identity', `clones have the seed's ${names} (restore.identity: ignore)`);
}

export function readiness({ readiness: probe, ports }: Pick<ContainerSpec, 'readiness' | 'ports'>): Finding {
  if (probe !== undefined) return ok('readiness', 'has a check');
  if (ports.length > 0)
    return ok('readiness', `ready when port ${ports[0]} accepts connections; a check of its own (container.readiness) knows better`);
  return fail(
    'readiness',
    'neither container.readiness nor container.ports: nothing tells when it is ready to be checkpointed',
    'add one of them',
  );
}

export function systemCalls({ seccomp, capabilities }: Pick<ContainerSpec, 'seccomp' | 'capabilities'>): Finding[] {
  const mayNest = capabilities?.includes('CAP_SYS_ADMIN') === true;
  return [
    seccomp === 'default'
      ? ok('system calls', 'the default filter: io_uring, which cannot be checkpointed, is refused')
      : warn(
          'system calls',
          'unconfined: the application (Node ≥ 22 for one) may open an io_uring, which cannot be checkpointed',
          'use container.seccomp: default',
        ),
    ...(mayNest
      ? [
          warn(
            'capabilities',
            'CAP_SYS_ADMIN lets it make namespaces and mounts of its own, which may not be restorable',
            'leave it out if you can',
          ),
        ]
      : []),
  ];
}

export function limits({ memoryMiB, cpus }: Pick<ContainerSpec, 'memoryMiB' | 'cpus'>): Finding[] {
  return [
    memoryMiB !== undefined && memoryMiB < SMALL_MEMORY_MIB
      ? warn(
          'memory limit',
          `${memoryMiB} MiB: the restore runs below the same limit and may be killed by it; it starts cold then`,
          `give it ${SMALL_MEMORY_MIB} MiB or more`,
        )
      : ok('memory limit', memoryMiB === undefined ? 'none' : `${memoryMiB} MiB`),
    ...(cpus !== undefined && cpus < SMALL_CPUS
      ? [
          warn(
            'CPU limit',
            `${cpus} cores: the restore is throttled by the same limit and takes as much longer`,
            `give it ${SMALL_CPUS} or more`,
          ),
        ]
      : []),
  ];
}

export function randomNumbers({ container, checkpoint }: Pick<WorkloadSpec, 'container' | 'checkpoint'>): Finding {
  const name = 'random numbers';
  if (checkpoint.allowSharedRandom)
    return warn(name, 'clones may draw the same ones (checkpoint.allowSharedRandom)', 'leave it out unless nothing secret is drawn');
  if (!container.preload)
    return warn(
      name,
      'without the preloaded library (container.preload: false) clones that use OpenSSL draw the same ones, and no snapshot is published',
      'use container.preload: true',
    );
  return ok(name, "OpenSSL's are renewed in each clone, and compared between two before a snapshot is published");
}

function equalState({ restore }: Pick<WorkloadSpec, 'restore'>): Finding {
  const { name, says, remedy } = sharedState();
  return restore.after === undefined
    ? warn(name, says, remedy)
    : ok(name, 'restore.after is there to seed again what the application seeded before the checkpoint');
}

function mergedMemory(hasKsm: boolean): Finding {
  return hasKsm
    ? ok('merged memory', 'equal pages of its clones are merged while KSM runs: a timing side channel between tenants')
    : warn('merged memory', 'this kernel has no KSM: every clone keeps a copy of its own', 'leave restore.mergeMemory out');
}

/** The last snapshot says best how large the next will be; else its memory limit is the most. */
export function diskRoom(container: Pick<ContainerSpec, 'memoryMiB'>, lastSnapshotBytes: number | undefined, freeBytes: number): Finding {
  const name = 'disk room';
  const most = lastSnapshotBytes ?? (container.memoryMiB === undefined ? undefined : container.memoryMiB * 1024 * 1024);
  if (most === undefined) return ok(name, `${bytesText(freeBytes)} free; how large its snapshot will be is not known yet`);
  const says = `${lastSnapshotBytes === undefined ? 'a snapshot has up to about' : 'the last snapshot has'} ${bytesText(most)}, ${bytesText(freeBytes)} are free`;
  if (most <= freeBytes) return ok(name, says);
  const remedy = 'free some, or `rekindle snapshots prune`';
  return lastSnapshotBytes === undefined ? warn(name, says, remedy) : fail(name, says, remedy);
}
