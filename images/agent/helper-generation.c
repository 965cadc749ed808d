// Finds and renews the generation of entropy.so in a stopped process, from outside; the promise is in helper-generation.h.
#define _GNU_SOURCE
#include "helper-generation.h"

#include "../slot/entropy.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
  MAX_MAPS_BYTES = 64 << 20,  // twice what vm.max_map_count = 262144 needs, the highest that software asks for
  MAX_MAPPINGS = 16,          // one per link-map namespace; one is usual
  MAX_PAGES = 64,             // per mapping; its data is two pages
};

// One line of maps: whether it is a writable private mapping of entropy.so, and where. The kernel escapes a newline within a name.
static int is_entropy_data(const char *line, unsigned long *start, unsigned long *end) {
  char rights[5] = "";
  int name = 0;
  if (!strstr(line, REKINDLE_ENTROPY_FILE)) return 0; // most lines; parsing them all would take a millisecond of every restore
  if (sscanf(line, "%lx-%lx %4s %*x %*x:%*x %*u %n", start, end, rights, &name) < 3 || name == 0 || strcmp(rights, "rw-p") != 0) return 0;
  size_t length = strcspn(line + name, "\n");
  // An image volume may have been replaced since: the mapping stays.
  static const char deleted[] = " (deleted)";
  size_t tail = sizeof deleted - 1;
  if (length > tail && memcmp(line + name + length - tail, deleted, tail) == 0) length -= tail;
  tail = sizeof REKINDLE_ENTROPY_FILE - 1;
  return length >= tail && memcmp(line + name + length - tail, REKINDLE_ENTROPY_FILE, tail) == 0;
}

// Writes into each block of one mapping. An address that cannot be read or written (the process died, or lied) has none.
static int renew_in(int memory, unsigned long start, unsigned long end, uint64_t generation) {
  int written = 0;
  unsigned long at = (start + REKINDLE_GENERATION_ALIGN - 1) & ~(REKINDLE_GENERATION_ALIGN - 1UL);
  for (int page = 0; page < MAX_PAGES && at < end; page++, at += REKINDLE_GENERATION_ALIGN) {
    char magic[REKINDLE_GENERATION_MAGIC_SIZE];
    if (pread(memory, magic, sizeof magic, (off_t)at) != sizeof magic) continue;
    if (memcmp(magic, REKINDLE_GENERATION_MAGIC, sizeof magic) != 0) continue;
    off_t word = (off_t)(at + offsetof(struct rekindle_generation, generation));
    if (pwrite(memory, &generation, sizeof generation, word) == sizeof generation) written++;
  }
  return written;
}

static int open_of(int process, const char *name, int flags) {
  int fd = openat(process, name, flags | O_CLOEXEC);
  return fd < 0 ? (errno == ENOENT ? -ESRCH : -errno) : fd;
}

int rekindle_renew_generation(int pid, uint64_t generation) {
  if (generation == 0 || pid <= 0) return -EINVAL;
  // One directory descriptor: both files are those of the same process, even if its number is taken by another meanwhile.
  char path[32];
  snprintf(path, sizeof path, "/proc/%d", pid);
  int process = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (process < 0) return errno == ENOENT ? -ESRCH : -errno;
  int maps = open_of(process, "maps", O_RDONLY);
  int memory = open_of(process, "mem", O_RDWR);
  close(process);
  FILE *lines = maps < 0 || memory < 0 ? NULL : fdopen(maps, "r");
  int result = maps < 0 ? maps : memory < 0 ? memory : lines ? 0 : -ENOMEM;

  // A name has at most 4096 characters, each at most four as escaped.
  static char line[4096 * 4 + 128], buffer[1 << 16];
  if (lines) setvbuf(lines, buffer, _IOFBF, sizeof buffer);
  size_t bytes = 0;
  int mappings = 0;
  while (lines && fgets(line, sizeof line, lines)) {
    unsigned long start, end;
    bytes += strlen(line);
    int found = is_entropy_data(line, &start, &end);
    if (bytes > MAX_MAPS_BYTES || (found && ++mappings > MAX_MAPPINGS)) {
      result = -E2BIG;
      break;
    }
    if (found) result += renew_in(memory, start, end, generation);
  }
  // A process that ended while we read has no mappings left: a short list, not an error.
  if (lines) fclose(lines);
  else if (maps >= 0) close(maps);
  if (memory >= 0) close(memory);
  return result;
}
