// The conversation with `criu swrk`, over a socket: one request with all options, then criu's notices as they come. An action script would be
// a fork and an exec for each of eight notices, of which one matters. Messages: criu/images/rpc.proto.
#define _GNU_SOURCE
#include "helper.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TYPE_RESTORE = 2, TYPE_NOTIFY = 6 };                          // criu_req_type
enum { RESP_TYPE = 1, RESP_SUCCESS = 2, RESP_RESTORE = 4, RESP_NOTIFY = 5 }; // criu_resp
enum { NOTIFY_SCRIPT = 1, NOTIFY_PID = 2 };                          // criu_notify

struct bytes { const uint8_t *at, *end; };
struct field { unsigned number; uint64_t value; struct bytes inner; };

static bool varint(struct bytes *b, uint64_t *value) {
  *value = 0;
  for (unsigned shift = 0; b->at < b->end && shift < 64; shift += 7) {
    uint8_t byte = *b->at++;
    *value |= (uint64_t)(byte & 0x7f) << shift;
    if (byte < 0x80) return true;
  }
  return false;
}

// The next field of a message; those that are neither numbers nor bytes do not occur.
static bool next_field(struct bytes *b, struct field *f) {
  uint64_t key;
  if (!varint(b, &key) || !varint(b, &f->value)) return false;
  f->number = (unsigned)(key >> 3);
  f->inner = (struct bytes){b->at, b->at};
  if ((key & 7) == 0) return true;
  if ((key & 7) != 2 || f->value > (uint64_t)(b->end - b->at)) return false;
  b->at = f->inner.end = b->at + f->value;
  return true;
}

struct notice { uint64_t type, success; int pid; char script[64]; };

static struct notice read_notice(struct bytes message) {
  struct notice n = {0};
  struct field outer, inner;
  while (next_field(&message, &outer)) {
    if (outer.number == RESP_TYPE) n.type = outer.value;
    else if (outer.number == RESP_SUCCESS) n.success = outer.value;
    else if (outer.number == RESP_NOTIFY)
      while (next_field(&outer.inner, &inner)) {
        if (inner.number == NOTIFY_PID) n.pid = (int)inner.value;
        else if (inner.number == NOTIFY_SCRIPT) snprintf(n.script, sizeof n.script, "%.*s", (int)(inner.inner.end - inner.inner.at), (const char *)inner.inner.at);
      }
  }
  return n;
}

static bool send_file(int sk, const char *path) {
  static uint8_t text[1 << 17];
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text);
  if (fd >= 0) close(fd);
  return n > 0 && n < (ssize_t)sizeof text && send(sk, text, (size_t)n, MSG_NOSIGNAL) == n;
}

// Returns the PID of the restored process 1, 0 when criu failed, or -1 when the slot was not ready or what it restored is not fit to run (and has been killed).
static int converse(int sk, int said, const struct restore_steps *steps) {
  uint8_t text[4096];
  int init = 0;
  bool ready = false;
  for (;;) {
    ssize_t n = recv(sk, text, sizeof text, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return 0; // criu ended: its log says why
    struct notice notice = read_notice((struct bytes){text, text + n});
    if (notice.type == TYPE_RESTORE) return notice.success ? init : 0;
    if (notice.type != TYPE_NOTIFY) return 0;
    if (notice.pid > 0) init = notice.pid;
    if (!strcmp(notice.script, "pre-restore") && !(ready = steps->ready())) return -1;
    // Nobody depends on it: whoever listens may ask the application from now on, while criu and we finish.
    if (!strcmp(notice.script, "post-resume") && dprintf(said, "resumed\n") < 0) {}
    // Told of it, criu would wait for the end of process 1, which waits for its threads to be let go of by criu.
    if (!strcmp(notice.script, "pre-resume") && (!ready || !steps->fit(init))) {
      if (init > 1) kill(init, SIGKILL); // before criu ends, which lets go of it
      return -1;
    }
    // {type: NOTIFY, notify_success}
    uint8_t answer[] = {1 << 3, TYPE_NOTIFY, 3 << 3, 1};
    if (send(sk, answer, sizeof answer, MSG_NOSIGNAL) != sizeof answer) return 0;
  }
}

int criu_restore(char **command, const char *request, int as, int said, const char *preload, struct restore_steps steps) {
  int ends[2], status;
  pid_t self = getpid();
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends)) die("cannot make a socket for criu:");
  pid_t criu = fork();
  if (criu < 0) die("cannot fork for criu:");
  if (criu == 0) {
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != self) _exit(125);
    if (dup2(ends[1], as) < 0) die("cannot prepare descriptor %d:", as);
    if (preload) setenv("LD_PRELOAD", preload, 1);
    signal(SIGPIPE, SIG_DFL);
    execvp(command[0], command);
    die("cannot run %s:", command[0]);
  }
  close(ends[1]);
  if (!send_file(ends[0], request)) die("cannot send %s to criu:", request);
  steps.started(criu);
  int init = converse(ends[0], said, &steps);
  close(ends[0]);
  if (init < 0) kill(criu, SIGKILL);
  while (waitpid(criu, &status, 0) < 0 && errno == EINTR) {}
  if (init < 0) return 0;
  if (WIFSIGNALED(status)) die("criu was killed by signal %d", WTERMSIG(status));
  return WEXITSTATUS(status) ? 0 : init;
}
