// helper: what the agent cannot do from Node: enter namespaces and cgroups, clone mounts, hold the transaction of one restore.
//
//   helper dump --pid PID --files DIR [--upper DIR] [--volume AT=NAME]… -- criu dump …
//       Runs criu inside the UTS namespace of PID, so that the image holds no host name; while the process is still stopped, the files
//       that it changed are copied below DIR.
//   helper restore --pid SLOT --images DIR --work DIR --journal FILE --run DIR --deadline-ms N [--files DIR [--volume AT=NAME]…]
//                  [--mount AT]… [--stdout] [--stderr] [--own-files] [--merge] [--generation N] [--preload LIB] -- criu swrk 105
//       One restore into the slot, as a transaction: files in, criu run inside the slot's namespaces and cgroups, rights compared, `restored`
//       told to the slot over descriptor 3. On failure or deadline everything that was started is killed, every file put back, and the
//       reason is on stderr. It outlives the agent. --own-files: the work directory's files.img takes the place of the images' own.
//       What criu is to do is in DIR/request (criu/images/rpc.proto). It finds: descriptor 100 the
//       network namespace, 101 and 102 the slot's stdout and stderr, 103 the images; in the process that asks, 104 the work directory;
//       /run/rekindle/0 the slot's root, /run/rekindle/1 … the mounts in the order given. Prints `resumed` as soon as the
//       application runs, and one JSON line once the slot has been told.
//   helper spare PADDING
//       Waits for a restore and then is its helper: what it costs to start one is spent before it counts. On stdin, until its end, NUL-terminated:
//       the number of fields that follow, the number and inode of the descriptor of its parent that is to be descriptor 3, and the arguments from
//       `restore` on. They take the place of PADDING, so that /proc/PID/cmdline shows what it does. An early end of stdin (the parent
//       is gone) ends it.
//   helper undo --pid SLOT --journal FILE [--cold]
//       Ends the restore of a helper that was killed. Where the application runs already the slot is told (descriptor 3) and the restore is
//       completed, with the same line as answer; otherwise everything started is killed and every file put back. --cold: the slot gave up
//       meanwhile and started its own command among half of the files: that is killed too, so that the container can be started again.
//   helper reset --pid SLOT [--node PID] [--group GID] [--volume AT]…
//       Makes the files of a slot without application as they were at its start: the root filesystem (an overlay, whose layers are named as process
//       --node sees them), /dev, and the volumes, which become empty and are the group's. Prints one JSON line.
// criu runs it once more as the action script of a dump (no arguments, CRTOOLS_SCRIPT_ACTION).
#define _GNU_SOURCE
#include "helper.h"
#include "helper-generation.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <linux/perf_event.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#endif
#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#endif
#ifndef MOVE_MOUNT_F_EMPTY_PATH
#define MOVE_MOUNT_F_EMPTY_PATH 4
#endif
enum { CONNECTION = 3, NET_FD = 100, STDOUT_FD, STDERR_FD, IMAGES_FD, WORK_FD, CRIU_FD, SAID_FD };
// Descriptors that no program we start shall have, above those that it has.
enum { OWN_FD = 200 };

void die(const char *format, ...) {
  int error = errno;
  char line[1024];
  va_list arguments;
  va_start(arguments, format);
  int n = vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  if (n > 0 && n < (int)sizeof line && line[n - 1] == ':') fprintf(stderr, "helper: %s %s\n", line, strerror(error));
  else fprintf(stderr, "helper: %s\n", line);
  exit(125);
}

int open_inside(int dir, const char *path, int flags, bool in_root) {
  struct open_how how = {
      .flags = (uint64_t)(unsigned)flags | O_CLOEXEC,
      .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | (in_root ? RESOLVE_IN_ROOT : RESOLVE_BENEATH | RESOLVE_NO_XDEV),
  };
  return (int)syscall(SYS_openat2, dir, path, &how, sizeof how);
}

static struct {
  int pid, node, group, deadline_ms, places, mounts;
  const char *files, *upper, *images, *work, *journal, *run, *preload, *generation;
  bool out, err, merge, cold, own_files;
  struct place place[MAX_PLACES];
  const char *mount[MAX_PLACES];
  char **command;
} given = {.group = -1};

static void parse(int argc, char **argv) {
  for (int i = 2; i < argc; i++) {
    const char *option = argv[i];
    if (!strcmp(option, "--")) { given.command = argv + i + 1; break; }
    if (!strcmp(option, "--stdout")) { given.out = true; continue; }
    if (!strcmp(option, "--stderr")) { given.err = true; continue; }
    if (!strcmp(option, "--own-files")) { given.own_files = true; continue; }
    if (!strcmp(option, "--merge")) { given.merge = true; continue; }
    if (!strcmp(option, "--cold")) { given.cold = true; continue; }
    if (i + 1 >= argc) die("%s wants a value", option);
    char *value = argv[++i];
    if (!strcmp(option, "--pid")) given.pid = atoi(value);
    else if (!strcmp(option, "--node")) given.node = atoi(value);
    else if (!strcmp(option, "--group")) given.group = atoi(value);
    else if (!strcmp(option, "--deadline-ms")) given.deadline_ms = atoi(value);
    else if (!strcmp(option, "--files")) given.files = value;
    else if (!strcmp(option, "--upper")) given.upper = value;
    else if (!strcmp(option, "--images")) given.images = value;
    else if (!strcmp(option, "--work")) given.work = value;
    else if (!strcmp(option, "--journal")) given.journal = value;
    else if (!strcmp(option, "--run")) given.run = value;
    else if (!strcmp(option, "--preload")) given.preload = value;
    else if (!strcmp(option, "--generation")) given.generation = value;
    else if (!strcmp(option, "--mount")) {
      if (given.mounts == MAX_PLACES) die("more than %d mounts", MAX_PLACES);
      given.mount[given.mounts++] = value;
    } else if (!strcmp(option, "--volume")) {
      bool named = strcmp(argv[1], "reset");
      char *equals = named ? strrchr(value, '=') : NULL;
      if ((named && !equals) || given.places == MAX_PLACES) die("--volume wants AT%s, at most %d of them", named ? "=NAME" : "", MAX_PLACES);
      if (equals) *equals = 0;
      given.place[given.places++] = (struct place){value, equals ? equals + 1 : NULL};
    } else die("unknown option %s", option);
  }
  if (given.pid <= 1) die("--pid is missing");
}

// Takes a descriptor of our parent. `inode` tells whether the number still means the same file.
static void inherit(const char *number, const char *inode) {
  struct stat s;
  int parent = (int)syscall(SYS_pidfd_open, getppid(), 0);
  int fd = parent < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, parent, atoi(number), 0);
  if (fd < 0) die("cannot take the slot's connection:");
  if (fstat(fd, &s) || s.st_ino != strtoull(inode, NULL, 10)) die("the slot is gone");
  close(parent); // before the connection takes its number
  if (fd != CONNECTION && dup2(fd, CONNECTION) < 0) die("cannot prepare descriptor %d:", CONNECTION);
  if (fd != CONNECTION) close(fd);
}

static int above(int fd) {
  int own = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, OWN_FD);
  if (fd >= 0) close(fd);
  return own;
}

// criu stops what it restored by hardware breakpoints. The first perf event of any process has the kernel wait for a grace period of RCU, up to tens of
// milliseconds on a busy machine (account_event in kernel/events/core.c): one that counts nothing, held while we wait for a restore, takes that off it.
static void hold_perf_event(void) {
  struct perf_event_attr nothing = {.type = PERF_TYPE_SOFTWARE, .size = sizeof nothing, .config = PERF_COUNT_SW_DUMMY, .exclude_kernel = 1, .exclude_hv = 1};
  above((int)syscall(SYS_perf_event_open, &nothing, 0, -1, -1, PERF_FLAG_FD_CLOEXEC)); // a machine that refuses is slower, nothing else
}

// Waits on stdin for arguments, and makes them this process' own.
static int wait_for_arguments(char **argv, char ***arguments) {
  static char *made[1024];
  char *place = argv[1];
  size_t size = strlen(argv[1]) + 1 + strlen(argv[2]) + 1, used = 0;
  char *text = malloc(size);
  hold_perf_event();
  for (ssize_t n; text && (n = read(0, text + used, size - used)) != 0;)
    if (n > 0) used += (size_t)n;
    else if (errno != EINTR) exit(0);
  char *at = text, *end = text + used, *field[2];
  int count = used && !end[-1] ? atoi(text) : 0, n = 1;
  if (count < 3 || count > 1000) exit(0); // not all of it was said
  for (int i = 0; i < 2; i++) field[i] = at += strlen(at) + 1;
  at += strlen(at) + 1;
  if (at >= end) exit(0);
  inherit(field[0], field[1]);
  memset(place, 0, size);
  memcpy(place, at, (size_t)(end - at));
  made[0] = argv[0];
  for (char *word = place; word < place + (end - at); word += strlen(word) + 1) made[n++] = word;
  if (n != count - 1) exit(0);
  int nothing = open("/dev/null", O_RDONLY);
  if (nothing < 0 || dup2(nothing, 0) < 0) die("cannot open /dev/null:");
  if (nothing) close(nothing);
  free(text);
  *arguments = made;
  return n;
}

// The slot's process name when the restore began: the agent's nonce, which no one else has.
static char slot_name[32];

static int open_proc(int pid, const char *what, int flags) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/%s", pid, what);
  return open(path, flags | O_CLOEXEC);
}

static int open_namespace(int pid, const char *name) {
  char path[32];
  snprintf(path, sizeof path, "ns/%s", name);
  int fd = open_proc(pid, path, O_RDONLY);
  if (fd < 0) die("cannot open the %s namespace of %d:", name, pid);
  return fd;
}

static double now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

// The programs we start see nothing of the agent's environment.
static void clean_environment(void) {
  clearenv();
  setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
  setenv("LC_ALL", "C.UTF-8", 1);
}

static void dump(void) {
  if (!given.command || !given.files) die("dump wants --files and a command");
  setsid(); // Ctrl-C is for whoever asked, not for a criu that holds an application still
  if (setns(open_namespace(given.pid, "uts"), CLONE_NEWUTS)) die("cannot enter the UTS namespace of %d:", given.pid);
  char number[16], volumes[65536];
  size_t used = 0;
  volumes[0] = 0;
  for (int i = 0; i < given.places; i++) {
    int n = snprintf(volumes + used, sizeof volumes - used, "%s=%s\n", given.place[i].at, given.place[i].dir);
    if (n < 0 || (used += (size_t)n) >= sizeof volumes) die("too many volumes");
  }
  clean_environment();
  snprintf(number, sizeof number, "%d", given.pid);
  setenv("REKINDLE_PID", number, 1);
  setenv("REKINDLE_FILES", given.files, 1);
  setenv("REKINDLE_VOLUMES", volumes, 1);
  if (given.upper) setenv("REKINDLE_UPPER", given.upper, 1);
  if (given.preload) setenv("LD_PRELOAD", given.preload, 1);
  execvp(given.command[0], given.command);
  die("cannot run %s:", given.command[0]);
}

static void action_files(void) {
  const char *pid = getenv("REKINDLE_PID"), *files = getenv("REKINDLE_FILES"), *upper = getenv("REKINDLE_UPPER");
  char *volumes = getenv("REKINDLE_VOLUMES");
  if (!pid || !files || !volumes) return;
  prctl(PR_SET_PDEATHSIG, SIGKILL); // with criu gone the application runs again, and nobody wants its files
  char target[4096];
  if (upper) {
    int source = open(upper, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (source < 0) die("cannot open the changed files %s:", upper);
    snprintf(target, sizeof target, "%s/rootfs", files);
    files_out(atoi(pid), "/", source, target);
  }
  int root = open_proc(atoi(pid), "root", O_PATH | O_DIRECTORY);
  if (root < 0) die("cannot open the root of %s:", pid);
  for (char *line = strtok(volumes, "\n"); line; line = strtok(NULL, "\n")) {
    char *equals = strrchr(line, '=');
    *equals = 0;
    int source = open_inside(root, line, O_RDONLY | O_DIRECTORY, true);
    if (source < 0) die("cannot open the volume %s:", line);
    snprintf(target, sizeof target, "%s/%s", files, equals + 1);
    files_out(atoi(pid), line, source, target);
  }
}

static void renew(int pid, void *generation) { rekindle_renew_generation(pid, *(uint64_t *)generation); }

static void say_verdict(const char *verdict) {
  int fd = open("/run/rekindle/work/verdict", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0 || dprintf(fd, "%s", verdict) < 0) die("cannot write down whether the clone may run:");
  close(fd);
}

static bool read_name(const char *path, char *name, size_t size) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? -1 : read(fd, name, size - 1);
  if (fd >= 0) close(fd);
  name[n < 0 ? 0 : n] = 0;
  return n > 0;
}

#define GAVE_UP "the slot gave up meanwhile"

static void judge(int init) {
  const char *slot = getenv("REKINDLE_SLOT"), *generation = getenv("REKINDLE_GENERATION"), *reason;
  char name[32];
  // A slot that gave up has become its command, and a command has another name: beside it there must be no second application.
  if (!slot || !read_name("/proc/1/comm", name, sizeof name) || strcmp(name, slot)) reason = GAVE_UP;
  else reason = rights_exceeded(init);
  if (reason) {
    say_verdict(reason);
    _exit(1);
  }
  uint64_t value = generation ? strtoull(generation, NULL, 10) : 0;
  if (value) each_restored(init, renew, &value);
  say_verdict("ok");
  _exit(0);
}

// Every task is restored and stopped, none has run an instruction of its own. The judge is a process of its own: one that crashes or is killed (no
// memory) has not said yes.
static bool fit_to_run(int init) {
  int status = 1;
  pid_t judging = init > 1 ? fork() : -1;
  if (judging == 0) judge(init);
  if (init <= 1) fprintf(stderr, "helper: criu named no process that it has restored\n");
  else if (judging < 0) fprintf(stderr, "helper: cannot fork to look at the clone's rights: %s\n", strerror(errno));
  else
    while (waitpid(judging, &status, 0) < 0 && errno == EINTR) {}
  if (judging > 0 && WIFSIGNALED(status)) fprintf(stderr, "helper: looking at the clone's rights was ended by signal %d\n", WTERMSIG(status));
  return status == 0;
}

static int action(void) {
  if (!strcmp(getenv("CRTOOLS_SCRIPT_ACTION"), "post-dump")) action_files();
  return 0;
}

// Where this process sees the cgroup hierarchy that a line of /proc/PID/cgroup speaks of. `mounts` is the text of /proc/self/mountinfo.
static bool hierarchy(const char *mounts, const char *controllers, char *mountpoint, size_t size) {
  char line[4096], at[1024], type[64], options[1024], wanted[256], have[1100];
  snprintf(wanted, sizeof wanted, ",%s,", controllers);
  for (const char *next; *mounts; mounts = next) {
    size_t length = strcspn(mounts, "\n");
    next = mounts + length + (mounts[length] != 0);
    if (length >= sizeof line) continue;
    memcpy(line, mounts, length);
    line[length] = 0;
    char *rest = strstr(line, " - cgroup");
    if (!rest || sscanf(line, "%*s %*s %*s %*s %1023s", at) != 1 || sscanf(rest, " - %63s %*s %1023s", type, options) != 2) continue;
    snprintf(have, sizeof have, ",%s,", options);
    if (*controllers ? strcmp(type, "cgroup") || !strstr(have, wanted) : strcmp(type, "cgroup2")) continue;
    snprintf(mountpoint, size, "%s", at);
    return true;
  }
  return false;
}

static char *read_whole(const char *path) {
  static char text[1 << 20];
  size_t used = 0;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) die("cannot read %s:", path);
  for (ssize_t n; used < sizeof text - 1 && (n = read(fd, text + used, sizeof text - 1 - used)) > 0;) used += (size_t)n;
  close(fd);
  text[used] = 0;
  return text;
}

// The slot's cgroups, one per hierarchy: descriptors of their cgroup.procs.
static struct { int procs[64], n; } cgroups;

static void open_cgroups(int pid) {
  char path[64], line[2048];
  snprintf(path, sizeof path, "/proc/%d/cgroup", pid);
  const char *mounts = read_whole("/proc/self/mountinfo");
  FILE *f = fopen(path, "re");
  if (!f) die("the slot %d is gone:", pid);
  while (fgets(line, sizeof line, f)) {
    line[strcspn(line, "\n")] = 0;
    char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group) continue;
    *group++ = 0;
    controllers++;
    char at[1024], procs[4096];
    if (!hierarchy(mounts, controllers, at, sizeof at)) {
      if (!*controllers) continue; // a kernel without the v2 hierarchy mounted has nothing to enter there
      die("the cgroup hierarchy of %s is not mounted here", controllers);
    }
    snprintf(procs, sizeof procs, "%s%s/cgroup.procs", at, group);
    int fd = cgroups.n == 64 ? -1 : above(open(procs, O_WRONLY | O_CLOEXEC));
    if (fd < 0) die("cannot open the slot's cgroup %s:", procs);
    cgroups.procs[cgroups.n++] = fd;
  }
  fclose(f);
}

// `pid` as the caller's PID namespace numbers it; 0 is the caller.
static void enter_cgroups(pid_t pid) {
  char text[16];
  size_t size = (size_t)snprintf(text, sizeof text, "%d", pid);
  for (int i = 0; i < cgroups.n; i++)
    if (write(cgroups.procs[i], text, size) != (ssize_t)size) die("cannot enter the slot's cgroups:");
}

static void keep_as(int fd, int as) {
  if (fd < 0 || dup2(fd, as) < 0) die("cannot prepare descriptor %d:", as);
  close(fd);
}

static void make_place(int tree, const char *at, bool directory) {
  if (directory) mkdir(at, 0700);
  else close(open(at, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  if (syscall(SYS_move_mount, tree, "", AT_FDCWD, at, MOVE_MOUNT_F_EMPTY_PATH)) die("cannot attach %s:", at);
  close(tree);
}

// Ends this process when its parent does. One whose parent ended before we could ask for that ends at once.
static void die_with(pid_t parent) {
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != parent) _exit(125);
}

// From the helper to whoever talks to criu: a byte once the slot's files are in place.
static int in_place[2];

// The kernel takes its time (a grace period of RCU) to let a process into a cgroup: criu starts meanwhile.
static void criu_started(pid_t criu) {
  enter_cgroups(0);
  enter_cgroups(criu);
}

static bool slot_ready(void) {
  char byte;
  ssize_t n;
  while ((n = read(in_place[0], &byte, 1)) < 0 && errno == EINTR) {}
  return n == 1;
}

static void run_criu(void) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL)) die("cannot mount /proc of the slot:");
  int out = open("/run/rekindle/work/criu.out", O_WRONLY | O_CREAT | O_TRUNC, 0600), in = open("/dev/null", O_RDONLY);
  int said = fcntl(1, F_DUPFD_CLOEXEC, SAID_FD);
  if (said < 0 || out < 0 || in < 0 || dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0) die("cannot prepare criu's output:");
  syscall(SYS_close_range, 3, NET_FD - 1, 0);
  keep_as(open(".", O_RDONLY | O_DIRECTORY), WORK_FD);
  clean_environment();
  setenv("REKINDLE_SLOT", slot_name, 1);
  if (given.generation) setenv("REKINDLE_GENERATION", given.generation, 1);
  int init = criu_restore(given.command, "request", CRIU_FD, said, given.preload, (struct restore_steps){criu_started, slot_ready, fit_to_run});
  if (init <= 1) _exit(1);
  int fd = open("pid", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0 || dprintf(fd, "%d", init) < 0) die("cannot write down what was restored:");
  _exit(0);
}

// Lives in the slot's namespaces and dies with the helper, so that a killed helper leaves no criu running.
static void enter_and_run(pid_t helper) {
  die_with(helper);
  close(in_place[1]); // its end is the helper's alone
  static const struct { const char *name; int type; } joined[] = {{"net", CLONE_NEWNET}, {"uts", CLONE_NEWUTS}, {"cgroup", CLONE_NEWCGROUP}, {"pid", CLONE_NEWPID}};
  int own = open_proc(getpid(), "ns/mnt", O_RDONLY), slot = open_namespace(given.pid, "mnt"), ns[4];
  for (int i = 0; i < 4; i++) ns[i] = open_namespace(given.pid, joined[i].name);
  keep_as(open_proc(given.pid, "ns/net", O_RDONLY), NET_FD);
  if (given.out) keep_as(open_proc(given.pid, "fd/1", O_WRONLY), STDOUT_FD);
  if (given.err) keep_as(open_proc(given.pid, "fd/2", O_WRONLY), STDERR_FD);
  if (!given.own_files) keep_as(open(given.images, O_RDONLY | O_DIRECTORY), IMAGES_FD);
  int images = given.own_files ? (int)syscall(SYS_open_tree, AT_FDCWD, given.images, OPEN_TREE_CLONE | O_CLOEXEC) : 0;
  if (images < 0) die("cannot open %s:", given.images);
  int work = (int)syscall(SYS_open_tree, AT_FDCWD, given.work, OPEN_TREE_CLONE | O_CLOEXEC);
  if (work < 0) die("cannot open %s:", given.work);

  if (setns(slot, CLONE_NEWNS)) die("cannot enter the slot's mounts:");
  int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), tree[MAX_PLACES + 1];
  bool directory[MAX_PLACES + 1];
  for (int i = 0; i <= given.mounts; i++) {
    const char *at = i ? given.mount[i - 1] : "/";
    struct stat s;
    int fd = i ? open_inside(root, at, O_PATH, true) : root;
    if (fd < 0 || fstat(fd, &s)) die("the slot has nothing at %s:", at);
    tree[i] = (int)syscall(SYS_open_tree, fd, "", OPEN_TREE_CLONE | O_CLOEXEC | AT_EMPTY_PATH);
    if (tree[i] < 0) die("cannot take the mount %s of the slot:", at);
    directory[i] = S_ISDIR(s.st_mode);
  }
  if (setns(own, CLONE_NEWNS) || unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) die("cannot make a mount namespace:");
  if (mount(given.run, "/run", NULL, MS_BIND, NULL)) die("cannot put %s at /run:", given.run);
  if (mount("tmpfs", "/run/rekindle", "tmpfs", 0, "mode=700,size=1m")) die("cannot mount a tmpfs:");
  for (int i = 0; i <= given.mounts; i++) {
    char at[64];
    snprintf(at, sizeof at, "/run/rekindle/%d", i);
    make_place(tree[i], at, directory[i]);
  }
  make_place(work, "/run/rekindle/work", true);
  if (given.own_files) {
    // A mount, not links: what criu restores opens images below the descriptor when it is in the slot's mounts already, where a link leads elsewhere.
    make_place(images, "/run/rekindle/images", true);
    // Else what is mounted there would show, and stay, wherever the snapshots are on a mount that is shared.
    if (mount(NULL, "/run/rekindle/images", NULL, MS_PRIVATE, NULL)) die("cannot make the images private:");
    if (mount("/run/rekindle/work/files.img", "/run/rekindle/images/files.img", NULL, MS_BIND, NULL)) die("cannot give the slot its own files.img:");
    keep_as(open("/run/rekindle/images", O_RDONLY | O_DIRECTORY), IMAGES_FD);
  }
  if (chdir("/run/rekindle/work")) die("cannot change to the work directory:");
  if (given.merge && prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0)) fprintf(stderr, "helper: this kernel merges no pages: %s\n", strerror(errno));
  for (int i = 0; i < 4; i++)
    if (setns(ns[i], joined[i].type)) die("cannot enter the slot's %s namespace:", joined[i].name);
  pid_t criu = fork();
  if (criu < 0) die("cannot fork into the slot:");
  if (!criu) run_criu();
  int status;
  while (waitpid(criu, &status, 0) < 0 && errno == EINTR) {}
  _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

// Waits for a child until the deadline. Returns its status, or -1 when time was up.
static int wait_until(pid_t child, double deadline) {
  int fd = (int)syscall(SYS_pidfd_open, child, 0), status;
  for (;;) {
    double left = deadline - now_ms();
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int n = poll(&p, 1, left > 0 ? (int)left + 1 : 0);
    if (n > 0 && waitpid(child, &status, WNOHANG) == child) break;
    if (n == 0 && left <= 0) { close(fd); return -1; }
  }
  close(fd);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// Whether the process is process 1 of a PID namespace that is not ours. A slot's number may have been given to another process meanwhile, and in
// our own namespace killing everything would be the end of the machine.
static bool is_init_of_another(int pid) {
  char path[64], status[4096], link[2][64];
  snprintf(path, sizeof path, "/proc/%d/status", pid);
  if (!read_name(path, status, sizeof status)) return false;
  char *ids = strstr(status, "NSpid:"), *end = ids ? strchr(ids, '\n') : NULL;
  if (!end || end - ids < 9 || strncmp(end - 2, "\t1", 2)) return false;
  snprintf(path, sizeof path, "/proc/%d/ns/pid", pid);
  ssize_t own = readlink("/proc/self/ns/pid", link[0], sizeof link[0]), other = readlink(path, link[1], sizeof link[1]);
  return own > 0 && other > 0 && (own != other || memcmp(link[0], link[1], (size_t)own));
}

// Ends every process of the slot's PID namespace but the slot itself. kill(-1) from inside spares process 1 and the caller, nothing else.
static void kill_all(int slot) {
  int ns = is_init_of_another(slot) ? open_proc(slot, "ns/pid", O_RDONLY) : -1;
  if (ns < 0) return; // the slot is gone, and with it everything in it
  pid_t outer = fork();
  if (outer == 0) {
    if (setns(ns, CLONE_NEWPID)) _exit(1);
    pid_t inner = fork();
    if (inner == 0) {
      for (double until = now_ms() + 5000; now_ms() < until; usleep(500))
        if (kill(-1, SIGKILL) && errno == ESRCH) _exit(0);
      _exit(1);
    }
    int status = 1;
    if (inner > 0) waitpid(inner, &status, 0);
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
  }
  int status;
  if (outer > 0) waitpid(outer, &status, 0);
  close(ns);
}

static int slot_root(int slot) { return open_proc(slot, "root", O_PATH | O_DIRECTORY); }

static int read_text(const char *name, char *text, size_t size) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", given.work, name);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? -1 : read(fd, text, size - 1);
  if (fd >= 0) close(fd);
  text[n < 0 ? 0 : n] = 0;
  return n > 0 ? 0 : -1;
}

// The PID that the slot's child `inner` has outside the slot: what the agent knows it by.
static int outer_pid(int inner) {
  char path[64], status[4096];
  snprintf(path, sizeof path, "/proc/%d/task/%d/children", given.pid, given.pid);
  FILE *f = fopen(path, "re");
  int pid, found = 0;
  while (f && !found && fscanf(f, "%d", &pid) == 1) {
    int fd = open_proc(pid, "status", O_RDONLY);
    ssize_t n = fd < 0 ? -1 : read(fd, status, sizeof status - 1);
    if (fd >= 0) close(fd);
    if (n <= 0) continue;
    status[n] = 0;
    char *ids = strstr(status, "NSpid:");
    // One number per namespace, outermost first; the restored process is process 1 of one more namespace.
    for (char *word = ids ? strtok(ids + 6, "\t ") : NULL, *next; word && (next = strtok(NULL, "\t \n")); word = next)
      if (atoi(next) == inner) { found = pid; break; }
  }
  if (f) fclose(f);
  return found;
}

// Kills everything and puts the files back.
static int roll_back(void) {
  kill_all(given.pid);
  int root = slot_root(given.pid);
  if (root < 0) { unlink(given.journal); return 0; }
  return files_undo(root, given.journal) ? 1 : 0;
}

// Tells the slot and removes the originals: from here on the application is the slot's.
static int complete(int inner, int outer, double files_ms, double criu_ms, double total_ms) {
  if (dprintf(CONNECTION, "restored %d\n", inner) < 0) return -1;
  printf("{\"pid\":%d,\"slotPid\":%d,\"filesMs\":%.2f,\"criuMs\":%.2f,\"totalMs\":%.2f}\n", outer, inner, files_ms, criu_ms, total_ms);
  fflush(stdout); // said before the journal ends: whoever finds neither line nor journal knows that nothing was begun
  int root = slot_root(given.pid);
  if (root >= 0) files_commit(root, given.journal);
  return 0;
}

static int undo(void) {
  signal(SIGPIPE, SIG_IGN);
  // Ended by its own helper, or not begun: then nothing was changed, and a slot that gives up kills what is in it.
  if (access(given.journal, F_OK)) return 0;
  if (given.cold) {
    // The namespace must outlive its last process: in it lie the volumes.
    int mounts = open_proc(given.pid, "ns/mnt", O_RDONLY), root = slot_root(given.pid);
    if (mounts < 0 || root < 0 || !is_init_of_another(given.pid)) return 1;
    kill(given.pid, SIGKILL);
    for (int i = 0; i < 500 && !kill(given.pid, 0); i++) usleep(10000);
    return files_undo(root, given.journal) ? 1 : 0;
  }
  int inner = files_decided(given.journal), outer = inner ? outer_pid(inner) : 0;
  // Nobody can say what the application has done by now, so it stays, if the slot takes it.
  if (outer && complete(inner, outer, 0, 0, 0) == 0) return 0;
  return roll_back();
}

static int failed(const char *why) {
  fprintf(stderr, "helper: %s\n", why);
  if (roll_back()) fprintf(stderr, "helper: some files of the slot could not be put back\n");
  return 1;
}

// Ends criu, what it has restored, and the process in between.
static void end_criu(pid_t child) {
  kill_all(given.pid);
  if (child <= 0) return;
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
}

static void unpack(void) {
  int root = slot_root(given.pid);
  if (root < 0) die("the slot %d is gone:", given.pid);
  files_in(root, given.files, given.place, given.places, given.journal);
  _exit(0);
}

static int restore(void) {
  if (!given.command || !given.images || !given.work || !given.journal || !given.run || given.deadline_ms <= 0) die("restore: an option is missing");
  double start = now_ms(), deadline = start + given.deadline_ms;
  setsid(); // a terminal's Ctrl-C, or the end of the agent, is not the end of a restore
  signal(SIGPIPE, SIG_IGN);
  signal(SIGHUP, SIG_IGN);
  char comm[64];
  snprintf(comm, sizeof comm, "/proc/%d/comm", given.pid);
  struct pollfd lifeline = {.fd = CONNECTION};
  // A slot that gave up (it became its command) has closed its end: in this order the name is the slot's.
  if (!read_name(comm, slot_name, sizeof slot_name) || poll(&lifeline, 1, 0) < 0 || lifeline.revents & (POLLHUP | POLLERR | POLLNVAL)) die("the slot is gone");
  if (!is_init_of_another(given.pid)) die("process %d is no container's process 1", given.pid);
  pid_t helper = getpid();
  open_cgroups(given.pid);
  if (pipe2(in_place, O_CLOEXEC) || (in_place[0] = above(in_place[0])) < 0 || (in_place[1] = above(in_place[1])) < 0) die("cannot make a pipe:");
  pid_t child = fork();
  if (child == 0) enter_and_run(helper);
  // Not the agent's any more: it may end, and its cgroups with it.
  enter_cgroups(0);
  if (child > 0) enter_cgroups(child);
  if (given.files && given.places) {
    // In a child, so that whatever ends it (a hostile tree, no space) comes back here and is undone.
    pid_t unpacking = fork();
    if (unpacking == 0) { die_with(helper); unpack(); }
    int status = unpacking < 0 ? 1 : wait_until(unpacking, deadline);
    if (status < 0) { kill(unpacking, SIGKILL); waitpid(unpacking, NULL, 0); }
    if (status) {
      end_criu(child);
      return failed(status < 0 ? "deadline while putting files into the slot" : "the files of the snapshot could not be put into the slot");
    }
  }
  double unpacked = now_ms();
  if (write(in_place[1], "", 1) != 1) {} // whoever was to read it has ended: what it was for is looked at next
  close(in_place[0]);
  int status = child < 0 ? 125 : wait_until(child, deadline);
  double restored = now_ms();
  char verdict[512], text[32], why[1024];
  bool judged = read_text("verdict", verdict, sizeof verdict) == 0;
  if (status < 0) {
    end_criu(child);
    return failed("deadline while criu was restoring");
  }
  if (judged && strcmp(verdict, "ok")) {
    snprintf(why, sizeof why, "%s%s", strcmp(verdict, GAVE_UP) ? "rights: " : "", verdict);
    return failed(why);
  }
  if (status || !judged || read_text("pid", text, sizeof text)) {
    snprintf(why, sizeof why, "criu ended with %d", status);
    return failed(why);
  }
  int inner = atoi(text), outer = outer_pid(inner);
  // From this record on a killed helper's restore is completed, not undone: the slot may have heard of it.
  if (files_note(given.journal, "C", inner)) return failed("cannot write the journal");
  if (complete(inner, outer, unpacked - start, restored - unpacked, now_ms() - start)) {
    files_note(given.journal, "U", 0);
    return failed("the slot is gone");
  }
  return 0;
}

static int reset(void) {
  int root = slot_root(given.pid);
  if (root < 0 || !is_init_of_another(given.pid)) die("process %d is no container's process 1", given.pid);
  signal(SIGPIPE, SIG_IGN);
  // Not in the slot's cgroups: a parked one's share of a busy machine is next to nothing. But nobody shall wait for it.
  setpriority(PRIO_PROCESS, 0, 10);
  files_reset(given.pid, root, given.node, given.group, given.place, given.places);
  return 0;
}

int main(int argc, char **argv) {
  if (getenv("CRTOOLS_SCRIPT_ACTION")) return action();
  if (argc == 3 && !strcmp(argv[1], "spare")) argc = wait_for_arguments(argv, &argv);
  if (argc < 2) die("usage: helper dump|restore|spare|undo|reset …");
  parse(argc, argv);
  if (!strcmp(argv[1], "dump")) dump();
  if (!strcmp(argv[1], "restore")) return restore();
  if (!strcmp(argv[1], "undo")) return undo();
  if (!strcmp(argv[1], "reset")) return reset();
  die("unknown command %s", argv[1]);
}
