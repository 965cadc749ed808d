// Finds and renews the generation of entropy.so in a stopped process, from outside; the promise is in helper-generation.h.
#define _GNU_SOURCE
#include "helper-generation.h"

#include "../slot/entropy.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
  MAX_MAPS_BYTES = 64 << 20,  // twice what vm.max_map_count = 262144 needs, the highest that software asks for
  MAX_MAPPINGS = 16,          // one per link-map namespace; one is usual
  MAX_PAGES = 64,             // per mapping; its data is two pages
};

// A mapped file's name: an image volume may have been replaced since, the mapping stays.
static int is_entropy_file(const char *name) {
  static const char deleted[] = " (deleted)";
  size_t length = strcspn(name, "\n"), tail = sizeof deleted - 1;
  if (length > tail && memcmp(name + length - tail, deleted, tail) == 0) length -= tail;
  tail = sizeof REKINDLE_ENTROPY_FILE - 1;
  return length >= tail && memcmp(name + length - tail, REKINDLE_ENTROPY_FILE, tail) == 0;
}

// One line of maps: whether it is a writable private mapping of entropy.so, and where. The kernel escapes a newline within a name.
static int is_entropy_data(const char *line, unsigned long *start, unsigned long *end) {
  char rights[5] = "";
  int name = 0;
  if (!strstr(line, REKINDLE_ENTROPY_FILE)) return 0; // most lines; parsing them all would take a millisecond of every restore
  if (sscanf(line, "%lx-%lx %4s %*x %*x:%*x %*u %n", start, end, rights, &name) < 3 || name == 0 || strcmp(rights, "rw-p") != 0) return 0;
  return is_entropy_file(line + name);
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

// PROCMAP_QUERY of linux/fs.h, of Linux 6.11 and newer: mappings one by one, as the kernel has them. A process has thousands, of which few are files'
// that it may write to, and to print them all takes a millisecond of every restore.
struct query {
  uint64_t size, flags, address, start, end, vma_flags, page_size, offset, inode;
  uint32_t major, minor, name_size, build_id_size;
  uint64_t name, build_id;
};
#define QUERY _IOWR('f', 17, struct query)
enum { READABLE = 1, WRITABLE = 2, EXECUTABLE = 4, SHARED = 8, THIS_OR_NEXT = 16, OF_A_FILE = 32 };

// As renew_by_text; -ENOTTY where the kernel has no such query.
static int renew_by_query(int maps, int memory, uint64_t generation) {
  static char name[4096 + sizeof " (deleted)"];
  int result = 0, mappings = 0;
  for (uint64_t address = 0;;) {
    struct query q = {.size = sizeof q, .flags = WRITABLE | OF_A_FILE | THIS_OR_NEXT, .address = address, .name_size = sizeof name, .name = (uintptr_t)name};
    if (ioctl(maps, QUERY, &q)) return errno == ENOENT || errno == ESRCH ? result : -errno;
    address = q.end;
    if ((q.vma_flags & (READABLE | EXECUTABLE | SHARED)) != READABLE || !is_entropy_file(name)) continue;
    if (++mappings > MAX_MAPPINGS) return -E2BIG;
    result += renew_in(memory, q.start, q.end, generation);
  }
}

static int renew_by_text(FILE *lines, int memory, uint64_t generation) {
  // A name has at most 4096 characters, each at most four as escaped.
  static char line[4096 * 4 + 128], buffer[1 << 16];
  setvbuf(lines, buffer, _IOFBF, sizeof buffer);
  size_t bytes = 0;
  int result = 0, mappings = 0;
  while (fgets(line, sizeof line, lines)) {
    unsigned long start, end;
    bytes += strlen(line);
    int found = is_entropy_data(line, &start, &end);
    if (bytes > MAX_MAPS_BYTES || (found && ++mappings > MAX_MAPPINGS)) return -E2BIG;
    if (found) result += renew_in(memory, start, end, generation);
  }
  return result; // a process that ended while we read has no mappings left: a short list, not an error
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
  int result = maps < 0 ? maps : memory < 0 ? memory : renew_by_query(maps, memory, generation);
  // Where the query is not known, or does not tell (a name longer than it may be), the text does.
  FILE *lines = maps >= 0 && memory >= 0 && result < 0 && result != -E2BIG ? fdopen(maps, "r") : NULL;
  if (lines) {
    result = renew_by_text(lines, memory, generation);
    fclose(lines);
  } else if (maps >= 0) close(maps);
  if (memory >= 0) close(memory);
  return result;
}
