import type { V1Pod } from '@kubernetes/client-node';
import { beforeAll, describe, expect, test } from 'vitest';
import { installed } from './fixture/cluster.ts';
import { aNamespace, isReady } from './fixture/namespace.ts';
import { gateOf } from './fixture/parking.ts';
import { get, nameOf, startOf } from './fixture/snapshots.ts';
import { aWho, PATIENT, propertiesOf, type Who } from './fixture/workloads.ts';

const space = aNamespace();
const TIMEOUT = { timeout: 150_000 };
/** What users get who say nothing. */
const GATE_DEADLINE_S = 30;

beforeAll(async () => {
  await installed();
  await space.apply(propertiesOf('patient', PATIENT));
});

/** How long only its gate kept a pod from being Ready, in whole seconds as Kubernetes counts. */
function heldForS({ status }: V1Pod): number {
  const at = (type: string) => new Date(status?.conditions?.find((one) => one.type === type)?.lastTransitionTime ?? 0).getTime();
  return (at('Ready') - at('ContainersReady')) / 1_000;
}

describe.concurrent('the gate of a seed is opened', () => {
  test('within its deadline when its checks do not pass, and it serves', TIMEOUT, async () => {
    await space.apply(propertiesOf('never', ['cr.container.readiness=false']), aWho('never', { properties: 'never' }));

    const [pod] = await space.until(
      'the pod to be Ready',
      async () => {
        const pods = await space.podsOf('app=never');
        return pods.length === 1 && pods.every(isReady) && pods;
      },
      120_000,
    );
    if (pod === undefined) throw new Error('there is no pod');

    expect(gateOf(pod)).toMatchObject({ reason: 'DeadlinePassed', message: `its agent did not decide within ${GATE_DEADLINE_S} s` });
    expect(heldForS(pod)).toBeGreaterThan(GATE_DEADLINE_S - 3);
    expect(heldForS(pod)).toBeLessThan(GATE_DEADLINE_S + 15);
    expect((JSON.parse(await get(space, pod)) as Who).host).toBe(nameOf(pod));
  });

  test('at once when it cannot be checkpointed; it serves on, its event says why, and the next start cold', TIMEOUT, async () => {
    // Node asks for io_uring, which CRIU cannot dump, wherever no filter forbids it.
    await space.apply(aWho('ring', { container: { securityContext: { seccompProfile: { type: 'Unconfined' } } } }));

    const [seed] = await space.untilReady('app=ring');
    if (seed === undefined) throw new Error('there is no pod');
    const event = await space.untilEvent(nameOf(seed), 'CheckpointFailed: ');
    await space.kubectl('scale', 'deployment/ring', '--replicas=3');
    const pods = await space.untilReady('app=ring', 3);

    expect(event).toMatch(/no snapshot could be made: process \d+ uses io_uring/);
    expect(heldForS(seed)).toBeLessThan(GATE_DEADLINE_S - 10);
    for (const pod of pods) {
      expect(startOf(pod)).toMatch(/^cold: .*io_uring/);
      expect((JSON.parse(await get(space, pod)) as Who).host).toBe(nameOf(pod));
    }
  });
});
