import { type Finding, ok, warn } from '../../lib/fact.ts';
import { GATE, SLOT_PROGRAM } from '../../workloads/kubernetes.ts';
import type { Pod } from '../kinds.ts';

/** Gates are opened within 30 seconds whatever happens, by whoever is there. */
const SHUT_TOO_LONG_MS = 60_000;
const SHOWN = 5;

/** Pods that opted in: what became of them. */
export function optedIn(pods: readonly Pod[], nowMs: number): Finding[] {
  if (pods.length === 0) return [ok('pods', 'none has opted in yet: label a pod template rekindle.dev/enabled: "true"')];
  const slots = pods.filter(isSlot);
  const left = pods.filter((pod) => !isSlot(pod));
  const shut = slots.filter(
    (pod) => isShut(pod) && nowMs - new Date(pod.metadata?.creationTimestamp ?? nowMs).getTime() > SHUT_TOO_LONG_MS,
  );
  return [
    left.length === 0
      ? ok('pods', `${pods.length} opted in, all of them slots`)
      : warn(
          'pods',
          `${left.length} of ${pods.length} that opted in are no slots: ${names(left)}`,
          'an event of their owner says why; those made while the webhook was away become slots when they are made again',
        ),
    ...(shut.length === 0
      ? []
      : [
          warn(
            'gates',
            `${shut.length} are shut for more than a minute: ${names(shut)}`,
            'an agent or a gateway opens them: look at those',
          ),
        ]),
  ];
}

function isSlot({ spec }: Pod): boolean {
  return spec?.containers.some(({ command }) => command?.[0] === SLOT_PROGRAM) ?? false;
}

/** Its containers are ready, and only our gate keeps it from being so. */
function isShut({ spec, status }: Pod): boolean {
  const is = (wanted: string) => status?.conditions?.some(({ type, status: value }) => type === wanted && value === 'True') ?? false;
  return spec?.readinessGates?.some(({ conditionType }) => conditionType === GATE) === true && is('ContainersReady') && !is(GATE);
}

function names(pods: readonly Pod[]): string {
  const shown = pods.slice(0, SHOWN).map(({ metadata }) => `${metadata?.namespace}/${metadata?.name}`);
  return `${shown.join(', ')}${pods.length > SHOWN ? ` and ${pods.length - SHOWN} more` : ''}`;
}
