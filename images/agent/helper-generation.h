// Tells the entropy.so in a restored process that it is a clone.
#ifndef REKINDLE_HELPER_GENERATION_H
#define REKINDLE_HELPER_GENERATION_H

#include <stdint.h>

// Writes `generation` (not 0, from getrandom()) into every block of `struct rekindle_generation` (slot/entropy.h) that process `pid`
// has in a writable private mapping of a file whose name ends in "/entropy.so". To be called for every process (not thread) of the
// clone while all of them are stopped before their first instruction, with /proc of a PID namespace that sees them; safe to repeat.
//
// Returns how many blocks were written (0: the process has no entropy.so, or no memory any more) or -errno: -ESRCH the process is
// gone, -EINVAL the generation is 0, -E2BIG it has more mappings than anyone needs, -EACCES/-EPERM we may not.
// The process may be hostile: all that is ever written is these 8 bytes into private memory of that process itself, behind a magic
// that must stand there; work and memory are bounded.
int rekindle_renew_generation(int pid, uint64_t generation);

#endif
