import type { Node } from '../kinds.ts';

/** From this minor version on they are there unless somebody turns them off. */
const KUBERNETES_MINOR = 35;

/** Whether pods may have volumes of the kind `image`: the API server, and every node, however old, must know them. */
export function canUseImageVolumes(serverMinor: number, nodes: readonly Node[]): boolean {
  return serverMinor >= KUBERNETES_MINOR && nodes.every(({ status }) => knowsImageVolumes(status?.nodeInfo));
}

function knowsImageVolumes(info: NonNullable<Node['status']>['nodeInfo']): boolean {
  if (info === undefined) return false;
  const [, kubelet = '0'] = /^v1\.(\d+)/.exec(info.kubeletVersion) ?? [];
  const [, runtime, major = '0', minor = '0'] = /^([a-z-]+):\/\/v?(\d+)\.(\d+)/.exec(info.containerRuntimeVersion) ?? [];
  if (Number(kubelet) < KUBERNETES_MINOR) return false;
  const version = Number(major) * 1000 + Number(minor);
  if (runtime === 'containerd') return version >= 2001;
  return runtime === 'cri-o' && version >= 1031;
}
