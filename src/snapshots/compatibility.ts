import type { MachineClass } from './manifest.ts';

/**
 * Why a snapshot of this class cannot be restored on this machine, in words, or undefined if it can.
 *
 * - CPU features: code of the snapshot has already chosen its instructions by them (glibc's ifuncs, a JIT), so each must be here; more are fine.
 * - Kernel: not older. The image may hold what only the newer one knows (a kind of descriptor, a flag, a larger xsave area), while
 *   Linux keeps what it once promised to applications. Only the numbers count, not the distribution's suffix.
 * - CRIU: not older. It reads the images of earlier versions, and ignores silently the fields that only later ones write.
 */
export function whyIncompatible(snapshot: MachineClass, machine: MachineClass): string | undefined {
  if (snapshot.arch !== machine.arch) return `made for ${snapshot.arch}, this machine is ${machine.arch}`;
  const here = new Set(machine.cpuFeatures);
  const missing = snapshot.cpuFeatures.filter((feature) => !here.has(feature));
  if (missing.length > 0) {
    const more = missing.length > 5 ? ` and ${missing.length - 5} more` : '';
    return `made with CPU features that this machine lacks: ${missing.slice(0, 5).join(', ')}${more}`;
  }
  if (isOlder(machine.kernel, snapshot.kernel))
    return `made under kernel ${snapshot.kernel}, this machine runs the older ${machine.kernel}`;
  if (isOlder(machine.criu, snapshot.criu)) return `made by CRIU ${snapshot.criu}, this machine has the older ${machine.criu}`;
  return undefined;
}

/** Compares major.minor.patch. A version that cannot be read counts as older than any other but itself: rather cold than wrong. */
function isOlder(version: string, than: string): boolean {
  if (version === than) return false;
  const a = numbers(version);
  const b = numbers(than);
  if (a === undefined || b === undefined) return true;
  for (const [i, wanted] of b.entries()) {
    const had = a[i] ?? 0;
    if (had !== wanted) return had < wanted;
  }
  return false;
}

function numbers(version: string): number[] | undefined {
  const match = /^v?(\d+)(?:\.(\d+))?(?:\.(\d+))?/.exec(version);
  return match === null ? undefined : match.slice(1).map((digits) => Number(digits ?? 0));
}
