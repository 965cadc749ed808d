// slot CMD ARGS…: PID 1 of a container that waits to be restored into.
//
// It asks the agent of its node (REKINDLE_AGENT) what to do, and either becomes CMD by exec, so that a cold application is PID 1 and nothing
// of ours remains, or stays as the parent of a restored application: forwards signals, reaps, ends with its status. Whatever goes wrong ends
// in CMD: never worse than a cold start.
//
// Environment: REKINDLE_AGENT `unix:/path` or `tcp:ADDRESS:PORT` (numeric; IPv6 with or without brackets), REKINDLE_POD_UID,
// REKINDLE_CONTAINER, REKINDLE_WAIT_MS (longest wait for a decision once the agent has said anything), REKINDLE_RESTORE_MS (claim →
// restored), REKINDLE_PARKED_PORTS (`4000,8080`: where a parked slot answers probes), REKINDLE_MODE (`on-demand`: `slot probe` asks it).
// Protocol: src/slots/protocol.ts is its other side and its documentation.
//
// slot probe -- COMMAND…: an exec probe that runs COMMAND only when there is an application to probe (slot-probe.c).
// slot --install DIR: copies itself and what lies beside it into DIR (slot-install.c).
#define _GNU_SOURCE
#include "slot.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// How long the first word of an agent is waited for. One that listens is there and only busy: where it is kept from answering for REACH_MS, as in a burst
// on a small node, a cold start would take many times as long, and would keep the others waiting too.
enum { REACH_MS = 300, BUSY_MS = 2000, BUSY_PARKING_MS = 3000 };
enum { UNDO_MS = 3000, CONNECT_MS = 5000, SHORT_GRACE_MS = 1000, LOOK_MS = 50, BACKOFF_MIN_MS = 50, BACKOFF_MAX_MS = 1000, STRANGERS_MS = 2000, REMEMBERED = 1024 };
enum { PID_MAX_LIMIT = 4194304, LINE_MAX_BYTES = 256, NAME_MAX_CHARS = 253, NONCE_MAX_CHARS = 15 };

// UNDOING: a claim met its deadline; whoever restores is given time to put the files back before CMD starts.
// ENDING: the application of a live slot was asked to end, and then the slot is parked again.
enum state { UNDECIDED, PARKED, CLAIMED, UNDOING, LIVE, ENDING };

static enum state state = UNDECIDED;
static char **command;
static const char *pod_uid, *container;
static int on_demand;
static struct sockaddr_storage agent;
static socklen_t agent_size;
static int connection = -1, connecting, signals = -1;
static int64_t deadline;  // of the state; PARKED and LIVE have none
static int64_t ending_since;
static int ended_status, has_ended, told_to_end;  // of the application that is to end; told_to_end: whoever is connected waits for it
static int64_t began_at, hello_at, connect_at, connect_deadline;
static int backoff_ms = BACKOFF_MIN_MS;
static pid_t application;
static char line[LINE_MAX_BYTES];
static size_t line_used;
static int masked;
static uint64_t original_mask;
static struct sigaction original_child;
// What was reaped before `restored` named the application: the oldest is forgotten first.
static struct { pid_t pid; int status; } reaped[REMEMBERED];
static unsigned reaped_count;

int64_t now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void sleep_ms(int ms) { nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000L}, 0); }

static int64_t milliseconds(const char *name, int64_t otherwise) {
  const char *text = getenv(name);
  char *end;
  if (!text || *text < '0' || *text > '9') return otherwise;
  errno = 0;
  long value = strtol(text, &end, 10);
  return *end || errno || value < 1 || value > 3600000 ? otherwise : value;
}

// libc's signal sets leave out the signals it uses itself, and each libc others (34 is musl's own and glibc's SIGRTMIN): an application
// of any libc may get any of them, so the masks here are the kernel's.
static uint64_t set_mask(uint64_t mask) {
  uint64_t before = 0;
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, &before, sizeof mask);
  return before;
}

static int open_signals(void) {
  uint64_t every = ~UINT64_C(0);
  original_mask = set_mask(every);
  masked = 1;
  // Ignored SIGCHLD, if inherited, would make the kernel reap for us and lose the application's status.
  sigaction(SIGCHLD, &(struct sigaction){.sa_handler = SIG_DFL}, &original_child);
  signals = syscall(SYS_signalfd4, -1, &every, sizeof every, SFD_CLOEXEC | SFD_NONBLOCK);
  return signals;
}

static int stands_in(void) { return on_demand && state != UNDECIDED && state != LIVE; }

// What an ordinary container would answer its probes with is there when LIVE only. From CLAIMED on every port is free for the application.
static void enter(enum state next) {
  state = next;
  answer(next == PARKED ? ANSWERING : next == ENDING ? ANSWERING_WHERE_FREE : SILENT);
  stand_in(pod_uid, container, stands_in());
}

// These outlive the connection, and have no decision to wait for.
static int is_settled(void) { return state == PARKED || state == LIVE || state == ENDING; }

static int say(const char *text) { return send(connection, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT); }

static _Noreturn void finish(int status) {
  if (connection >= 0 && !connecting) {
    char text[32];
    snprintf(text, sizeof text, "exit %d\n", status);
    say(text);
  }
  _exit(status);  // the kernel kills the rest of our namespace
}

static int exit_status(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status); }

// Reaps all that is dead. True while there are children left.
static int reap(void) {
  for (;;) {
    int status;
    pid_t pid = waitpid(-1, &status, WNOHANG | __WALL);
    if (pid <= 0) return pid == 0;
    if (state == LIVE && pid == application) finish(exit_status(status));
    if (state == ENDING && pid == application) {
      has_ended = 1;
      ended_status = exit_status(status);
      continue;
    }
    reaped[reaped_count % REMEMBERED].pid = pid;
    reaped[reaped_count++ % REMEMBERED].status = status;
  }
}

// Kills and reaps until nothing but us is in our PID namespace: two applications must never meet in one slot. Children are waited for
// however long it takes; strangers, whose parent is outside and reaps them, for a while only, as that parent may be stuck.
static void kill_everything(void) {
  int64_t patience = now_ms() + STRANGERS_MS;
  for (int pause = 1; kill(-1, SIGKILL) == 0; pause = pause < 16 ? pause * 2 : pause) {
    if (!reap() && now_ms() > patience) return;
    sleep_ms(pause);
  }
  reap();
}

static void before_live(int signal) {
  if (signal != SIGTERM && signal != SIGINT) return;
  kill(-1, SIGKILL);
  finish(128 + signal);
}

static void forward(const struct signalfd_siginfo *s) {
  if (s->ssi_code != SI_QUEUE) {
    // Gone without our having reaped it: somebody else was its parent. Nothing else would end us.
    if (kill(application, (int)s->ssi_signo) && errno == ESRCH && state == LIVE) finish(128 + SIGKILL);
    return;
  }
  siginfo_t info = {.si_signo = (int)s->ssi_signo, .si_code = SI_QUEUE};  // with the value that sigqueue(3) gave it
  info.si_pid = (pid_t)s->ssi_pid;
  info.si_uid = (uid_t)s->ssi_uid;
  info.si_value.sival_ptr = (void *)(uintptr_t)s->ssi_ptr;
  syscall(SYS_rt_sigqueueinfo, application, info.si_signo, &info);
}

static void take_signals(void) {
  struct signalfd_siginfo s;
  // Bounded, so that a flood of real-time signals cannot keep us from the connection and the clock.
  for (int i = 0; i < 64 && read(signals, &s, sizeof s) == sizeof s; i++) {
    if (s.ssi_signo == SIGCHLD) continue;
    // Now the whole container is to end: its application's end is ours again.
    if (state == ENDING && (s.ssi_signo == SIGTERM || s.ssi_signo == SIGINT)) enter(LIVE);
    if (state == LIVE || state == ENDING) forward(&s);
    else before_live((int)s.ssi_signo);
  }
  reap();
}

// Becomes CMD. Our descriptors are close-on-exec and our process name goes with us; dispositions are as the runtime made them.
static _Noreturn void become_command(void) {
  // A SIGTERM that came while we were busy must not get lost: CMD, as PID 1 without a handler yet, would ignore it.
  if (signals >= 0) take_signals();
  if (masked) {
    sigaction(SIGCHLD, &original_child, 0);
    set_mask(original_mask);
  }
  preload();
  execvp(command[0], command);
  int error = errno;
  dprintf(2, "slot: cannot run %s: %s\n", command[0], strerror(error));
  _exit(error == ENOENT ? 127 : 126);
}

static _Noreturn void cold(void) {
  if (state == CLAIMED || state == UNDOING) kill_everything();
  become_command();
}

static int parse_agent(const char *text) {
  if (text && !strncmp(text, "unix:/", 6)) {
    struct sockaddr_un *a = (struct sockaddr_un *)&agent;
    if (strlen(text + 5) >= sizeof a->sun_path) return 0;
    a->sun_family = AF_UNIX;
    strcpy(a->sun_path, text + 5);
    agent_size = sizeof *a;
    return 1;
  }
  if (!text || strncmp(text, "tcp:", 4)) return 0;
  char host[64], *end;
  const char *from = text + 4, *colon = strrchr(from, ':');
  long port = colon && colon[1] >= '0' && colon[1] <= '9' ? strtol(colon + 1, &end, 10) : 0;
  if (port < 1 || port > 65535 || *end) return 0;
  size_t size = (size_t)(colon - from);
  if (size > 2 && from[0] == '[' && colon[-1] == ']') from++, size -= 2;
  if (size >= sizeof host) return 0;
  memcpy(host, from, size);
  host[size] = 0;
  struct sockaddr_in *v4 = (struct sockaddr_in *)&agent;
  struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&agent;
  if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) v4->sin_family = AF_INET, v4->sin_port = htons((uint16_t)port), agent_size = sizeof *v4;
  else if (inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) v6->sin6_family = AF_INET6, v6->sin6_port = htons((uint16_t)port), agent_size = sizeof *v6;
  return agent_size > 0;
}

// One word of a line: printable, nothing that could be a separator.
static int is_word(const char *text, size_t limit) {
  size_t n = 0;
  if (text)
    for (; text[n]; n++)
      if (text[n] <= ' ' || text[n] > '~') return 0;
  return n > 0 && n <= limit;
}

static void lost(void) {
  if (connection >= 0) close(connection);
  connection = -1;
  connecting = 0;
  line_used = 0;
  told_to_end = 0;
  if (!is_settled()) cold();
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  connect_at = now_ms() + backoff_ms / 2 + t.tv_nsec / 1000 % (backoff_ms / 2);  // all slots of a node lose their agent together
  backoff_ms = backoff_ms * 2 < BACKOFF_MAX_MS ? backoff_ms * 2 : BACKOFF_MAX_MS;
}

// Nobody waits for the application of one that is to park.
static void await_first_word(void) {
  if (state == UNDECIDED) deadline = began_at + (on_demand ? BUSY_PARKING_MS : BUSY_MS);
}

static void connected(void) {
  char text[2 * NAME_MAX_CHARS + 64], is[32] = "undecided";
  connecting = 0;
  if (state == PARKED) strcpy(is, "parked");
  if (state == LIVE || state == ENDING) snprintf(is, sizeof is, "live %d", application);
  snprintf(text, sizeof text, "hello 1 %s %s %s\n", pod_uid, container, is);
  if (say(text) != (int)strlen(text)) lost();
  hello_at = now_ms();
  await_first_word();
}

static void connect_agent(void) {
  int one = 1, family = agent.ss_family;
  connection = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (connection < 0) return lost();
  if (family != AF_UNIX) setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  connect_deadline = now_ms() + CONNECT_MS;
  if (connect(connection, (struct sockaddr *)&agent, agent_size) == 0) return connected();
  if (errno == EINPROGRESS) {
    connecting = 1;
  } else if (errno == EAGAIN && state == UNDECIDED) {
    // The backlog of a unix socket is full: there is an agent, it is busy. Again in a moment, until our time is up.
    close(connection);
    connection = -1;
    connect_at = now_ms() + 5;
    await_first_word();
  } else {
    lost();
  }
}

static void connect_ended(void) {
  int error = 0;
  socklen_t size = sizeof error;
  getsockopt(connection, SOL_SOCKET, SO_ERROR, &error, &size);
  if (error) lost();
  else connected();
}

static void restored(const char *text) {
  char *end;
  long pid = *text >= '0' && *text <= '9' ? strtol(text, &end, 10) : 0;
  if (state != CLAIMED || pid < 2 || pid > PID_MAX_LIMIT || *end) return;
  reap();
  for (unsigned i = 0; i < REMEMBERED && i < reaped_count; i++) {
    unsigned newest_first = (reaped_count - 1 - i) % REMEMBERED;
    if (reaped[newest_first].pid == pid) finish(exit_status(reaped[newest_first].status));
  }
  // Neither dead nor alive: there is no application to stand for, so the restore failed.
  if (kill((pid_t)pid, 0) && errno == ESRCH) cold();
  application = (pid_t)pid;
  enter(LIVE);
}

// A process that does not handle SIGTERM never gets it, being process 1 of its namespace. One that cannot be asked is taken to.
static int handles_term(void) {
  char path[32], text[4096];
  snprintf(path, sizeof path, "/proc/%d/status", application);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  if (fd >= 0) close(fd);
  text[n < 0 ? 0 : n] = 0;
  const char *caught = strstr(text, "\nSigCgt:");
  return !caught || strtoull(caught + 8, 0, 16) >> (SIGTERM - 1) & 1;
}

// Nothing of the application is left, and nobody has ended: the slot is as it was before the claim, but for its files.
static void park_again(void) {
  char text[32];
  kill_everything();
  enter(PARKED);
  snprintf(text, sizeof text, "parked %d\n", has_ended ? ended_status : 128 + SIGKILL);
  if (told_to_end) say(text);
  // Somebody else is connected by now, to whom we said that we are live.
  else if (connection >= 0) lost();
}

static void end_application(const char *grace) {
  char *end;
  long ms = *grace >= '0' && *grace <= '9' ? strtol(grace, &end, 10) : -1;
  if (ms < 0 || ms > 3600000 || *end || (state != LIVE && state != ENDING)) return;
  told_to_end = 1;
  if (state == ENDING) return;
  has_ended = 0;
  ending_since = now_ms();
  deadline = handles_term() ? ending_since + ms : ending_since;
  enter(ENDING);
  if (deadline > ending_since) kill(application, SIGTERM);
}

static void look_after_end(void) {
  int64_t now = now_ms();
  // Who stops handling SIGTERM has begun to end, or meant to die of it and cannot (Node without a listener): it gets less.
  if (!has_ended && now < deadline && deadline > ending_since + SHORT_GRACE_MS && !handles_term()) deadline = ending_since + SHORT_GRACE_MS;
  if (has_ended || now >= deadline) park_again();
}

// Lines unknown here, or that make no sense in this state, are skipped: the agent may be newer than we are.
static void take_line(const char *text) {
  backoff_ms = BACKOFF_MIN_MS;
  if (state == UNDECIDED) deadline = hello_at + milliseconds("REKINDLE_WAIT_MS", 30000);
  if (!strncmp(text, "prove ", 6) && is_word(text + 6, NONCE_MAX_CHARS)) {
    prctl(PR_SET_NAME, text + 6);
    say("proved\n");
  } else if (!strcmp(text, "claim") && (state == UNDECIDED || state == PARKED)) {
    enter(CLAIMED);
    reap();
    reaped_count = 0;  // a slot parked for weeks may have reaped the same PID before
    deadline = now_ms() + milliseconds("REKINDLE_RESTORE_MS", 30000);
  } else if (!strcmp(text, "can")) {
    say("can again\n");
  } else if (!strcmp(text, "cold") && state != LIVE && state != ENDING) {
    cold();
  } else if (!strcmp(text, "park") && state == UNDECIDED) {
    enter(PARKED);
  } else if (!strncmp(text, "park ", 5)) {
    end_application(text + 5);
  } else if (!strncmp(text, "restored ", 9)) {
    restored(text + 9);
  }
}

static void take_lines(void) {
  ssize_t n = recv(connection, line + line_used, sizeof line - line_used, MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) return lost();
  line_used += (size_t)n;
  char *start = line, *end;
  while ((end = memchr(start, '\n', line_used - (size_t)(start - line)))) {
    *end = 0;
    if (strlen(start) == (size_t)(end - start)) take_line(start);
    start = end + 1;
  }
  line_used -= (size_t)(start - line);
  memmove(line, start, line_used);
  if (line_used == sizeof line) lost();
}

static void deadline_passed(void) {
  if (state != CLAIMED) cold();
  enter(UNDOING);
  deadline = now_ms() + UNDO_MS;
  kill_everything();
}

static int wait_ms(int64_t now, int not_listening) {
  int64_t until = INT64_MAX;
  if (state != PARKED && state != LIVE) until = deadline;
  if (state == ENDING && now + LOOK_MS < until) until = now + LOOK_MS;
  if (stands_in() && not_listening && now + BACKOFF_MAX_MS < until) until = now + BACKOFF_MAX_MS;
  if (answer_due() < until) until = answer_due();
  if (connection < 0 && connect_at < until) until = connect_at;
  if (connecting && connect_deadline < until) until = connect_deadline;
  return until == INT64_MAX ? -1 : until <= now ? 0 : (int)(until - now);
}

int main(int argc, char **argv) {
  if (argc == 2 && !strcmp(argv[1], "--version")) return puts("rekindle slot, protocol 1") < 0;
  if (argc == 3 && !strcmp(argv[1], "--install")) return install(argv[2]);
  if (argc < 2) {
    dprintf(2, "slot: no command given; usage: slot COMMAND [ARGUMENT…], or slot --install DIR\n");
    return 2;
  }
  // Not for process 1: there it is a container's own command.
  if (argc > 3 && !strcmp(argv[1], "probe") && !strcmp(argv[2], "--") && getpid() != 1) return probe(argv + 3);
  command = argv + 1;
  pod_uid = getenv("REKINDLE_POD_UID");
  container = getenv("REKINDLE_CONTAINER");
  const char *mode = getenv("REKINDLE_MODE");
  on_demand = mode && !strcmp(mode, "on-demand");
  // kill(-1) of a slot that shares its PID namespace (hostPID, shareProcessNamespace) would hit processes that are not its own.
  if (getpid() != 1 || !parse_agent(getenv("REKINDLE_AGENT"))) become_command();
  if (!is_word(pod_uid, NAME_MAX_CHARS) || !is_word(container, NAME_MAX_CHARS) || open_signals() < 0) become_command();
  answer_at(getenv("REKINDLE_PARKED_PORTS"));

  began_at = now_ms();
  deadline = began_at + (on_demand ? BUSY_PARKING_MS : REACH_MS);
  for (;;) {
    int64_t now = now_ms();
    if (connection < 0 && now >= connect_at) connect_agent();
    if (connecting && now >= connect_deadline) lost();
    struct pollfd p[3 + ANSWER_FDS] = {{signals, POLLIN, 0}, {connection, connecting ? POLLOUT : POLLIN, 0}};
    p[2] = (struct pollfd){stand_in(pod_uid, container, stands_in()), POLLIN, 0};
    int answers = answer_poll(p + 3);
    poll(p, 3 + (nfds_t)answers, wait_ms(now, p[2].fd < 0));
    if (p[0].revents) take_signals();
    if (p[1].revents && connecting) connect_ended();
    else if (p[1].revents) take_lines();
    // After reading: one who was throttled or frozen past the deadline may have `restored` waiting.
    if (!is_settled() && now_ms() >= deadline) deadline_passed();
    if (state == ENDING) look_after_end();
    // Last: neither the agent nor the clock waits for whoever probes.
    if (p[2].revents) stand_in_turn();
    answer_turn(p + 3, answers);
  }
}
