import { randomInt } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { addressesOf } from '../../../src/checkpoint/addresses.ts';
import { remotePlaces } from '../../../src/checkpoint/mountinfo.ts';
import { PodGroups } from '../../../src/cluster/cgroups.ts';
import { Cri } from '../../../src/cluster/cri.ts';
import { ClusterHost, type TrialMaker } from '../../../src/cluster/host.ts';
import { Kube } from '../../../src/cluster/kube.ts';
import { volumesOf, whyFilled } from '../../../src/cluster/volumes.ts';
import { monotonicClock } from '../../../src/lib/clock.ts';
import { silentLog } from '../../../src/lib/log.ts';
import type { Container } from '../../../src/workloads/host.ts';
import { hostConformance } from '../../conformance/host.ts';
import { APPS, kubeconfig } from '../fixture/cluster.ts';
import { Namespace } from '../fixture/namespace.ts';

/** Pods of trials are none of Kubernetes'. */
const noTrials: TrialMaker = {
  create: () => Promise.reject(new Error('no trials here')),
  find: () => undefined,
  list: () => [],
  exec: () => Promise.reject(new Error('no trials here')),
  remove: async () => undefined,
};

hostConformance('a Kubernetes node', async () => {
  const space = new Namespace(`t-${randomInt(36 ** 6).toString(36)}`, {});
  await space.make();
  const cold = {
    apiVersion: 'v1',
    kind: 'ConfigMap',
    metadata: { name: 'cold' },
    data: { 'cr-properties': 'cr.restore.cold=a test of the host' },
  };
  await space.apply(cold);
  const stop = new AbortController();
  const cri = await Cri.open({ clock: monotonicClock, root: '/proc/1/root' });
  const groups = PodGroups.of(1, () => monotonicClock.now());
  const host = new ClusterHost(
    {
      cluster: Kube.open({ clock: monotonicClock, log: silentLog }, kubeconfig),
      cri,
      trials: noTrials,
      volumesOf,
      whyFilled,
      remotePlaces,
      addressesOf,
      undescribed: () => undefined,
      expects: () => false,
      groups,
      node: hostname(),
      nodeRoot: '/proc/1/root',
      poolDir: '/run/rekindle-host-test',
      clock: monotonicClock,
      log: silentLog,
    },
    stop.signal,
  );
  await host.synced;
  let made = 0;
  return {
    host,
    aContainer: async (): Promise<Container> => {
      const name = `box-${++made}`;
      await space.apply({
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { name, labels: { 'rekindle.dev/enabled': 'true' }, annotations: { 'rekindle.dev/properties': 'cold' } },
        spec: {
          nodeName: hostname(),
          terminationGracePeriodSeconds: 0,
          containers: [
            {
              name: 'app',
              image: APPS,
              command: ['sleep', '100000'],
              workingDir: '/tmp',
              env: [{ name: 'FLAVOUR', value: 'vanilla' }],
              securityContext: { runAsUser: 1000, runAsGroup: 1000 },
            },
          ],
        },
      });
      const uid = await space.until(
        'the pod',
        async () => (await space.kubectl('get', 'pod', name, '-o', 'jsonpath={.metadata.uid}')) || undefined,
      );
      return space.until('its command, which the slot becomes', async () => {
        const container = await host.find(uid);
        const command = container && (await readFile(`/proc/${container.pid}/cmdline`, 'utf8'));
        return command?.startsWith('sleep') && container;
      });
    },
    end: async ({ name, uid }) => {
      await space.kubectl('delete', 'pod', name, '--now');
      await space.until('its end is known', async () => host.pod(uid) === undefined);
    },
    [Symbol.asyncDispose]: async () => {
      await space.remove();
      stop.abort();
      cri[Symbol.dispose]();
    },
  };
});
