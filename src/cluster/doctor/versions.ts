import { atLeast, type Finding, fail, ok, warn } from '../../lib/fact.ts';
import type { Node } from '../kinds.ts';
import { canUseImageVolumes } from '../webhook/image-volumes.ts';

/** Minor versions of Kubernetes 1 from which on something works. */
const RESTORE = 30;
const ON_DEMAND = 33;

/** What the API server's version allows. */
export function kubernetesVersion(minor: number): Finding {
  const name = 'Kubernetes';
  if (minor < RESTORE) return fail(name, `1.${minor}: too old, restores need 1.${RESTORE}`, 'upgrade the cluster');
  if (minor < ON_DEMAND)
    return warn(name, `1.${minor}: pods are restored, but cannot park: rekindle.dev/mode: on-demand needs 1.${ON_DEMAND}`);
  return ok(name, `1.${minor}: restores and pods that park`);
}

/** How pods get the slot. */
export function slotFiles(minor: number, nodes: readonly Node[]): Finding {
  const name = 'slot in pods';
  if (canUseImageVolumes(minor, nodes)) return ok(name, 'as an image volume');
  return ok(
    name,
    'an init container copies it, which costs each pod a moment: image volumes need 1.35 on the API server and every node, with containerd 2.1 or CRI-O 1.31',
  );
}

/** `core` is what the API server says at /api/v1. */
export function resizing(minor: number, core: unknown): Finding {
  const name = 'in-place resize';
  if (JSON.stringify(core ?? '').includes('"pods/resize"')) return ok(name, 'pods that park give their requests back');
  if (minor < ON_DEMAND) return ok(name, `not there before 1.${ON_DEMAND}`);
  return warn(name, 'not served: pods that park keep what they request', 'turn on the feature gate InPlacePodVerticalScaling');
}

/** Linux nodes that rekindle cannot serve, and why. */
export function nodeFindings(nodes: readonly Node[]): Finding[] {
  const info = ({ status }: Node) => status?.nodeInfo;
  const groups: readonly (readonly [readonly Node[], (names: string) => Finding])[] = [
    [
      nodes.filter((node) => !atLeast(info(node)?.kernelVersion ?? '', 5, 9)),
      (names) => fail('kernel', `older than 5.9 on ${names}: restores need its system calls`, 'use a newer node image'),
    ],
    [
      nodes.filter((node) => minorOf(info(node)?.kubeletVersion) < RESTORE),
      (names) => fail('kubelet', `older than 1.${RESTORE} on ${names}`, 'upgrade these nodes'),
    ],
    [
      nodes.filter((node) => !/^(?:containerd|cri-o):/.test(info(node)?.containerRuntimeVersion ?? '')),
      (names) =>
        fail('container runtime', `neither containerd nor CRI-O on ${names}: pods there start cold`, 'use a node image with containerd'),
    ],
  ];
  const wrong = groups.flatMap(([found, finding]) => (found.length === 0 ? [] : [finding(namesOf(found))]));
  if (nodes.length === 0) return [fail('nodes', 'there is none that runs Linux')];
  const kinds = new Set(
    nodes.map((node) => `${info(node)?.containerRuntimeVersion.replace('://', ' ')}, kernel ${info(node)?.kernelVersion}`),
  );
  return [ok('nodes', `${nodes.length} with Linux: ${[...kinds].join('; ')}`), ...wrong];
}

/** What no test of ours runs on. What cannot be seen from here is said to be so. */
export function unproven(nodes: readonly Node[]): Finding[] {
  const where = (wanted: (node: Node) => boolean) => nodes.filter(wanted);
  const image = (node: Node) => node.status?.nodeInfo?.osImage ?? '';
  const look = (name: string, found: readonly Node[], what: string): Finding =>
    found.length === 0 ? ok(name, 'no node is known to have it') : warn(name, `${what} on ${namesOf(found)}: unproven`);
  return [
    warn(
      'cgroup v2',
      'unproven: layouts of version 2 are known from records only. Which version nodes have cannot be seen from here',
      'try it: one opted-in Deployment, and its events; a pod that cannot be restored starts cold',
    ),
    look(
      'SELinux',
      where((node) => /red hat|rhel|fedora|centos|rocky|alma|bottlerocket|coreos/i.test(image(node))),
      'systems that confine pods by SELinux',
    ),
    look(
      'AppArmor',
      where((node) => /ubuntu|debian|suse|container-optimized/i.test(image(node))),
      'systems that may confine pods by AppArmor',
    ),
    look(
      'CRI-O',
      where((node) => node.status?.nodeInfo?.containerRuntimeVersion.startsWith('cri-o:') === true),
      'CRI-O',
    ),
    look(
      'GKE',
      where((node) => Object.keys(node.metadata?.labels ?? {}).some((label) => label.startsWith('cloud.google.com/gke-'))),
      'nodes of GKE',
    ),
    look(
      'other CPUs',
      where((node) => node.status?.nodeInfo?.architecture !== 'amd64'),
      'CPUs other than amd64',
    ),
  ];
}

function minorOf(version = ''): number {
  return Number(/^v1\.(\d+)/.exec(version)?.[1] ?? 0);
}

/** The first few, for messages. */
export function namesOf(objects: readonly { readonly metadata?: { readonly name?: string } }[]): string {
  const names = objects.map(({ metadata }) => metadata?.name ?? '');
  const shown = names.slice(0, 5).join(', ');
  return names.length <= 5 ? shown : `${shown} and ${names.length - 5} more`;
}
