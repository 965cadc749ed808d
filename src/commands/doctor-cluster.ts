import { examineCluster } from '../cluster/doctor.ts';
import { Kube } from '../cluster/kube.ts';
import { systemClock } from '../lib/clock.ts';
import type { Context } from './context.ts';
import { report } from './doctor.ts';

const NAMESPACE = 'rekindle';

/**
 * As `doctor`, about the cluster of the kubeconfig (or of the pod that this runs in) and rekindle in it. Changes nothing. Throws `cluster_unavailable` when
 * no API server answers.
 */
export async function doctorCluster({ config, log, signal }: Context, json: boolean): Promise<number> {
  const cluster = Kube.open({ clock: systemClock, log });
  const namespace = config.namespace ?? NAMESPACE;
  const facts = await examineCluster({ cluster, namespace, nowMs: systemClock.now() }, signal);
  return report(facts, { subject: 'This cluster', deed: 'be served by rekindle', json });
}
