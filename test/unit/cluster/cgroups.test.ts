import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { PodGroups, parseMembership } from '../../../src/cluster/cgroups.ts';

const POD = '8919d397-f545-4664-bf69-c69ded9d2596';
const POD_ = POD.replaceAll('-', '_');
const ID = 'fc6bcd9b3ec51617cb7e0a9d5ec43c3c47cc0a51da191df47f98eb0ceb7861b4';
const OTHER_ID = '0f6b339f9c32f54ac4ee7fbe8b8ddbbbf3e4dc3ecbc15b9cc7cf6d17be52e6f4';
const STATIC_POD = '24eb0a3c1993d1f940b60036cdddefbf';

/** Lines of /proc/PID/cgroup: the first was read in the test cluster, the others have the forms that these layouts are known for. */
const LAYOUTS: Readonly<Record<string, string>> = {
  'version 1 and an unused 2 beside it, cgroupfs, a cgroupRoot': `10:hugetlb:/rekindle-node1/kubepods/burstable/pod${POD}/${ID}\n9:name=systemd:/rekindle-node1/kubepods/burstable/pod${POD}/${ID}\n1:cpu:/rekindle-node1/kubepods/burstable/pod${POD}/${ID}\n0::/rekindle-node1/kubepods/burstable/pod${POD}/${ID}\n`,
  'hybrid, where version 2 holds nothing': `0::/\n12:cpu,cpuacct:/kubepods/besteffort/pod${POD}/${ID}\n`,
  'version 1, cgroupfs, Guaranteed': `11:memory:/kubepods/pod${POD}/${ID}\n`,
  'version 1, systemd, containerd': `11:memory:/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${POD_}.slice/cri-containerd-${ID}.scope\n`,
  'version 2, systemd, containerd': `0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${POD_}.slice/cri-containerd-${ID}.scope\n`,
  'version 2, systemd, containerd, Guaranteed': `0::/kubepods.slice/kubepods-pod${POD_}.slice/cri-containerd-${ID}.scope\n`,
  'version 2, systemd, containerd, BestEffort': `0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod${POD_}.slice/cri-containerd-${ID}.scope\n`,
  'version 2, systemd, CRI-O': `0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${POD_}.slice/crio-${ID}.scope\n`,
  'version 2, systemd, CRI-O with crun, which makes a group of its own': `0::/kubepods.slice/kubepods-pod${POD_}.slice/crio-${ID}.scope/container\n`,
  'version 2, cgroupfs, CRI-O': `0::/kubepods/burstable/pod${POD}/crio-${ID}\n`,
  'version 2, cgroupfs, k3s': `0::/kubepods/besteffort/pod${POD}/${ID}\n`,
  'k3s without root': `0::/user.slice/user-1000.slice/user@1000.service/k3s-rootless.slice/kubepods/burstable/pod${POD}/${ID}\n`,
  'kind, seen from inside': `0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod${POD_}.slice/cri-containerd-${ID}.scope\n`,
  'kind, seen from the machine': `0::/system.slice/docker-${OTHER_ID}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod${POD_}.slice/cri-containerd-${ID}.scope\n`,
  'kind in a pod': `4:memory:/kubepods/podb41662f7-b03a-4c65-8ef9-6e4e55c3cf27/${OTHER_ID}/docker/${OTHER_ID}/kubelet/kubepods/burstable/pod${POD}/${ID}\n`,
  'containerd that was not told of systemd': `12:cpu,cpuacct:/system.slice/containerd.service/kubepods-besteffort-pod${POD_}.slice:cri-containerd:${ID}\n`,
  'as another cgroup namespace shows it': `0::/../../pod${POD}/${ID}\n`,
  'a group that the container made': `0::/kubepods/pod${POD}/${ID}/workers/one\n`,
};

describe('the container of a process is known from its cgroups', () => {
  test.each(Object.entries(LAYOUTS))('%s', (_, text) => {
    expect(parseMembership(text)).toEqual({ podUid: POD, containerId: ID });
  });

  test('also that of a static pod, whose uid is no UUID', () => {
    expect(parseMembership(`0::/kubepods/burstable/pod${STATIC_POD}/${ID}\n`)).toEqual({ podUid: STATIC_POD, containerId: ID });
  });

  test.each([
    ['the machine itself', '0::/\n'],
    ['a service', '0::/system.slice/containerd.service\n1:name=systemd:/system.slice/kubelet.service\n'],
    ['a container of no pod', `0::/system.slice/docker-${ID}.scope\n`],
    ["a pod's own group", `0::/kubepods.slice/kubepods-pod${POD_}.slice\n`],
    ["CRI-O's watcher of a container", `0::/kubepods.slice/kubepods-pod${POD_}.slice/crio-conmon-${ID}.scope\n`],
    ['a group with the name of a pod that is none', `0::/kubepods/pod../${ID}\n`],
    ['nothing', ''],
  ])('%s is in none', (_, text) => {
    expect(parseMembership(text)).toBeUndefined();
  });
});

describe('the processes of a container are found by its pod', () => {
  const made: string[] = [];
  afterEach(() => {
    for (const dir of made.splice(0)) rmSync(dir, { recursive: true });
  });
  /** Directories as a hierarchy of cgroups has them, with a file of processes in each that is named. */
  function aNode(mounts: string, groups: Readonly<Record<string, readonly number[]>>): { root: string; mounts: string; now: () => number } {
    const root = mkdtempSync(path.join(tmpdir(), 'rekindle-cgroups-'));
    made.push(root);
    for (const [group, pids] of Object.entries(groups)) {
      mkdirSync(path.join(root, group), { recursive: true });
      writeFileSync(path.join(root, group, 'cgroup.procs'), pids.map((pid) => `${pid}\n`).join(''));
    }
    let now = 0;
    return {
      root,
      mounts,
      now: () => {
        now += 10_000;
        return now;
      },
    };
  }
  const V1 =
    '36 31 0:33 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n39 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n';
  const V2 = '27 20 0:24 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n';
  const HYBRID = `${V1}41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n`;
  const systemd = (parent: string) => `${parent}-pod${POD_}.slice`;

  test.each([
    ['version 1, cgroupfs', V1, `sys/fs/cgroup/pids/kubepods/burstable/pod${POD}/${ID}`],
    ['version 1 with a cgroupRoot', V1, `sys/fs/cgroup/pids/nodes/one/kubepods/pod${POD}/${ID}`],
    ['hybrid', HYBRID, `sys/fs/cgroup/pids/kubepods/pod${POD}/${ID}`],
    [
      'version 2, systemd',
      V2,
      `sys/fs/cgroup/kubepods.slice/kubepods-besteffort.slice/${systemd('kubepods-besteffort')}/cri-containerd-${ID}.scope`,
    ],
    ['version 2, systemd, Guaranteed', V2, `sys/fs/cgroup/kubepods.slice/${systemd('kubepods')}/cri-containerd-${ID}.scope`],
    ['CRI-O', V2, `sys/fs/cgroup/kubepods.slice/${systemd('kubepods')}/crio-${ID}.scope`],
    ['kind', V2, `sys/fs/cgroup/kubelet.slice/kubelet-kubepods.slice/${systemd('kubelet-kubepods')}/cri-containerd-${ID}.scope`],
    [
      'containerd that was not told of systemd',
      V2,
      `sys/fs/cgroup/system.slice/containerd.service/${systemd('kubepods')}:cri-containerd:${ID}`,
    ],
    ['mounted elsewhere', V2.replace('/sys/fs/cgroup', '/mnt/my\\040groups'), `mnt/my groups/kubepods/pod${POD}/${ID}`],
  ])('%s', (_, mounts, group) => {
    const groups = new PodGroups(aNode(mounts, { [group]: [20, 7], [`${group}/container`]: [9] }));

    expect(groups.processes(POD, ID)).toEqual([7, 9, 20]);
    expect(groups.containers(POD)).toEqual([ID]);
    expect(groups.processes(POD, OTHER_ID)).toEqual([]);
    expect(groups.processes('00000000-0000-4000-8000-000000000000', ID)).toEqual([]);
  });

  test("CRI-O's watcher is no container of the pod", () => {
    const pod = `sys/fs/cgroup/kubepods.slice/${systemd('kubepods')}`;
    const groups = new PodGroups(aNode(V2, { [`${pod}/crio-${ID}.scope`]: [7], [`${pod}/crio-conmon-${ID}.scope`]: [6] }));

    expect(groups.containers(POD)).toEqual([ID]);
    expect(groups.processes(POD, ID)).toEqual([7]);
  });

  test('a pod that came later is found, and one that is gone is not', () => {
    const node = aNode(V2, { [`sys/fs/cgroup/kubepods/burstable/pod${POD}/${ID}`]: [7] });
    const groups = new PodGroups(node);
    const later = '11111111-0000-4000-8000-000000000000';
    const dir = path.join(node.root, `sys/fs/cgroup/kubepods/besteffort/pod${later}/${OTHER_ID}`);

    expect(groups.processes(later, OTHER_ID)).toEqual([]);
    mkdirSync(dir, { recursive: true });
    writeFileSync(path.join(dir, 'cgroup.procs'), '8\n');

    expect(groups.processes(later, OTHER_ID)).toEqual([8]);
    rmSync(path.dirname(dir), { recursive: true });
    expect(groups.processes(later, OTHER_ID)).toEqual([]);
  });

  test('a uid that is none leads nowhere', () => {
    const groups = new PodGroups(aNode(V2, { [`sys/fs/cgroup/kubepods/pod${POD}/${ID}`]: [7] }));

    expect(groups.processes('../../../etc', ID)).toEqual([]);
    expect(groups.processes('', ID)).toEqual([]);
  });

  test('among 250 pods one is found in less than 2 ms', () => {
    const uid = (i: number) => `${String(i).padStart(8, '0')}-0000-4000-8000-000000000000`;
    const pods = Array.from({ length: 250 }, (_, i) => `sys/fs/cgroup/kubepods/burstable/pod${uid(i)}/${ID}`);
    const groups = new PodGroups(aNode(V2, Object.fromEntries(pods.map((pod, i) => [pod, [1000 + i]]))));
    const times: number[] = [];

    for (let i = 0; i < 250; i++) {
      const begun = performance.now();
      expect(groups.processes(uid(i), ID)).toEqual([1000 + i]);
      times.push(performance.now() - begun);
    }

    // The first one learns where pods are.
    const rest = times.slice(1).sort((a, b) => a - b);
    expect(rest[Math.floor(rest.length / 2)]).toBeLessThan(2);
  });
});
