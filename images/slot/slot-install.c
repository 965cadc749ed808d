// slot --install DIR: what an init container does. Its image holds nothing but our files, so there is no shell and no cp.
#define _GNU_SOURCE
#include "slot.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

static int complain(const char *name, const char *dir) {
  dprintf(2, "slot: cannot install %s into %s: %s\n", name, dir, strerror(errno));
  return -1;
}

static int copy_content(int from, int to) {
  for (;;) {
    ssize_t n = sendfile(to, from, 0, 1 << 20);
    if (n == 0) return 0;
    if (n < 0 && errno != EINTR) return -1;
  }
}

// Written beside and moved there when it is whole: no container ever runs half a slot, and one that runs an old one keeps it.
static int install_file(int from, int to_dir, const char *name) {
  char beside[64];
  struct stat own;
  if (fstat(from, &own)) return -1;
  snprintf(beside, sizeof beside, ".%s.%d", name, getpid());
  unlinkat(to_dir, beside, 0);
  int to = openat(to_dir, beside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (to < 0) return -1;
  // A full disk may be told as late as when the file is closed.
  int failed = copy_content(from, to) || fchmod(to, own.st_mode & 0777);
  failed |= close(to);
  if (!failed && !renameat(to_dir, beside, to_dir, name)) return 0;
  int error = errno;
  unlinkat(to_dir, beside, 0);
  errno = error;
  return -1;
}

int install(const char *dir) {
  // The slot last: who finds it finds the others too. All with the modes that they have: CRIU wants those of the seed's, and a trial has the agent's.
  static const char *const files[] = {"entropy.so", "random-uuid.cjs", "slot"};
  char own[PATH_MAX];
  ssize_t n = readlink("/proc/self/exe", own, sizeof own - 1);
  if (n < 0) return complain("slot", dir), 1;
  own[n] = 0;
  *(strrchr(own, '/') + 1) = 0;
  int from_dir = open(own, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (from_dir < 0) return complain(own, dir), 1;
  int to_dir = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (to_dir < 0) return complain("anything", dir), 1;
  for (unsigned i = 0; i < sizeof files / sizeof *files; i++) {
    int self = !strcmp(files[i], "slot");
    int from = self ? open("/proc/self/exe", O_RDONLY | O_CLOEXEC) : openat(from_dir, files[i], O_RDONLY | O_CLOEXEC);
    if (from < 0 || install_file(from, to_dir, files[i])) return complain(files[i], dir), 1;
    close(from);
  }
  return 0;
}
