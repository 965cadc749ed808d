import { existsSync, readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';

/**
 * The kernel lets a process into a cgroup only after a grace period of RCU (cgroup_threadgroup_rwsem in kernel/cgroup/cgroup.c), on a busy machine more than ten
 * milliseconds, unless another has entered one just before. That can be while it is still decided whether to restore at all: this process enters the one that it is in.
 */
export class CgroupGate {
  readonly #self: string;
  #opening = false;

  /** `self`: the files of this process (/proc/self), whose mounts show where its groups are. */
  constructor(self = '/proc/self') {
    this.#self = self;
  }

  /** Does not wait. A machine that refuses is slower, nothing else. */
  open(): void {
    if (this.#opening) return;
    const file = ownProcs(this.#self);
    if (file === undefined) return;
    this.#opening = true;
    const done = () => {
      this.#opening = false;
    };
    void writeFile(file, String(process.pid)).then(done, done);
  }
}

/** `cgroup.procs` of the group that a process is in, in any hierarchy whose mount here shows it by the name that it has for the process. */
function ownProcs(self: string): string | undefined {
  const read = (name: string): string[] => {
    try {
      return readFileSync(join(self, name), 'utf8').split('\n');
    } catch {
      return [];
    }
  };
  // A mount of more or less than the process's own namespace has another root: there the same name is another group.
  const mounts = read('mountinfo').filter((line) => line.split(' ')[3] === '/' && / - cgroup2? /.test(line));
  for (const line of read('cgroup')) {
    const [, controllers, group] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    if (controllers === undefined || group === undefined) continue;
    const mount = mounts.find((one) => {
      const [type, , options = ''] = (one.split(' - ')[1] ?? '').split(' ');
      return controllers === '' ? type === 'cgroup2' : options.split(',').includes(controllers.split(',')[0] ?? '');
    });
    const file = mount === undefined ? undefined : join(mount.split(' ')[4] ?? '', group, 'cgroup.procs');
    if (file !== undefined && existsSync(file)) return file;
  }
  return undefined;
}
