import { closeSync, existsSync, openSync, readFileSync, write } from 'node:fs';
import { join } from 'node:path';
import { type CgroupLayout, cgroupLayout, cgroupMemberships, groupDirectories } from './doctor/cgroups.ts';

/**
 * The kernel lets a process into a cgroup only after a grace period of RCU (cgroup_threadgroup_rwsem in kernel/cgroup/cgroup.c), on a busy machine more than ten
 * milliseconds, unless another has entered one just before. That can be while it is still decided whether to restore at all: this process enters the one that it is in.
 */
export class CgroupGate {
  readonly #self: string;
  readonly #layout: CgroupLayout;
  #opening = false;

  /** `self`: the files of this process (/proc/self), whose mounts show where its groups are. */
  constructor(self = '/proc/self') {
    this.#self = self;
    // Wherever they are mounted. A mount of more or less than the process's own namespace has another root: there the same name is another group.
    const layout = cgroupLayout(readFileSync(join(self, 'mountinfo'), 'utf8'), '');
    this.#layout = { ...layout, hierarchies: layout.hierarchies.filter(({ root }) => root === '/') };
  }

  /** Does not wait: only the write does, in another thread, and that begins at once. A machine that refuses is slower, nothing else. */
  open(): void {
    if (this.#opening) return;
    const procs = this.#ownGroup();
    if (procs === undefined) return;
    this.#opening = true;
    write(procs, String(process.pid), () => {
      this.#opening = false;
      closeSync(procs);
    });
  }

  #ownGroup(): number | undefined {
    try {
      const memberships = cgroupMemberships(readFileSync(join(this.#self, 'cgroup'), 'utf8'));
      const files = groupDirectories(this.#layout, memberships).map((group) => join(group, 'cgroup.procs'));
      const file = files.find((one) => existsSync(one));
      return file === undefined ? undefined : openSync(file, 'w');
    } catch {
      return undefined;
    }
  }
}
