import type { Clock } from '../lib/clock.ts';
import { RekindleError } from '../lib/errors.ts';
import type { Log } from '../lib/log.ts';
import type { Cri } from './cri.ts';

export type CriNewsDeps = { readonly cri: Pick<Cri, 'follow' | 'version'>; readonly clock: Clock; readonly log: Log };

const AGAIN_MS = 1_000;
/** One that tells nothing by itself may have been replaced by one that does. */
const AGAIN_SILENT_MS = 60_000;
/** Up to here it gave each event to one listener only, and the kubelet (feature gate EventedPLEG) may be another. */
const TELLS_ONE_ONLY = /^containerd v?1\./;

/**
 * Calls back with the uid of a pod as soon as the runtime has made a container of it, which is before that starts. Some are missed: while the runtime tells
 * nothing, and where it never does. Resolves, never rejects, once the signal has aborted.
 */
export async function hearOfContainers(
  { cri, clock, log }: CriNewsDeps,
  onMade: (podUid: string) => void,
  signal: AbortSignal,
): Promise<void> {
  let told = false;
  while (!signal.aborted) {
    let againMs = AGAIN_MS;
    try {
      if (TELLS_ONE_ONLY.test(await cri.version(signal))) againMs = AGAIN_SILENT_MS;
      else {
        await cri.follow((uid) => {
          told = false;
          onMade(uid);
        }, signal);
      }
    } catch (err) {
      if (signal.aborted) return;
      if (!told)
        log.info(
          { err },
          'the container runtime does not tell of containers that it makes: until it does, restores take some milliseconds more',
        );
      told = true;
      if (err instanceof RekindleError && !err.retryable) againMs = AGAIN_SILENT_MS;
    }
    await clock.sleep(againMs, signal).catch(() => undefined);
  }
}
