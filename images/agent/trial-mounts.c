// trial-mounts PID [--dir AT | --take PATH AT | --overlay … | --fresh LIKE AT | --copy FROM DIR AT]… -- PROGRAM ARGS…
//
// Runs a program among mounts that only it and what it starts can see, so that nothing is left of them when those have ended: the way to make a
// container out of parts of the node, whose mounts the agent's container does not have. Everything is done in the order given.
//   --dir AT                   makes a directory
//   --take PATH AT             PATH of the mount namespace of process PID, with all that is mounted in it; replaces what is mounted at AT
//   --overlay N LOWER… OPTIONS DIR AT   an overlay of N lower directories, its writes in DIR; OPTIONS may be empty
//   --fresh LIKE AT            empty, with owner and mode of LIKE: a file, a directory, or, where that is a tmpfs, a tmpfs of that size
//   --copy FROM DIR AT         a copy that nothing written into comes back from: of a directory an overlay, its writes in DIR; of a file its content,
//                              owner and mode; of anything else (a socket, a device) an empty file
// The caller makes AT and DIR names that nobody else can change. Ends with 125 and a reason on stderr when the program cannot be run.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#endif
#ifndef MOVE_MOUNT_F_EMPTY_PATH
#define MOVE_MOUNT_F_EMPTY_PATH 4
#endif
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif
// Room in one page, which is what mount(2) takes.
enum { MAX_TAKEN = 1024, MAX_OPTIONS = 4096, MAX_COPY = 64 << 20 };

static void die(const char *format, ...) {
  int error = errno;
  va_list arguments;
  fprintf(stderr, "trial-mounts: ");
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fprintf(stderr, " %s\n", strerror(error));
  exit(125);
}

static int open_mounts(const char *pid) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%s/ns/mnt", pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) die("%s:", path);
  return fd;
}

static void look(const char *path, struct stat *s) {
  if (stat(path, s)) die("%s:", path);
}

static void make_place(const char *at, bool directory) {
  if (directory ? mkdir(at, 0755) : close(open(at, O_CREAT | O_WRONLY | O_CLOEXEC, 0644))) {
    if (errno != EEXIST) die("cannot make %s:", at);
  }
}

static void own_as(const char *at, const struct stat *s) {
  if (chown(at, s->st_uid, s->st_gid) || chmod(at, s->st_mode & 07777)) die("cannot give %s its owner:", at);
}

static void attach(int tree, const char *at) {
  struct stat s;
  if (fstat(tree, &s)) die("%s:", at);
  make_place(at, S_ISDIR(s.st_mode));
  // What is hidden under a mount still answers to those who read mountinfo.
  while (!umount2(at, MNT_DETACH)) {}
  if (syscall(SYS_move_mount, tree, "", AT_FDCWD, at, MOVE_MOUNT_F_EMPTY_PATH)) die("cannot attach %s:", at);
  // What is mounted here later must not appear in the node. A slave, as it is in the seed: CRIU wants to find it so.
  if (mount(NULL, at, NULL, MS_REC | MS_SLAVE, NULL)) die("cannot make %s a slave:", at);
  close(tree);
}

static void overlay(int lowers, char **lower, const char *extra, const char *dir, const char *at) {
  char options[MAX_OPTIONS], upper[512], work[512];
  struct stat s;
  look(lower[0], &s);
  snprintf(upper, sizeof upper, "%s/upper", dir);
  snprintf(work, sizeof work, "%s/work", dir);
  make_place(dir, true), make_place(upper, true), make_place(work, true), make_place(at, true);
  own_as(upper, &s);
  int n = snprintf(options, sizeof options, "upperdir=%s,workdir=%s%s%s,lowerdir=%s", upper, work, *extra ? "," : "", extra, lower[0]);
  for (int i = 1; i < lowers && n < (int)sizeof options; i++) n += snprintf(options + n, sizeof options - n, ":%s", lower[i]);
  if (n >= (int)sizeof options) errno = E2BIG, die("%d layers:", lowers);
  if (mount("overlay", at, "overlay", 0, options)) die("cannot mount an overlay at %s:", at);
}

static void fresh(const char *like, const char *at) {
  struct stat s;
  struct statfs f;
  look(like, &s);
  if (statfs(like, &f)) die("%s:", like);
  make_place(at, S_ISDIR(s.st_mode));
  if (S_ISDIR(s.st_mode) && f.f_type == TMPFS_MAGIC) {
    char options[64];
    snprintf(options, sizeof options, "size=%llu", (unsigned long long)f.f_blocks * f.f_bsize);
    if (mount("tmpfs", at, "tmpfs", 0, options)) die("cannot mount a tmpfs at %s:", at);
  }
  own_as(at, &s);
}

static void copy(char *from, const char *dir, const char *at) {
  struct stat s;
  look(from, &s);
  if (S_ISDIR(s.st_mode)) return overlay(1, &from, "", dir, at);
  int out = open(at, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600), in = S_ISREG(s.st_mode) ? open(from, O_RDONLY | O_CLOEXEC) : -1;
  if (out < 0 || (S_ISREG(s.st_mode) && in < 0)) die("cannot copy %s:", from);
  if (in >= 0 && s.st_size > MAX_COPY) errno = EFBIG, die("cannot copy %s:", from);
  for (off_t left = in < 0 ? 0 : s.st_size; left > 0;) {
    ssize_t n = sendfile(out, in, NULL, left);
    if (n < 0) die("cannot copy %s:", from);
    if (!n) break;
    left -= n;
  }
  close(in), close(out);
  own_as(at, &s);
}

static bool is(const char *argument, const char *option) { return argument && !strcmp(argument, option); }

// How many arguments an operation has, -1 for what is none.
static int arity(char **argument) {
  if (is(argument[0], "--dir")) return 1;
  if (is(argument[0], "--take") || is(argument[0], "--fresh")) return 2;
  if (is(argument[0], "--copy")) return 3;
  return is(argument[0], "--overlay") && argument[1] && atoi(argument[1]) > 0 ? atoi(argument[1]) + 4 : -1;
}

int main(int argc, char **argv) {
  static int taken[MAX_TAKEN];
  int own = open_mounts("self"), node, end = 2, takes = 0;
  if (argc < 4) return fprintf(stderr, "usage: see images/agent/trial-mounts.c\n"), 2;
  node = open_mounts(argv[1]);
  if (setns(node, CLONE_NEWNS)) die("cannot enter the node's mounts:");
  for (; end < argc && !is(argv[end], "--"); end += 1 + arity(argv + end)) {
    if (arity(argv + end) < 0 || end + arity(argv + end) >= argc) return fprintf(stderr, "trial-mounts: not understood: %s\n", argv[end]), 2;
    if (!is(argv[end], "--take")) continue;
    if (takes == MAX_TAKEN) errno = E2BIG, die("mounts:");
    taken[takes] = (int)syscall(SYS_open_tree, AT_FDCWD, argv[end + 1], OPEN_TREE_CLONE | O_CLOEXEC | AT_RECURSIVE);
    if (taken[takes++] < 0) die("the node's %s:", argv[end + 1]);
  }
  if (end + 1 >= argc) return fprintf(stderr, "trial-mounts: no program given\n"), 2;
  if (setns(own, CLONE_NEWNS) || unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL)) die("cannot make a mount namespace:");
  umask(0);
  takes = 0;
  for (int i = 2; i < end; i += 1 + arity(argv + i)) {
    char **a = argv + i + 1;
    if (is(argv[i], "--dir")) make_place(a[0], true);
    else if (is(argv[i], "--take")) attach(taken[takes++], a[1]);
    else if (is(argv[i], "--fresh")) fresh(a[0], a[1]);
    else if (is(argv[i], "--copy")) copy(a[0], a[1], a[2]);
    else overlay(atoi(a[0]), a + 1, a[atoi(a[0]) + 1], a[atoi(a[0]) + 2], a[atoi(a[0]) + 3]);
  }
  umask(022);
  execvp(argv[end + 1], argv + end + 1);
  die("cannot run %s:", argv[end + 1]);
}
