// Files that travel with a snapshot: out of a stopped container, and into a slot with a way back.
//
// The trees come from containers and go into containers, so every name in them may be hostile. Each step opens one name below a descriptor
// (never a path), follows no symlink and crosses no mount.
#define _GNU_SOURCE
#include "helper.h"
#include "helper-files.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#define WHITEOUT ".wh."
#define OPAQUE ".wh..wh..opq"
// A socket of the seed was bound there: nothing to copy, but what criu makes at its name must go when the restore fails.
#define SOCKET ".wh..wh.socket."
#define ASIDE ".rekindle-aside-"

void each_entry(int fd, const char *path, visit *f, void *arg) {
  if (strlen(path) > PATH_MAX - 300) die("%s: path too long", path);
  int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *d = copy < 0 ? NULL : fdopendir(copy);
  if (!d) die("cannot read the directory %s:", path);
  for (struct dirent *e; (e = readdir(d));) {
    if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
    char below[PATH_MAX];
    snprintf(below, sizeof below, "%s%s%s", path, *path && strcmp(path, "/") ? "/" : "", e->d_name);
    struct stat s;
    if (fstatat(fd, e->d_name, &s, AT_SYMLINK_NOFOLLOW)) {
      if (errno == ENOENT) continue;
      die("cannot look at %s:", below);
    }
    f(fd, e->d_name, &s, below, arg);
  }
  closedir(d);
}

// Everything a file is besides its content. `to` may be a descriptor opened by O_PATH's opposite only: a real one. -1 with errno.
int same_attributes(int from, int to, const struct stat *s) {
  if (fchown(to, s->st_uid, s->st_gid) || fchmod(to, s->st_mode & 07777)) return -1;
  static char names[65536], value[65536]; // the kernel's limits of both
  ssize_t n = flistxattr(from, names, sizeof names);
  if (n < 0 && errno != EOPNOTSUPP) return -1;
  for (char *name = names; n > 0 && name < names + n; name += strlen(name) + 1) {
    if (!strncmp(name, "trusted.", 8) || !strncmp(name, "user.overlay.", 13) || !strcmp(name, "security.selinux")) continue;
    ssize_t size = fgetxattr(from, name, value, sizeof value);
    if (size < 0 || fsetxattr(to, name, value, (size_t)size, 0)) return -1;
  }
  struct timespec times[2] = {s->st_atim, s->st_mtim};
  futimens(to, times);
  return 0;
}

static void copy_attributes(int from, int to, const struct stat *s, const char *path) {
  if (same_attributes(from, to, s)) die("cannot copy owner, mode or extended attributes of %s:", path);
}

static void copy_content(int from, int to, off_t size, const char *path) {
  if (size == 0 || ioctl(to, FICLONE, from) == 0) return;
  if (ftruncate(to, size)) die("cannot size %s:", path);
  for (off_t at = 0; at < size;) {
    off_t data = lseek(from, at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) return; // a hole to the end
    off_t end = data < 0 ? size : lseek(from, data, SEEK_HOLE);
    if (data < 0) data = at;
    if (end < 0 || end > size) end = size;
    if (data >= end) return;
    off_t in = data, out = data;
    while (in < end) {
      ssize_t n = copy_file_range(from, &in, to, &out, (size_t)(end - in), 0);
      if (n > 0) continue;
      if (n == 0) return; // it was truncated meanwhile
      if (errno != EXDEV && errno != EINVAL && errno != EOPNOTSUPP && errno != ENOSYS) die("cannot copy %s:", path);
      static char buffer[1 << 18];
      n = pread(from, buffer, sizeof buffer < (size_t)(end - in) ? sizeof buffer : (size_t)(end - in), in);
      if (n < 0) die("cannot read %s:", path);
      if (n == 0) return;
      for (ssize_t done = 0, w; done < n; done += w)
        if ((w = pwrite(to, buffer + done, (size_t)(n - done), out + done)) < 0) die("cannot write %s:", path);
      in += n;
      out += n;
    }
    at = end;
  }
}

void copy_file(int from_dir, const char *from_name, int to_dir, const char *to_name, const struct stat *s, const char *path) {
  int from = open_inside(from_dir, from_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, false);
  if (from < 0) die("cannot open %s:", path);
  int to = openat(to_dir, to_name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (to < 0) die("cannot create %s:", path);
  copy_content(from, to, s->st_size, path);
  copy_attributes(from, to, s, path);
  close(from);
  close(to);
}

void copy_link(int from_dir, const char *from_name, int to_dir, const char *to_name, const struct stat *s, const char *path) {
  char target[PATH_MAX];
  ssize_t n = readlinkat(from_dir, from_name, target, sizeof target - 1);
  if (n < 0) die("cannot read the link %s:", path);
  target[n] = 0;
  struct timespec times[2] = {s->st_atim, s->st_mtim};
  if (symlinkat(target, to_dir, to_name) || fchownat(to_dir, to_name, s->st_uid, s->st_gid, AT_SYMLINK_NOFOLLOW)) die("cannot create the link %s:", path);
  utimensat(to_dir, to_name, times, AT_SYMLINK_NOFOLLOW);
}

void copy_fifo(int to_dir, const char *to_name, const struct stat *s, const char *path) {
  if (mkfifoat(to_dir, to_name, 0600) || fchownat(to_dir, to_name, s->st_uid, s->st_gid, AT_SYMLINK_NOFOLLOW) || fchmodat(to_dir, to_name, s->st_mode & 07777, 0))
    die("cannot create the fifo %s:", path);
  utimensat(to_dir, to_name, (struct timespec[2]){s->st_atim, s->st_mtim}, AT_SYMLINK_NOFOLLOW);
}

// ---- out ----

struct out { const char *at, *mounts; int target; int depth; };

static bool is_mount_point(const char *mounts, const char *path) {
  size_t n = strlen(path);
  for (const char *m = mounts; *m; m += strlen(m) + 1)
    if (!strncmp(m, path, n) && !m[n]) return true;
  return false;
}

// The mount points of a process, one after the other, each ended by a zero byte, the list by an empty one. mountinfo writes space, tab,
// newline and backslash as \ooo.
static char *mount_points(int pid) {
  char path[64], line[8192];
  snprintf(path, sizeof path, "/proc/%d/mountinfo", pid);
  FILE *f = fopen(path, "re");
  if (!f) die("cannot read %s:", path);
  size_t size = 1, used = 0;
  char *list = malloc(size);
  while (fgets(line, sizeof line, f)) {
    char at[4097];
    if (sscanf(line, "%*s %*s %*s %*s %4096s", at) != 1) continue;
    size += strlen(at) + 1;
    if (!(list = realloc(list, size))) die("out of memory");
    for (const char *c = at; *c; c++) {
      int octal;
      if (*c == '\\' && sscanf(c + 1, "%3o", &octal) == 1) { list[used++] = (char)octal; c += 3; }
      else list[used++] = *c;
    }
    list[used++] = 0;
  }
  fclose(f);
  list[used] = 0;
  return list;
}

static bool has_attribute(int fd, const char *name, const char *wanted) {
  char both[2][64], value[16];
  snprintf(both[0], 64, "trusted.overlay.%s", name);
  snprintf(both[1], 64, "user.overlay.%s", name);
  for (int i = 0; i < 2; i++) {
    ssize_t n = fgetxattr(fd, both[i], value, sizeof value);
    if (wanted ? n == 1 && *value == *wanted : n >= 0 || errno == ERANGE) return true;
  }
  return false;
}

static void mark(int dir, const char *name, const char *path) {
  int fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) die("cannot note what was deleted at %s:", path);
  close(fd);
}

static void out_entry(int dir, const char *name, const struct stat *s, const char *path, void *arg) {
  struct out *o = arg;
  char inside[PATH_MAX];
  snprintf(inside, sizeof inside, "%s%s%s", strcmp(o->at, "/") ? o->at : "", *path == '/' ? "" : "/", path);
  if (is_mount_point(o->mounts, inside)) return;
  if (!strncmp(name, WHITEOUT, strlen(WHITEOUT))) die("%s: a name that begins with .wh. cannot travel", inside);
  if (S_ISCHR(s->st_mode) && s->st_rdev == makedev(0, 0)) {
    char gone[300];
    snprintf(gone, sizeof gone, WHITEOUT "%s", name);
    mark(o->target, gone, inside);
  } else if (S_ISREG(s->st_mode)) copy_file(dir, name, o->target, name, s, inside);
  else if (S_ISLNK(s->st_mode)) copy_link(dir, name, o->target, name, s, inside);
  else if (S_ISFIFO(s->st_mode)) copy_fifo(o->target, name, s, inside);
  else if (S_ISDIR(s->st_mode)) {
    if (o->depth >= DEPTH) die("%s: directories nested more than %d deep cannot travel", inside, DEPTH);
    int from = open_inside(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, false);
    if (from < 0 && errno == EXDEV) return; // a mount that mountinfo names otherwise
    if (from < 0) die("cannot open %s:", inside);
    if (has_attribute(from, "redirect", NULL)) die("%s: a renamed directory of the image cannot travel", inside);
    if (mkdirat(o->target, name, 0700)) die("cannot create %s:", inside);
    int to = openat(o->target, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (to < 0) die("cannot open %s:", inside);
    if (has_attribute(from, "opaque", "y")) mark(to, OPAQUE, inside);
    struct out below = {o->at, o->mounts, to, o->depth + 1};
    each_entry(from, path, out_entry, &below);
    copy_attributes(from, to, s, inside);
    close(from);
    close(to);
  } else if (S_ISSOCK(s->st_mode) && strlen(name) + strlen(SOCKET) <= NAME_MAX) {
    char bound[NAME_MAX + 1];
    snprintf(bound, sizeof bound, SOCKET "%s", name);
    mark(o->target, bound, inside);
  }
  // Devices are the runtime's to give.
}

void files_out(int pid, const char *at, int source, const char *target) {
  struct stat s;
  if (mkdir(target, 0700) || fstat(source, &s)) die("cannot create %s:", target);
  char *mounts = mount_points(pid);
  struct out o = {at, mounts, open(target, O_RDONLY | O_DIRECTORY | O_CLOEXEC), 0};
  if (o.target < 0) die("cannot open %s:", target);
  each_entry(source, "", out_entry, &o);
  copy_attributes(source, o.target, &s, target);
  close(o.target);
  free(mounts);
}

// ---- journal ----
// Records, each field ended by a zero byte, written before the deed:
//   P at                        from here on paths are below this place
//   N path                      something new at path: undone by removing it
//   A path aside                what was at path lies at aside: undone by moving it back
//   M path mode uid gid         the directory's attributes were these
//   C pid                       decided: the application runs, as the slot's process `pid`; the originals may go
//   U                           it does not run after all

static int journal_fd = -1;

static void record(const char *kind, const char *a, const char *b) {
  char text[2 * PATH_MAX + 8];
  size_t n = 0;
  const char *field[3] = {kind, a, b};
  for (int i = 0; i < 3 && field[i]; i++) {
    size_t length = strlen(field[i]) + 1;
    if (n + length > sizeof text) die("%s: path too long", a);
    memcpy(text + n, field[i], length);
    n += length;
  }
  if (write(journal_fd, text, n) != (ssize_t)n) die("cannot write the journal:");
}

// Moves an entry, descending where a directory of the image itself cannot be renamed (overlayfs: EXDEV). Safe to run again half way.
static int move(int from_dir, const char *from, int to_dir, const char *to) {
  if (!renameat(from_dir, from, to_dir, to)) return 0;
  struct stat s;
  if (fstatat(from_dir, from, &s, AT_SYMLINK_NOFOLLOW)) return -1;
  if (!S_ISDIR(s.st_mode) || (errno != EXDEV && errno != ENOTEMPTY && errno != EEXIST)) return -1;
  if (mkdirat(to_dir, to, 0700) && errno != EEXIST) return -1;
  int source = openat(from_dir, from, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  int target = openat(to_dir, to, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  int copy = source < 0 ? -1 : openat(source, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), result = 0;
  DIR *d = copy < 0 ? NULL : fdopendir(copy);
  if (!d || target < 0) result = -1;
  for (struct dirent *e; !result && (e = readdir(d));)
    if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..")) result = move(source, e->d_name, target, e->d_name);
  if (!result) result = same_attributes(source, target, &s);
  if (d) closedir(d);
  if (source >= 0) close(source);
  if (target >= 0) close(target);
  if (!result && unlinkat(from_dir, from, AT_REMOVEDIR)) result = -1;
  return result;
}

static int remove_tree(int dir, const char *name) {
  if (!unlinkat(dir, name, 0) || errno == ENOENT) return 0;
  if (errno != EISDIR && errno != EPERM) return -1;
  int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return -1;
  int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), result = 0;
  DIR *d = copy < 0 ? NULL : fdopendir(copy);
  if (!d) { close(fd); return -1; }
  for (struct dirent *e; (e = readdir(d));)
    if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..")) result |= remove_tree(fd, e->d_name);
  closedir(d);
  close(fd);
  return result | unlinkat(dir, name, AT_REMOVEDIR);
}

// ---- in ----

struct in { int target; int depth; };
static unsigned asides;
static unsigned long long aside_id; // nobody can have planted a file of that name

static void put_aside(int dir, const char *name, const char *path) {
  char aside[64], aside_path[PATH_MAX];
  snprintf(aside, sizeof aside, ASIDE "%016llx-%u", aside_id, asides++);
  const char *slash = strrchr(path, '/');
  snprintf(aside_path, sizeof aside_path, "%.*s%s", slash ? (int)(slash - path + 1) : 0, path, aside);
  record("A", path, aside_path);
  if (move(dir, name, dir, aside)) die("cannot set %s aside:", path);
}

static void in_entry(int dir, const char *name, const struct stat *s, const char *path, void *arg);

// Gives a directory that was there already the owner and mode that it had in the seed.
static void adjust(int to, const struct stat *have, const struct stat *wanted, const char *path) {
  if (((have->st_mode ^ wanted->st_mode) & 07777) == 0 && have->st_uid == wanted->st_uid && have->st_gid == wanted->st_gid) return;
  char was[64];
  snprintf(was, sizeof was, "%o %u %u", have->st_mode & 07777, have->st_uid, have->st_gid);
  record("M", path, was);
  if (fchown(to, wanted->st_uid, wanted->st_gid) || fchmod(to, wanted->st_mode & 07777)) die("cannot set owner and mode of %s:", path);
}

static void in_directory(int from, int to_dir, const char *name, const struct stat *s, const char *path, int depth) {
  if (depth >= DEPTH) die("%s: directories nested too deeply", path);
  struct stat have;
  bool there = !fstatat(to_dir, name, &have, AT_SYMLINK_NOFOLLOW), opaque = !faccessat(from, OPAQUE, F_OK, AT_SYMLINK_NOFOLLOW);
  if (there && (opaque || !S_ISDIR(have.st_mode))) {
    put_aside(to_dir, name, path);
    there = false;
  }
  if (!there) {
    record("N", path, NULL);
    if (mkdirat(to_dir, name, 0700)) die("cannot create %s in the slot:", path);
  }
  int to = open_inside(to_dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, false);
  if (to < 0) die("cannot open %s of the slot:", path);
  if (there) adjust(to, &have, s, path);
  struct in below = {to, depth + 1};
  each_entry(from, path, in_entry, &below);
  struct timespec times[2] = {s->st_atim, s->st_mtim};
  if (there) futimens(to, times);
  else copy_attributes(from, to, s, path);
  close(to);
}

static void in_entry(int dir, const char *name, const struct stat *s, const char *path, void *arg) {
  struct in *i = arg;
  struct stat have;
  if (!strcmp(name, OPAQUE)) return;
  if (!strncmp(name, WHITEOUT, strlen(WHITEOUT))) {
    bool bound = !strncmp(name, SOCKET, strlen(SOCKET));
    const char *gone = name + strlen(bound ? SOCKET : WHITEOUT);
    char gone_path[PATH_MAX];
    snprintf(gone_path, sizeof gone_path, "%.*s%s", (int)(strlen(path) - strlen(name)), path, gone);
    if (!*gone || !strcmp(gone, ".") || !strcmp(gone, "..")) die("%s: not a whiteout", path);
    if (!fstatat(i->target, gone, &have, AT_SYMLINK_NOFOLLOW)) put_aside(i->target, gone, gone_path);
    if (bound) record("N", gone_path, NULL);
    return;
  }
  if (S_ISDIR(s->st_mode)) {
    int from = open_inside(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, false);
    if (from < 0) die("cannot open %s:", path);
    in_directory(from, i->target, name, s, path, i->depth);
    close(from);
    return;
  }
  if (!fstatat(i->target, name, &have, AT_SYMLINK_NOFOLLOW)) put_aside(i->target, name, path);
  record("N", path, NULL);
  if (S_ISREG(s->st_mode)) copy_file(dir, name, i->target, name, s, path);
  else if (S_ISLNK(s->st_mode)) copy_link(dir, name, i->target, name, s, path);
  else if (S_ISFIFO(s->st_mode)) copy_fifo(i->target, name, s, path);
  else die("%s: neither file, directory, link nor fifo", path);
}

void files_in(int root, const char *files, const struct place *places, int n, const char *journal) {
  journal_fd = open(journal, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
  if (journal_fd < 0) die("cannot create the journal %s:", journal);
  int base = open(files, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (base < 0) die("cannot open %s:", files);
  if (getrandom(&aside_id, sizeof aside_id, 0) != sizeof aside_id) die("cannot draw random bytes:");
  for (int k = 0; k < n; k++) {
    int from = open_inside(base, places[k].dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, false);
    if (from < 0 && errno == ENOENT) continue;
    int to = open_inside(root, places[k].at, O_RDONLY | O_DIRECTORY, true);
    if (from < 0 || to < 0) die("cannot open %s:", places[k].at);
    record("P", places[k].at, NULL);
    struct stat wanted, have;
    if (fstat(from, &wanted) || fstat(to, &have)) die("cannot look at %s:", places[k].at);
    adjust(to, &have, &wanted, ".");
    struct in i = {to, 0};
    each_entry(from, "", in_entry, &i);
    futimens(to, (struct timespec[2]){wanted.st_atim, wanted.st_mtim});
    close(from);
    close(to);
  }
  close(base);
  close(journal_fd);
  journal_fd = -1;
}

struct step { const char *kind, *a, *b; int place; };

// Opens the directory of `path` and points *name at its last part.
static int parent_of(int place, const char *path, const char **name) {
  char dir[PATH_MAX];
  const char *slash = strrchr(path, '/');
  *name = slash ? slash + 1 : path;
  if (!slash) return openat(place, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  snprintf(dir, sizeof dir, "%.*s", (int)(slash - path), path);
  return open_inside(place, dir, O_RDONLY | O_DIRECTORY, false);
}

static int take_back(int place, const struct step *s) {
  const char *name, *aside;
  int dir = parent_of(place, s->a, &name), result = 0;
  if (dir < 0) return errno == ENOENT ? 0 : -1;
  if (*s->kind == 'N') result = remove_tree(dir, name);
  else if (*s->kind == 'A') {
    int same = parent_of(place, s->b, &aside);
    struct stat there;
    if (same >= 0 && !fstatat(same, aside, &there, AT_SYMLINK_NOFOLLOW)) result = move(same, aside, dir, name);
    if (same >= 0) close(same);
  } else if (*s->kind == 'M') {
    unsigned mode, uid, gid;
    int fd = open_inside(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, false);
    if (fd < 0 || sscanf(s->b, "%o %u %u", &mode, &uid, &gid) != 3 || fchown(fd, uid, gid) || fchmod(fd, mode)) result = -1;
    if (fd >= 0) close(fd);
  }
  close(dir);
  return result;
}

static int drop_original(int place, const struct step *s) {
  const char *aside;
  int dir = *s->kind == 'A' ? parent_of(place, s->b, &aside) : -1;
  if (dir < 0) return 0;
  int result = remove_tree(dir, aside);
  close(dir);
  return result;
}

int files_note(const char *journal, const char *kind, int pid) {
  int fd = open(journal, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  char text[32];
  int n = snprintf(text, sizeof text, pid ? "%s%c%d" : "%s", kind, 0, pid) + 1;
  bool written = fd >= 0 && write(fd, text, (size_t)n) == n;
  if (fd >= 0) close(fd);
  return written ? 0 : -1;
}

// A journal, read whole. `decided` is the application's number in the slot where the journal ends in a `C`.
struct journal { char *text; struct step *steps; int count, decided, places, place[MAX_PLACES]; bool lost; };

static int read_journal(int root, const char *path, struct journal *j) {
  *j = (struct journal){0};
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return errno == ENOENT ? 0 : -1;
  off_t size = lseek(fd, 0, SEEK_END);
  // A few zero bytes more than the file has, so that a record cut short still ends.
  j->text = calloc(1, (size_t)size + 4);
  j->steps = calloc((size_t)size / 2 + 1, sizeof *j->steps);
  bool whole = j->text && j->steps && pread(fd, j->text, (size_t)size, 0) == size;
  close(fd);
  if (!whole) return -1;
  for (char *at = j->text, *end = at + size; at < end;) {
    struct step s = {.kind = at};
    at += strlen(at) + 1;
    if (*s.kind == 'U') { j->decided = 0; continue; }
    s.a = at;
    at += strlen(at) + 1;
    if (*s.kind == 'A' || *s.kind == 'M') { s.b = at; at += strlen(at) + 1; }
    if (at > end) break; // the last record was not whole, so its deed was not begun
    if (*s.kind == 'C') { j->decided = atoi(s.a); continue; }
    if (*s.kind == 'P') {
      if (root < 0) continue;
      if (j->places == MAX_PLACES) return -1;
      j->place[j->places++] = open_inside(root, s.a, O_RDONLY | O_DIRECTORY, true);
      continue;
    }
    if (j->places == 0 || (s.place = j->place[j->places - 1]) < 0) { j->lost = root >= 0; continue; }
    j->steps[j->count++] = s;
  }
  return 0;
}

static void close_journal(struct journal *j) {
  for (int i = 0; i < j->places; i++) if (j->place[i] >= 0) close(j->place[i]);
  free(j->steps);
  free(j->text);
}

int files_decided(const char *journal) {
  struct journal j;
  int decided = read_journal(-1, journal, &j) ? 0 : j.decided;
  close_journal(&j);
  return decided;
}

int files_commit(int root, const char *journal) {
  struct journal j;
  int result = read_journal(root, journal, &j);
  for (int i = 0; i < j.count; i++) result |= drop_original(j.steps[i].place, &j.steps[i]);
  close_journal(&j);
  if (!result) unlink(journal);
  return result;
}

int files_undo(int root, const char *journal) {
  struct journal j;
  int result = read_journal(root, journal, &j);
  if (j.lost) result = -1;
  for (int i = j.count - 1; i >= 0; i--)
    if (take_back(j.steps[i].place, &j.steps[i])) { fprintf(stderr, "helper: cannot put back %s: %s\n", j.steps[i].a, strerror(errno)); result = -1; }
  close_journal(&j);
  if (!result) unlink(journal);
  return result;
}
