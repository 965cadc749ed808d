import { randomInt } from 'node:crypto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { V1Pod, V1PodSpec } from '@kubernetes/client-node';
import { exec, mustExec } from '../../src/lib/exec.ts';
import { anImage } from '../integration/local-fixture.ts';
import { foreign, kubectl } from './fixture/cluster.ts';

/** The nodes of the test cluster that runs on this machine, looked at from outside of them. */
const CLUSTER_DIR = '/var/lib/rekindle-cluster';
const CLUSTER = path.join(import.meta.dirname, 'cluster');
/** busybox, as `anImage` makes it: it has the user anna (1001), COLOUR=blue, the working directory /www and the command `sleep 1234`. */
export const BOX = 'localhost/rekindle-box:test';

/** Why the nodes cannot be looked into, or undefined. */
export function missingNodes(): string | undefined {
  if (process.getuid?.() !== 0) return 'needs root';
  return foreign ? 'the nodes of the cluster of KUBECONFIG are other machines' : undefined;
}

/** PID 1 of the first node as this machine numbers it. */
export async function nodeInit(): Promise<number> {
  return Number(await readFile(path.join(CLUSTER_DIR, 'node1/pid'), 'utf8'));
}

/** That node's filesystem as this machine sees it. */
export async function nodeRoot(): Promise<string> {
  return `/proc/${await nodeInit()}/root`;
}

/** A namespace of Kubernetes with pods on the first node. */
export type Pods = AsyncDisposable & {
  readonly namespace: string;
  /** Resolves when the pod's containers run. */
  start(spec: Partial<V1PodSpec> & Pick<V1PodSpec, 'containers'>): Promise<V1Pod>;
  remove(pod: V1Pod): Promise<void>;
};

export async function somePods(): Promise<Pods> {
  const namespace = `t-${randomInt(1e9).toString(36)}`;
  await Promise.all([loadBox(), kubectl(['create', 'namespace', namespace])]);
  let made = 0;
  return {
    namespace,
    start: async (spec) => {
      const name = `pod-${made++}`;
      const pod: V1Pod = {
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { name, namespace },
        spec: { nodeName: 'node1', terminationGracePeriodSeconds: 0, ...spec },
      };
      await kubectl(['apply', '-f', '-'], { input: JSON.stringify(pod) });
      await kubectl(['-n', namespace, 'wait', '--for=condition=Ready', `pod/${name}`, '--timeout=60s']);
      return JSON.parse(await kubectl(['-n', namespace, 'get', 'pod', name, '-o', 'json']));
    },
    remove: async (pod) => {
      await kubectl(['-n', namespace, 'delete', 'pod', pod.metadata?.name ?? '', '--now', '--wait']);
    },
    [Symbol.asyncDispose]: async () => {
      await kubectl(['delete', 'namespace', namespace, '--wait=false']);
      await kubectl(['-n', namespace, 'delete', 'pods', '--all', '--now', '--wait']);
    },
  };
}

/** The id that the container runtime has for the pod's first container. */
export function containerIdOf(pod: V1Pod): string {
  return pod.status?.containerStatuses?.[0]?.containerID?.replace(/^.*:\/\//, '') ?? '';
}

let loaded: Promise<void> | undefined;
function loadBox(): Promise<void> {
  loaded ??= (async () => {
    const there = await exec(CLUSTER, ['node', '1', 'ctr', '-n', 'k8s.io', 'images', 'ls', '-q', `name==${BOX}`], { timeoutMs: 30_000 });
    if (there.stdout.includes(BOX)) return;
    const dir = await mkdtemp(path.join(tmpdir(), 'rekindle-box-'));
    try {
      await anImage(dir);
      const tar = path.join(dir, 'box.tar');
      const name = path.basename(BOX);
      await mustExec(exec, 'skopeo', ['copy', `oci:${path.join(dir, 'layout')}:box`, `docker-archive:${tar}:localhost/${name}`], {
        timeoutMs: 60_000,
      });
      await mustExec(exec, CLUSTER, ['load', tar], { timeoutMs: 60_000 });
    } finally {
      await rm(dir, { recursive: true, force: true });
    }
  })();
  return loaded;
}
