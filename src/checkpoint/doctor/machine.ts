import type { Exec } from '../../lib/exec.ts';
import type { Fact, Finding } from '../../lib/fact.ts';
import { ok } from '../../lib/fact.ts';
import { examineCgroups } from './cgroups.ts';
import { examineKernel } from './kernel.ts';
import { examineNetwork } from './network.ts';
import { examineRights } from './rights.ts';
import { examineStorage } from './storage.ts';
import { examineTools } from './tools.ts';

export type DoctorDeps = {
  readonly exec: Exec;
  readonly stateDir: string;
  readonly runDir: string;
  readonly buildDir: string;
  readonly runtime: 'crun' | 'runc' | undefined;
  readonly subnet: string;
  readonly bridge: string;
};

/**
 * Every fact that matters about this machine, in groups. Never throws, takes a second or two, and leaves the machine as it was: what has to
 * be tried is tried in namespaces that end with the trial, and nothing is tried that would load a module.
 */
export async function examineMachine(deps: DoctorDeps): Promise<Fact[]> {
  const groups = await Promise.all([
    examineRights(),
    examineKernel(deps.exec),
    examineCgroups(),
    examineTools(deps),
    examineStorage(deps),
    examineNetwork(deps),
  ]);
  return groups.flat();
}

/** What clones share and what changes for them, whatever the machine. */
export function goodToKnow(): Fact[] {
  return [sharedState(), clonesOfConnections()].map((finding) => ({ group: 'good to know', ...finding }));
}

/** What the preloaded libraries do not make different in each clone (images/slot/entropy.c, random-uuid.cjs). */
export function sharedState(): Finding {
  return ok(
    'equal in every clone',
    "generators seeded before the checkpoint go on alike: Math.random (Node), Python's random and numpy.random, libc's rand and random, BoringSSL, Go's math/rand, Rust's thread_rng. The kernel's (getrandom, os.urandom, Java's NativePRNG) differ, and with container.preload OpenSSL's (Node's crypto, Python's ssl)",
    'seed them again in restore.after (a command or request), and never draw secrets from them',
  );
}

function clonesOfConnections(): Finding {
  return ok(
    'of the seed in every clone',
    'environment, values read at start, timers and leases are those of the seed; open TCP connections are closed',
    'name variables that differ per instance in container.instanceEnv; renew the rest in restore.after',
  );
}
