// A clone's rights come from its snapshot, not from the slot. Before its first instruction they are compared: none may be more than the slot's.
// /proc here is that of the slot's PID namespace, and the slot is process 1 of it.
#define _GNU_SOURCE
#include "helper.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// Numbers of capabilities, from linux/capability.h.
enum { SETGID = 6, SETUID = 7, SYS_ADMIN = 21 };
#define HAS(set, capability) ((set) >> (capability) & 1)

struct rights {
  unsigned uid[4], gid[4]; // real, effective, saved, file system
  unsigned groups[1024];
  int n_groups, no_new_privs, seccomp, filters;
  bool more_groups; // than we have room for
  uint64_t inh, prm, eff, bnd, amb;
  char state; // proc_pid_status(5): Z and X run no instruction any more
};

static char reason[512];

static const char *because(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(reason, sizeof reason, format, arguments);
  va_end(arguments);
  return reason;
}

static bool read_rights(const char *path, struct rights *r) {
  FILE *f = fopen(path, "re");
  if (!f) return false;
  memset(r, 0, sizeof *r);
  int seen = 0;
  char line[16384];
  while (fgets(line, sizeof line, f)) {
    char *value = strchr(line, ':');
    if (!value) continue;
    *value++ = 0;
    if (!strcmp(line, "State")) sscanf(value, " %c", &r->state);
    unsigned *ids = !strcmp(line, "Uid") ? r->uid : !strcmp(line, "Gid") ? r->gid : NULL;
    uint64_t *set = !strcmp(line, "CapInh") ? &r->inh : !strcmp(line, "CapPrm") ? &r->prm : !strcmp(line, "CapEff") ? &r->eff
                  : !strcmp(line, "CapBnd") ? &r->bnd : !strcmp(line, "CapAmb") ? &r->amb : NULL;
    if (ids) seen += sscanf(value, "%u %u %u %u", ids, ids + 1, ids + 2, ids + 3) == 4;
    else if (set) { *set = strtoull(value, NULL, 16); seen++; }
    else if (!strcmp(line, "NoNewPrivs")) { r->no_new_privs = atoi(value); seen++; }
    else if (!strcmp(line, "Seccomp")) { r->seccomp = atoi(value); seen++; }
    else if (!strcmp(line, "Seccomp_filters")) r->filters = atoi(value);
    else if (!strcmp(line, "Groups")) {
      r->more_groups = !strchr(value, '\n');
      for (char *word = strtok(value, " \t\n"); word; word = strtok(NULL, " \t\n")) {
        if (r->n_groups < 1024) r->groups[r->n_groups++] = (unsigned)strtoul(word, NULL, 10);
        else r->more_groups = true;
      }
    }
  }
  fclose(f);
  return seen >= 8;
}

static bool among(unsigned id, const unsigned *list, int n) {
  for (int i = 0; i < n; i++)
    if (list[i] == id) return true;
  return false;
}

static const char *more_rights(const struct rights *slot, const struct rights *task) {
  // What the slot's process may become by itself. What it could become by a setuid program does not count: nobody knows that there is one.
  uint64_t reach = slot->prm | slot->inh;
  for (int i = 0; i < 4; i++) {
    if (!HAS(reach, SETUID) && !among(task->uid[i], slot->uid, 4)) return because("uid %u, the slot runs as %u and cannot change it", task->uid[i], slot->uid[0]);
    if (!HAS(reach, SETGID) && !among(task->gid[i], slot->gid, 4) && !among(task->gid[i], slot->groups, slot->n_groups))
      return because("gid %u, the slot runs as %u and cannot change it", task->gid[i], slot->gid[0]);
  }
  for (int i = 0; i < task->n_groups && !HAS(reach, SETGID); i++)
    if (!among(task->groups[i], slot->groups, slot->n_groups) && !among(task->groups[i], slot->gid, 4)) return because("group %u, which the slot is not in", task->groups[i]);
  if (task->more_groups && !HAS(reach, SETGID)) return because("more groups than can be compared");
  uint64_t held = task->inh | task->prm | task->eff | task->amb;
  if (held & ~reach) return because("capabilities %llx, which the slot does not have", (unsigned long long)(held & ~reach));
  if (task->bnd & ~slot->bnd) return because("bounding set capabilities %llx, which the slot does not have", (unsigned long long)(task->bnd & ~slot->bnd));
  if (slot->no_new_privs && !task->no_new_privs) return because("new privileges are allowed, the slot has no_new_privs");
  if (slot->seccomp && slot->seccomp != task->seccomp) return because("seccomp mode %d, the slot has %d", task->seccomp, slot->seccomp);
  if (slot->filters > task->filters) return because("%d seccomp filters, the slot has %d", task->filters, slot->filters);
  return NULL;
}

static void read_line(const char *path, char *text, size_t size) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? -1 : read(fd, text, size - 1);
  if (fd >= 0) close(fd);
  text[n < 0 ? 0 : n] = 0;
}

static ino_t namespace_of(int pid, const char *name) {
  char path[64];
  struct stat s;
  snprintf(path, sizeof path, "/proc/%d/ns/%s", pid, name);
  return stat(path, &s) ? 0 : s.st_ino;
}

// Each line of the task's cgroup file must be the slot's, or below it.
static const char *other_cgroup(int pid) {
  char path[64], slot[8192], task[8192];
  read_line("/proc/1/cgroup", slot, sizeof slot);
  snprintf(path, sizeof path, "/proc/%d/cgroup", pid);
  read_line(path, task, sizeof task);
  char *save = NULL;
  for (char *line = strtok_r(task, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
    bool found = false;
    for (char *have = slot; *have && !found;) {
      size_t n = strcspn(have, "\n");
      found = !strncmp(line, have, n) && (line[n] == 0 || line[n] == '/' || have[n - 1] == '/');
      have += n + (have[n] == '\n');
    }
    if (!found) return because("cgroup %s is not the slot's", line);
  }
  return NULL;
}

struct mount { char *at; bool ro, nosuid, nodev, noexec; };
struct mounts { struct mount *list; int n; };

static bool parse_mount(char *line, struct mount *m) {
  char at[4096], options[4096], type[64], super[4096] = "";
  char *rest = strstr(line, " - ");
  if (!rest || sscanf(line, "%*s %*s %*s %*s %4095s %4095s", at, options) != 2) return false;
  if (sscanf(rest, " - %63s %*s %4095s", type, super) < 1) return false;
  memset(m, 0, sizeof *m);
  for (char *save = NULL, *word = strtok_r(options, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
    m->ro |= !strcmp(word, "ro");
    m->nosuid |= !strcmp(word, "nosuid");
    m->nodev |= !strcmp(word, "nodev");
    m->noexec |= !strcmp(word, "noexec");
  }
  m->ro |= !strncmp(super, "ro,", 3) || !strcmp(super, "ro");
  return (m->at = strdup(at)) != NULL;
}

// Every mount of a process. A list that cannot be read, or not whole, has n < 0.
static struct mounts read_mounts(int pid) {
  struct mounts all = {NULL, 0};
  char path[64], line[16384];
  snprintf(path, sizeof path, "/proc/%d/mountinfo", pid);
  FILE *f = fopen(path, "re");
  if (!f) return (struct mounts){NULL, -1};
  while (all.n >= 0 && fgets(line, sizeof line, f)) {
    struct mount *longer = realloc(all.list, (size_t)(all.n + 1) * sizeof *longer);
    if (longer) all.list = longer;
    if (!longer || !parse_mount(line, &longer[all.n])) all.n = -1;
    else all.n++;
  }
  fclose(f);
  return all;
}

// The last one at a place is the one that is seen.
static const struct mount *find_mount(const struct mounts *all, const char *at) {
  for (int i = all->n - 1; i >= 0; i--)
    if (!strcmp(all->list[i].at, at)) return &all->list[i];
  return NULL;
}

static const char *more_open_mounts(int pid, const struct rights *slot) {
  struct mounts here = read_mounts(1), there = read_mounts(pid);
  if (here.n < 0 || there.n < 0) return because("the mounts of a restored task cannot be read");
  for (int i = 0; i < there.n; i++) {
    const struct mount *m = &there.list[i], *have = find_mount(&here, m->at);
    if (!have) {
      if (!HAS(slot->prm, SYS_ADMIN)) return because("a mount at %s, which the slot does not have", m->at);
    } else if ((have->ro && !m->ro) || (have->nosuid && !m->nosuid) || (have->nodev && !m->nodev) || (have->noexec && !m->noexec))
      return because("the mount at %s lacks%s%s%s%s of the slot's", m->at, have->ro && !m->ro ? " ro" : "", have->nosuid && !m->nosuid ? " nosuid" : "",
                     have->nodev && !m->nodev ? " nodev" : "", have->noexec && !m->noexec ? " noexec" : "");
  }
  // And nothing that hides or protects may be missing (masked and read-only paths of /proc and /sys).
  for (int i = 0; i < here.n; i++)
    if (!find_mount(&there, here.list[i].at)) return because("the slot's mount at %s is missing", here.list[i].at);
  return NULL; // the lists go with this process
}

struct check { struct rights slot; char label[512]; ino_t mounts; const char *why; };

static void check_process(int pid, void *arg) {
  struct check *c = arg;
  if (c->why) return;
  char path[300], label[512];
  snprintf(path, sizeof path, "/proc/%d/task", pid);
  DIR *d = opendir(path);
  if (!d) return; // ended meanwhile: killed from outside
  bool lives = false;
  for (struct dirent *e; !c->why && (e = readdir(d));) {
    struct rights task;
    if (*e->d_name == '.') continue;
    snprintf(path, sizeof path, "/proc/%d/task/%s/status", pid, e->d_name);
    if (!read_rights(path, &task)) {
      if (access(path, F_OK)) continue; // ended meanwhile
      c->why = because("the rights of a restored task cannot be read");
      break;
    }
    // criu makes the dead that nobody has waited for with rights of its own, and they stay dead.
    if (task.state == 'Z' || task.state == 'X') continue;
    lives = true;
    c->why = more_rights(&c->slot, &task);
    snprintf(path, sizeof path, "/proc/%d/task/%s/attr/current", pid, e->d_name);
    read_line(path, label, sizeof label);
    if (!c->why && strcmp(label, c->label)) c->why = because("the security label '%s', the slot has '%s'", label, c->label);
  }
  closedir(d);
  if (!lives) return;
  static const char *shared[] = {"net", "uts", "user", "cgroup"};
  for (int i = 0; i < 4 && !c->why; i++)
    if (namespace_of(pid, shared[i]) != namespace_of(1, shared[i])) c->why = because("a %s namespace that is not the slot's", shared[i]);
  if (!c->why) c->why = other_cgroup(pid);
  ino_t mounts = namespace_of(pid, "mnt");
  if (!c->why && mounts != c->mounts) c->why = more_open_mounts(pid, &c->slot);
  c->mounts = mounts;
}

static int parent_of(int pid) {
  char path[64], text[1024];
  snprintf(path, sizeof path, "/proc/%d/stat", pid);
  read_line(path, text, sizeof text);
  char *after = strrchr(text, ')');
  int parent = 0;
  if (after) sscanf(after + 1, " %*c %d", &parent);
  return parent;
}

void each_restored(int init, void (*f)(int pid, void *arg), void *arg) {
  DIR *d = opendir("/proc");
  if (!d) return;
  for (struct dirent *e; (e = readdir(d));) {
    int pid = atoi(e->d_name);
    if (pid <= 1) continue;
    // Restored are the root of the tree and what descends from it; process 1 of a PID namespace adopts its orphans, so nothing escapes.
    for (int up = pid, steps = 0; up > 1 && steps < 10000; up = parent_of(up), steps++)
      if (up == init) { f(pid, arg); break; }
  }
  closedir(d);
}

const char *rights_exceeded(int init) {
  struct check c = {.mounts = 0};
  if (!read_rights("/proc/1/status", &c.slot)) return because("the slot's own rights cannot be read");
  read_line("/proc/1/attr/current", c.label, sizeof c.label);
  each_restored(init, check_process, &c);
  return c.why;
}
