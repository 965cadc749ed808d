// helper reset: makes the files of a slot whose application has ended as they were when the container started, so that it can be restored into again.
//
// What the application changed in the root filesystem lies in the overlay's upper directory, so only where that has something is there anything to do.
// It is done through the slot's own mount (the upper directory of a mounted overlay may not be changed behind its back), and
// compared with a mount of the lower layers alone, so that whiteouts, opaque and renamed directories are the kernel's to understand. A second walk that
// changes nothing proves the first. Names and trees are the application's, so hostile: see helper-files.c for how they are walked.
#define _GNU_SOURCE
#include "helper.h"
#include "helper-files.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#endif
// Deeper than this a tree that is to go is taken apart from above, so that no depth is too much.
enum { DEEP = 100, MAX_MOUNTS = 1024 };

static struct mount { char *at; bool tmpfs, writable; mode_t mode; } mounts[MAX_MOUNTS]; // mode: of a tmpfs, when it was mounted
static int mount_count;
static char working_directory[PATH_MAX];
static bool checking; // the second walk: what is still different ends it
static long put_back, removed;

static void differs(const char *path) {
  if (checking) die("%s is not as it was when the container started, and cannot be made so", path);
}

// ---- what the container is ----

// mountinfo writes space, tab, newline, backslash and, in options, the comma as \ooo.
static char *unescaped(char *text) {
  char *to = text;
  for (const char *c = text; *c; c++) {
    unsigned octal;
    if (*c == '\\' && sscanf(c + 1, "%3o", &octal) == 1) { *to++ = (char)octal; c += 3; }
    else *to++ = *c;
  }
  *to = 0;
  return text;
}

struct layers { char *lower, *upper; char options[PATH_MAX]; };

// The options of the root overlay that say what it is made of, and how its layers are to be read.
static void read_layers(char *options, struct layers *l) {
  *l = (struct layers){0};
  for (char *save = NULL, *word = strtok_r(options, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
    bool more = !strncmp(word, "lowerdir+=", 10);
    if (more || !strncmp(word, "lowerdir=", 9)) {
      char *joined = NULL, *value = unescaped(word + (more ? 10 : 9));
      if (asprintf(&joined, "%s%s%s", l->lower ? l->lower : "", l->lower ? ":" : "", value) < 0) die("out of memory");
      l->lower = joined;
    } else if (!strncmp(word, "upperdir=", 9)) l->upper = unescaped(strdup(word + 9));
    else if (!strncmp(word, "datadir+=", 9)) die("the root filesystem has layers of data alone (%s), which are not understood", word);
    else if (!strcmp(word, "userxattr") || !strcmp(word, "metacopy=on")) { strcat(l->options, ","); strcat(l->options, word); }
    else if (!strcmp(word, "redirect_dir=on") || !strcmp(word, "redirect_dir=follow")) strcat(l->options, ",redirect_dir=follow");
  }
  if (!l->lower || !l->upper) die("the root filesystem is an overlay without a layer of the container's own");
  if (strpbrk(l->lower, "\\,")) die("the layers %s have names that are not understood", l->lower);
}

static void read_mounts(int pid, struct layers *layers) {
  char path[64], *line = NULL, *root = NULL;
  size_t size = 0;
  snprintf(path, sizeof path, "/proc/%d/mountinfo", pid);
  FILE *f = fopen(path, "re");
  if (!f) die("the slot %d is gone:", pid);
  while (getline(&line, &size, f) > 0) {
    line[strcspn(line, "\n")] = 0;
    char *right = strstr(line, " - "), *save = NULL, *field[6] = {0}, *end[3] = {0};
    if (!right) continue;
    *right = 0;
    for (int i = 0; i < 6; i++) field[i] = strtok_r(i ? NULL : line, " ", &save);
    for (int i = 0; i < 3; i++) end[i] = strtok_r(i ? NULL : right + 3, " ", &save);
    if (!field[5] || !end[2]) die("%s has a line that is not understood", path);
    if (mount_count == MAX_MOUNTS) die("the slot has more than %d mounts", MAX_MOUNTS);
    char *at = strdup(unescaped(field[4]));
    if (!at) die("out of memory");
    if (!strcmp(at, "/")) root = strcmp(end[0], "overlay") ? NULL : strdup(end[2]);
    bool writable = !strncmp(field[5], "rw", 2) && !strncmp(end[2], "rw", 2);
    mounts[mount_count].at = at;
    char *mode = strstr(end[2], ",mode=");
    bool tmpfs = !strcmp(end[0], "tmpfs") && !strcmp(field[3], "/");
    mounts[mount_count++] = (struct mount){at, tmpfs, writable, mode ? (mode_t)strtoul(mode + 6, NULL, 8) : 01777};
  }
  free(line);
  fclose(f);
  if (!root) die("the root filesystem of the slot is no overlay, so nobody knows what it was");
  read_layers(root, layers);
}

// The last one at a place is the one that is seen.
static const struct mount *mount_at(const char *path) {
  for (int i = mount_count - 1; i >= 0; i--)
    if (!strcmp(mounts[i].at, path)) return &mounts[i];
  return NULL;
}

static bool is_mount(const char *path) { return mount_at(path) != NULL; }

static bool is_above(const char *path, const char *other) {
  size_t n = strlen(path);
  return !strcmp(path, "/") || (!strncmp(other, path, n) && other[n] == '/');
}

// Directories that the runtime made where the image has none: above its mounts, and the one that the slot stands in.
static bool is_held(const char *path) {
  if (!strcmp(path, working_directory) || is_above(path, working_directory)) return true;
  for (int i = 0; i < mount_count; i++)
    if (is_above(path, mounts[i].at)) return true;
  return false;
}

static void read_working_directory(int pid, int root) {
  char link[64];
  struct stat there, here;
  snprintf(link, sizeof link, "/proc/%d/cwd", pid);
  ssize_t n = readlink(link, working_directory, sizeof working_directory - 1);
  if (n < 0 || stat(link, &here)) die("the slot is gone:");
  working_directory[n] = 0;
  int fd = open_inside(root, working_directory, O_PATH, true);
  if (fd < 0 || fstat(fd, &there) || there.st_ino != here.st_ino || there.st_dev != here.st_dev) die("the directory that the slot stands in (%s) is gone", working_directory);
  close(fd);
}

// The lower layers as one, read-only. In a mount namespace of our own, which sees what the node sees: layers are named as there.
static int open_lower(int node, const struct layers *l, int *upper) {
  char path[64], *options, *base = strdup(l->upper);
  snprintf(path, sizeof path, "/proc/%d/ns/mnt", node);
  int ns = node ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (node && (ns < 0 || setns(ns, CLONE_NEWNS))) die("cannot enter the mounts of the node:");
  if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) die("cannot make a mount namespace:");
  *upper = open(l->upper, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (*upper < 0) die("cannot open the changed files %s:", l->upper);
  if (!strchr(l->lower, ':')) {
    // Without what is mounted in it. The descriptor of a tree only names it.
    int layer = (int)syscall(SYS_open_tree, AT_FDCWD, l->lower, OPEN_TREE_CLONE | O_CLOEXEC), fd = layer < 0 ? -1 : openat(layer, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) die("cannot open the layer %s:", l->lower);
    return fd;
  }
  // containerd names many layers by paths from the directory of all of them, where its ID/fs are.
  for (int up = 0; up < 2; up++) *(strrchr(base, '/') ? strrchr(base, '/') : base) = 0;
  if (*l->lower != '/' && chdir(*base ? base : "/")) die("cannot change to %s:", base);
  if (asprintf(&options, "lowerdir=%s%s", l->lower, l->options) < 0) die("out of memory");
  if (mount("overlay", "/run", "overlay", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, options)) die("cannot mount the layers of the image:");
  int fd = open("/run", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) die("cannot open the layers of the image:");
  free(options);
  free(base);
  return fd;
}

// ---- things that go ----

static int descriptors; // our own, in /proc, which need not be this one's where the node's layers are

// Only a regular file, whatever is put in its place meanwhile: to open a device may do something.
static int open_regular(int dir, const char *name) {
  char path[16];
  struct stat s;
  int place = open_inside(dir, name, O_PATH | O_NOFOLLOW, false), fd = -1;
  if (place < 0) return -1;
  errno = EINVAL;
  if (!fstat(place, &s) && S_ISREG(s.st_mode)) {
    snprintf(path, sizeof path, "%d", place);
    fd = openat(descriptors, path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  }
  int error = errno;
  close(place);
  errno = error;
  return fd;
}

// Immutable and append-only, which a container may say of a file, even if it is root's.
static bool is_frozen(int fd) {
  int flags;
  return !ioctl(fd, FS_IOC_GETFLAGS, &flags) && flags & (FS_IMMUTABLE_FL | FS_APPEND_FL);
}

static void thaw(int fd) {
  int flags;
  if (ioctl(fd, FS_IOC_GETFLAGS, &flags) || !(flags & (FS_IMMUTABLE_FL | FS_APPEND_FL))) return;
  flags &= ~(FS_IMMUTABLE_FL | FS_APPEND_FL);
  ioctl(fd, FS_IOC_SETFLAGS, &flags);
}

static int drop_file(int dir, const char *name) {
  if (!unlinkat(dir, name, 0) || errno == ENOENT) return 0;
  int fd = errno == EPERM ? open_regular(dir, name) : -1;
  if (fd < 0) return -1;
  thaw(fd);
  close(fd);
  return unlinkat(dir, name, 0);
}

static unsigned moved;

// Empties a directory. What lies too deep to be held open all the way is moved up into `top`, which is looked at until nothing is left.
static int drop_content(int top, int fd, int depth) {
  int found, result = 0;
  do {
    found = 0;
    int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = copy < 0 ? NULL : fdopendir(copy);
    if (!d) return -1;
    for (struct dirent *e; !result && (e = readdir(d));) {
      struct stat s;
      char up[64];
      if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") || fstatat(fd, e->d_name, &s, AT_SYMLINK_NOFOLLOW)) continue;
      found++;
      if (!S_ISDIR(s.st_mode)) {
        result = drop_file(fd, e->d_name);
        continue;
      }
      int below = open_inside(fd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, false);
      if (below >= 0) thaw(below);
      snprintf(up, sizeof up, ".rekindle-moved-%u", moved);
      if (below < 0) result = -1;
      else if (depth < DEEP) result = drop_content(top, below, depth + 1) || unlinkat(fd, e->d_name, AT_REMOVEDIR);
      else if (!syscall(SYS_renameat2, fd, e->d_name, top, up, RENAME_NOREPLACE)) moved++;
      else if (errno == EEXIST) moved++; // planted: with another name the next time
      else result = -1;
      if (below >= 0) close(below);
    }
    closedir(d);
  } while (!result && found);
  return result ? -1 : 0;
}

static void discard(int dir, const char *name, const struct stat *s, const char *path) {
  differs(path);
  removed++;
  if (!S_ISDIR(s->st_mode)) {
    if (drop_file(dir, name)) die("cannot remove %s from the slot:", path);
    return;
  }
  int fd = open_inside(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, false);
  if (fd < 0) die("cannot open %s of the slot:", path);
  thaw(fd);
  if (drop_content(fd, fd, 0) || unlinkat(dir, name, AT_REMOVEDIR)) die("cannot remove %s from the slot:", path);
  close(fd);
}

// ---- attributes ----

static bool is_ours(const char *name) {
  // The overlay's own, and the label, which comes with the mount.
  return strncmp(name, "trusted.overlay.", 16) && strncmp(name, "user.overlay.", 13) && strcmp(name, "security.selinux");
}

static bool has_all_xattrs(int of, int fd) {
  static char names[65536], value[65536], other[65536]; // the kernel's limits
  ssize_t n = flistxattr(of, names, sizeof names);
  for (char *name = names; n > 0 && name < names + n; name += strlen(name) + 1) {
    if (!is_ours(name)) continue;
    ssize_t size = fgetxattr(of, name, value, sizeof value);
    if (size < 0 || fgetxattr(fd, name, other, sizeof other) != size || memcmp(value, other, (size_t)size)) return false;
  }
  return n >= 0 || errno == EOPNOTSUPP;
}

static void drop_xattrs(int fd, const char *path) {
  char names[65536];
  ssize_t n = flistxattr(fd, names, sizeof names);
  for (char *name = names; n > 0 && name < names + n; name += strlen(name) + 1) {
    if (!is_ours(name)) continue;
    differs(path);
    if (fremovexattr(fd, name) && errno != ENODATA) die("cannot remove the attribute %s of %s:", name, path);
  }
}

static bool same_rights(const struct stat *a, const struct stat *b) {
  return ((a->st_mode ^ b->st_mode) & (S_IFMT | 07777)) == 0 && a->st_uid == b->st_uid && a->st_gid == b->st_gid;
}

static bool same_time(const struct stat *a, const struct stat *b) {
  return a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

// `timed`: whether it was as old as the image's: not where the runtime made something in it.
static void reset_attributes(int lower, int fd, bool timed, const char *path) {
  struct stat wanted, have;
  if (fstat(lower, &wanted) || fstat(fd, &have)) die("cannot look at %s:", path);
  bool same = same_rights(&wanted, &have) && has_all_xattrs(lower, fd) && has_all_xattrs(fd, lower);
  if (same && (!timed || same_time(&wanted, &have))) return;
  differs(path);
  if (!same) {
    put_back++;
    drop_xattrs(fd, path);
    if (same_attributes(lower, fd, &wanted)) die("cannot put back owner, mode or extended attributes of %s:", path);
  }
  if (timed && futimens(fd, (struct timespec[2]){{.tv_nsec = UTIME_OMIT}, wanted.st_mtim})) die("cannot put back the time of %s:", path);
}

// ---- things that come back ----

struct below { int lower, merged, depth; bool made; }; // made: the runtime made something in it

static void bring_back(int dir, const char *name, const struct stat *s, const char *path, void *arg) {
  struct below *b = arg;
  struct stat have;
  if (S_ISCHR(s->st_mode) && s->st_rdev == makedev(0, 0)) return; // a whiteout in the only layer
  if (!fstatat(b->merged, name, &have, AT_SYMLINK_NOFOLLOW)) return;
  differs(path);
  put_back++;
  if (S_ISREG(s->st_mode)) copy_file(dir, name, b->merged, name, s, path);
  else if (S_ISLNK(s->st_mode)) copy_link(dir, name, b->merged, name, s, path);
  else if (S_ISFIFO(s->st_mode)) copy_fifo(b->merged, name, s, path);
  else if (S_ISDIR(s->st_mode)) {
    if (b->depth >= DEPTH || mkdirat(b->merged, name, 0700)) die("cannot create %s in the slot:", path);
    struct below c = {open_inside(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, false), open_inside(b->merged, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, false), b->depth + 1, false};
    if (c.lower < 0 || c.merged < 0) die("cannot open %s:", path);
    each_entry(c.lower, path, bring_back, &c);
    if (same_attributes(c.lower, c.merged, s)) die("cannot put back owner, mode or extended attributes of %s:", path);
    close(c.lower);
    close(c.merged);
  } else if (mknodat(b->merged, name, s->st_mode, s->st_rdev) || fchownat(b->merged, name, s->st_uid, s->st_gid, AT_SYMLINK_NOFOLLOW) || fchmodat(b->merged, name, s->st_mode & 07777, 0))
    die("cannot put back %s:", path);
}

static bool same_content(int a, int b) {
  static char buffer[2][1 << 17];
  for (off_t at = 0;;) {
    ssize_t n = pread(a, buffer[0], sizeof buffer[0], at), m = pread(b, buffer[1], sizeof buffer[1], at);
    if (n != m || n < 0 || memcmp(buffer[0], buffer[1], (size_t)n)) return false;
    if (n == 0) return true;
    at += n;
  }
}

// What is left over in a second walk has been compared, or was copied by us.
static bool same_data(int lower, int merged) { return checking || same_content(lower, merged); }

static bool same_file(const struct below *b, const char *name, const struct stat *wanted, const struct stat *have) {
  if (wanted->st_size != have->st_size) return false;
  int lower = open_regular(b->lower, name), merged = open_regular(b->merged, name);
  bool same = lower >= 0 && merged >= 0 && !is_frozen(merged) && has_all_xattrs(lower, merged) && has_all_xattrs(merged, lower) && same_data(lower, merged);
  if (lower >= 0) close(lower);
  if (merged >= 0) close(merged);
  return same;
}

static bool same_link(const struct below *b, const char *name) {
  char target[2][PATH_MAX];
  ssize_t n = readlinkat(b->lower, name, target[0], PATH_MAX), m = readlinkat(b->merged, name, target[1], PATH_MAX);
  return n >= 0 && n == m && !memcmp(target[0], target[1], (size_t)n);
}

// Anything but a directory: as the image has it, or replaced by a copy.
static void reset_file(const struct below *b, const char *name, const struct stat *wanted, const struct stat *have, const char *path) {
  bool same = same_rights(wanted, have);
  if (same && S_ISREG(wanted->st_mode)) same = same_file(b, name, wanted, have);
  if (same && S_ISLNK(wanted->st_mode)) same = same_link(b, name);
  if (same && (S_ISCHR(wanted->st_mode) || S_ISBLK(wanted->st_mode))) same = wanted->st_rdev == have->st_rdev;
  if (same && same_time(wanted, have)) return;
  differs(path);
  if (same) {
    utimensat(b->merged, name, (struct timespec[2]){{.tv_nsec = UTIME_OMIT}, wanted->st_mtim}, AT_SYMLINK_NOFOLLOW);
    return;
  }
  discard(b->merged, name, have, path);
  removed--;
  bring_back(b->lower, name, wanted, path, (void *)b);
}

// ---- the root filesystem ----

static void reset_directory(int upper, int lower, int merged, const char *path, int depth);

static void reset_entry(int upper_dir, const char *name, const struct stat *s, const char *path, void *arg) {
  struct below *b = arg;
  struct stat wanted, have;
  bool in_image = b->lower >= 0 && !fstatat(b->lower, name, &wanted, AT_SYMLINK_NOFOLLOW) && !(S_ISCHR(wanted.st_mode) && wanted.st_rdev == makedev(0, 0));
  bool held = is_held(path);
  if (!in_image && (held || is_mount(path))) b->made = true;
  if (is_mount(path)) return; // what lies below a mount nobody saw
  bool there = !fstatat(b->merged, name, &have, AT_SYMLINK_NOFOLLOW);
  if (!there && !in_image) return; // a whiteout of nothing
  if (!there) return bring_back(b->lower, name, &wanted, path, b);
  if (!strcmp(path, "/etc/mtab") && !in_image && S_ISLNK(have.st_mode)) { b->made = true; return; } // as some runtimes do
  if (!in_image && !held) return discard(b->merged, name, &have, path);
  if (!S_ISDIR(have.st_mode) || (in_image && !S_ISDIR(wanted.st_mode))) {
    if (!in_image) die("%s, where the runtime made a directory, is none any more", path);
    if (((wanted.st_mode ^ have.st_mode) & S_IFMT) == 0) return reset_file(b, name, &wanted, &have, path);
    discard(b->merged, name, &have, path);
    return bring_back(b->lower, name, &wanted, path, b);
  }
  if (b->depth >= DEPTH) die("%s: directories nested more than %d deep", path, DEPTH);
  int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW;
  // A directory of the image that was deleted and made again is a directory here too. A whiteout cannot be: it would not be `there`.
  int upper = S_ISDIR(s->st_mode) ? open_inside(upper_dir, name, flags, false) : -1, merged = open_inside(b->merged, name, flags, false);
  int lower = in_image ? open_inside(b->lower, name, flags, false) : -1;
  if (upper < 0 || merged < 0 || (in_image && lower < 0)) die("cannot open %s of the slot:", path);
  reset_directory(upper, lower, merged, path, b->depth + 1);
  close(upper);
  close(merged);
  if (in_image) close(lower);
}

// `lower` is -1 where the image has no such directory.
static void reset_directory(int upper, int lower, int merged, const char *path, int depth) {
  struct below b = {lower, merged, depth, false};
  if (is_frozen(merged)) { differs(path); thaw(merged); }
  each_entry(upper, path, reset_entry, &b);
  if (lower < 0) return drop_xattrs(merged, path);
  // What the upper directory hides as a whole (opaque, renamed) is no entry of it.
  each_entry(lower, path, bring_back, &b);
  reset_attributes(lower, merged, !b.made, path);
}

// ---- volumes, and what else is only the container's ----

static void empty_entry(int dir, const char *name, const struct stat *s, const char *path, void *arg) {
  if (is_mount(path)) return;
  if (!S_ISDIR(s->st_mode) || !is_held(path)) return discard(dir, name, s, path);
  int fd = open_inside(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, false);
  if (fd < 0) die("cannot open %s of the slot:", path);
  each_entry(fd, path, empty_entry, arg);
  close(fd);
}

static const struct device { const char *name; unsigned major, minor; } devices[] = {
    {"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}, {"ptmx", 5, 2}, {"console", 5, 1}, {"fuse", 10, 229},
};
static const struct { const char *name, *target; } device_links[] = {
    {"fd", "/proc/self/fd"}, {"stdin", "/proc/self/fd/0"}, {"stdout", "/proc/self/fd/1"}, {"stderr", "/proc/self/fd/2"}, {"core", "/proc/kcore"}, {"ptmx", "pts/ptmx"}, {"ptmx", "/dev/pts/ptmx"},
};

static const struct device *device_of(const char *name, const struct stat *s) {
  for (size_t i = 0; i < sizeof devices / sizeof *devices && S_ISCHR(s->st_mode); i++)
    if (!strcmp(name, devices[i].name) && s->st_rdev == makedev(devices[i].major, devices[i].minor)) return devices + i;
  return NULL;
}

// /dev holds what every runtime puts there, mounts, and whatever the application left.
static void device_entry(int dir, const char *name, const struct stat *s, const char *path, void *arg) {
  char target[64] = "";
  if (S_ISLNK(s->st_mode) && readlinkat(dir, name, target, sizeof target - 1) > 0)
    for (size_t i = 0; i < sizeof device_links / sizeof *device_links; i++)
      if (!strcmp(name, device_links[i].name) && !strcmp(target, device_links[i].target)) return;
  if (!device_of(name, s)) return empty_entry(dir, name, s, path, arg);
  if (is_mount(path) || ((s->st_mode & 07777) == 0666 && s->st_uid == 0) || !strcmp(name, "console")) return;
  differs(path);
  put_back++;
  if (fchownat(dir, name, 0, s->st_gid, AT_SYMLINK_NOFOLLOW) || fchmodat(dir, name, 0666, 0)) die("cannot put back owner and mode of %s:", path);
}

static void check_devices(int dir) {
  static const char *needed[] = {"null", "zero", "full", "random", "urandom", "tty"};
  for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
    struct stat s;
    if (fstatat(dir, needed[i], &s, AT_SYMLINK_NOFOLLOW) || !device_of(needed[i], &s)) die("/dev/%s is gone", needed[i]);
  }
}

// Symbolic links there are the runtime's, for controllers that share a hierarchy.
static void cgroup_entry(int dir, const char *name, const struct stat *s, const char *path, void *arg) {
  if (!S_ISLNK(s->st_mode)) empty_entry(dir, name, s, path, arg);
}

static void reset_mount(int root, const char *at, visit *f) {
  int fd = open_inside(root, at, O_RDONLY | O_DIRECTORY, true);
  if (fd < 0) die("cannot open %s of the slot:", at);
  if (is_frozen(fd)) { differs(at); thaw(fd); }
  each_entry(fd, at, f, NULL);
  drop_xattrs(fd, at);
  if (f == device_entry) check_devices(fd);
  close(fd);
}

// An emptyDir is everybody's, and its group's where the pod has an fsGroup.
static void reset_volume(int root, const char *at, int group) {
  bool grouped = group >= 0 && strcmp(at, "/dev/shm");
  const struct mount *m = mount_at(at);
  mode_t mode = (m->tmpfs ? m->mode : 0777) | (grouped ? S_ISGID : 0);
  gid_t gid = grouped ? (gid_t)group : 0;
  if (!m->writable) return;
  struct stat s;
  reset_mount(root, at, empty_entry);
  int fd = open_inside(root, at, O_RDONLY | O_DIRECTORY, true);
  if (fd < 0 || fstat(fd, &s)) die("cannot open %s of the slot:", at);
  if ((s.st_mode & 07777) != mode || s.st_uid != 0 || s.st_gid != gid) {
    differs(at);
    put_back++;
    if (fchown(fd, 0, gid) || fchmod(fd, mode)) die("cannot put back owner and mode of %s:", at);
  }
  close(fd);
}

void files_reset(int pid, int root, int node, int group, const struct place *volumes, int n) {
  struct layers layers;
  int upper;
  read_mounts(pid, &layers);
  read_working_directory(pid, root);
  for (int i = 0; i < n; i++)
    if (!is_mount(volumes[i].at)) die("%s is no mount of the slot", volumes[i].at);
  descriptors = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (descriptors < 0) die("cannot open /proc/self/fd:");
  // Opened for reading: `root` itself may be a descriptor that only names it.
  int merged = openat(root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), lower = open_lower(node, &layers, &upper);
  if (merged < 0) die("cannot open the root of the slot:");
  umask(0);
  for (int pass = 0; pass < 2; pass++) {
    checking = pass;
    reset_directory(upper, lower, merged, "/", 0);
    for (int i = 0; i < n; i++) reset_volume(root, volumes[i].at, group);
    for (int i = 0; i < mount_count; i++) {
      if (!mounts[i].tmpfs || !mounts[i].writable) continue;
      if (!strcmp(mounts[i].at, "/dev")) reset_mount(root, "/dev", device_entry);
      if (!strcmp(mounts[i].at, "/sys/fs/cgroup")) reset_mount(root, "/sys/fs/cgroup", cgroup_entry);
    }
  }
  printf("{\"removed\":%ld,\"putBack\":%ld}\n", removed, put_back);
}
