// What entropy.so (in the container) and the helper (outside, as root) agree on.
//
// entropy.so has one `struct rekindle_generation` in its own writable data, at an address that is a multiple of
// REKINDLE_GENERATION_ALIGN. It is initialised, so it lies in the file's private writable mapping (never in the anonymous bss behind
// it) and is found in /proc/PID/maps by the file's name, before and after a restore. The helper writes a new generation while every
// task of the clone is still stopped; entropy.so compares it with the one it last saw. Nothing else ever writes it.
#ifndef REKINDLE_ENTROPY_H
#define REKINDLE_ENTROPY_H

#include <stdint.h>

// 16 characters, no terminating zero.
#define REKINDLE_GENERATION_MAGIC "rekindle-entropy"
#define REKINDLE_GENERATION_MAGIC_SIZE 16
// The smallest page of any architecture we serve; 64 KB pages are multiples of it.
#define REKINDLE_GENERATION_ALIGN 4096
// How the mapping's file name ends.
#define REKINDLE_ENTROPY_FILE "/entropy.so"

struct rekindle_generation {
  char magic[REKINDLE_GENERATION_MAGIC_SIZE];
  // 0: this process was never restored. Otherwise unique to the restore: draw it from getrandom(), never count it on one node (the
  // clones of two nodes must differ from what was dumped, though not from each other: the new seed comes from the kernel).
  uint64_t generation;
  char rest[REKINDLE_GENERATION_ALIGN - REKINDLE_GENERATION_MAGIC_SIZE - sizeof(uint64_t)];
};

#endif
