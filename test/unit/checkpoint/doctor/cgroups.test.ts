import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import {
  cgroupFindings,
  cgroupLayout,
  cgroupMemberships,
  enabledControllers,
  groupDirectories,
} from '../../../../src/checkpoint/doctor/cgroups.ts';

// hybrid.* was recorded on a machine; the others are written after Debian 12, Ubuntu 18.04 and a pod of theirs.
const fixture = (name: string) => readFileSync(join(import.meta.dirname, '../../../fixtures/cgroups', name), 'utf8');

describe('the layout of cgroups is read from mountinfo', () => {
  test('one hierarchy is version 2', () => {
    const layout = cgroupLayout(fixture('v2.mountinfo'));

    expect(layout).toEqual({ kind: 'v2', hierarchies: [{ version: 2, at: '/sys/fs/cgroup', root: '/', controllers: [] }] });
  });

  test('a hierarchy per controller is version 1; controllers may share one, and options are no controllers', () => {
    const layout = cgroupLayout(fixture('v1.mountinfo'));

    expect(layout.kind).toBe('v1');
    expect(layout.hierarchies.map(({ controllers }) => controllers.join())).toEqual([
      'name=systemd',
      'cpu,cpuacct',
      'cpuset',
      'memory',
      'devices',
      'freezer',
      'net_cls,net_prio',
      'pids',
      'blkio',
    ]);
  });

  test('version 1 with a version 2 beside it is hybrid', () => {
    const layout = cgroupLayout(fixture('hybrid.mountinfo'));

    expect(layout.kind).toBe('hybrid');
    expect(layout.hierarchies.filter(({ version }) => version === 2).map(({ at }) => at)).toEqual(['/sys/fs/cgroup/unified']);
    expect(layout.hierarchies.flatMap(({ controllers }) => controllers)).toContain('memory');
  });

  test('the part that a container sees has its own root', () => {
    const layout = cgroupLayout(fixture('v1-container.mountinfo'));

    expect(layout.hierarchies.map(({ root }) => root)).toEqual(['/kubepods/burstable/pod1/abc', '/kubepods/burstable/pod1/abc']);
  });

  test('nothing mounted is none, and what a later mount hides does not count', () => {
    const hidden = `${fixture('v2.mountinfo')}40 31 0:40 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n`;

    expect(cgroupLayout('').kind).toBe('none');
    expect(cgroupLayout(hidden)).toEqual({ kind: 'none', hierarchies: [] });
  });
});

describe('the groups of a process are found as directories', () => {
  const layout = cgroupLayout(fixture('hybrid.mountinfo'));

  test('on a hybrid layout there is one in each hierarchy, version 2 included', () => {
    const directories = groupDirectories(layout, cgroupMemberships(fixture('hybrid.cgroup')));

    expect(directories).toContain('/sys/fs/cgroup/memory/session/one');
    expect(directories).toContain('/sys/fs/cgroup/unified');
    expect(directories).toContain('/sys/fs/cgroup/systemd');
    expect(directories).toHaveLength(cgroupMemberships(fixture('hybrid.cgroup')).length);
  });

  test('on version 2 there is one', () => {
    const directories = groupDirectories(cgroupLayout(fixture('v2.mountinfo')), cgroupMemberships('0::/kubepods.slice/pod:1/abc\n'));

    expect(directories).toEqual(['/sys/fs/cgroup/kubepods.slice/pod:1/abc']);
  });

  test('a group outside of what is mounted is left out', () => {
    const inContainer = cgroupLayout(fixture('v1-container.mountinfo'));
    const memberships = cgroupMemberships('9:memory:/kubepods/burstable/pod1/abc/rekindle\n4:cpu,cpuacct:/kubepods/other\n3:pids:/\n');

    expect(groupDirectories(inContainer, memberships)).toEqual(['/sys/fs/cgroup/memory/rekindle']);
  });
});

describe('cgroup findings', () => {
  const enabled = enabledControllers(fixture('hybrid.cgroups'));
  const levels = (mountinfo: string) => cgroupFindings(cgroupLayout(mountinfo), enabled).map(({ name, level }) => `${level} ${name}`);

  test('only enabled controllers of the kernel count', () => {
    expect(enabled).toContain('hugetlb');
    expect(enabledControllers('#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t0\t1\t0\ncpu\t1\t1\t1\n')).toEqual(['cpu']);
  });

  test('a whole hybrid layout is in order', () => {
    expect(levels(fixture('hybrid.mountinfo'))).toEqual(['ok layout']);
  });

  test('without the hugetlb hierarchy the remedy is the mount', () => {
    const without = fixture('hybrid.mountinfo').replace(/^.*hugetlb.*\n/m, '');

    const finding = cgroupFindings(cgroupLayout(without), enabled).find(({ name }) => name === 'hugetlb');

    expect(finding?.level).toBe('warn');
    expect(finding?.remedy).toContain('mount -t cgroup -o hugetlb cgroup /sys/fs/cgroup/hugetlb');
  });

  test('version 2 is called unproven, and none at all fails', () => {
    expect(levels(fixture('v2.mountinfo'))).toEqual(['warn layout']);
    expect(levels('')).toEqual(['fail layout']);
  });
});
