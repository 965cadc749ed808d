// connect PID HOST PORT TIMEOUT_MS: a TCP connection from inside the network namespace of a process, on stdin and stdout.
//
// The one way to reach a trial container, whose network has no way in. HOST is a numeric address. Once connected it writes one zero byte, so
// that its caller can tell a connection from a program that only started, and then copies both ways until the other side closes.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

static int fail(const char *what) {
  fprintf(stderr, "%s: %s\n", what, strerror(errno));
  return 1;
}

static void copy(int from, int to) {
  static char data[65536];
  for (;;) {
    ssize_t n = read(from, data, sizeof data);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;
    for (ssize_t done = 0; done < n;) {
      ssize_t w = write(to, data + done, n - done);
      if (w < 0 && errno == EINTR) continue;
      if (w < 0) return;
      done += w;
    }
  }
}

static int address_of(const char *host, int port, struct sockaddr_storage *to, socklen_t *size) {
  struct sockaddr_in *v4 = (void *)to;
  struct sockaddr_in6 *v6 = (void *)to;
  memset(to, 0, sizeof *to);
  if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET, v4->sin_port = htons(port), *size = sizeof *v4;
    return 0;
  }
  if (inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6, v6->sin6_port = htons(port), *size = sizeof *v6;
    return 0;
  }
  errno = EINVAL;
  return -1;
}

static int connect_within(int s, const struct sockaddr_storage *to, socklen_t size, int timeout_ms) {
  if (connect(s, (const void *)to, size) == 0) return 0;
  if (errno != EINPROGRESS) return -1;
  struct pollfd p = {s, POLLOUT, 0};
  int n = poll(&p, 1, timeout_ms);
  if (n < 0) return -1;
  if (n == 0) return errno = ETIMEDOUT, -1;
  int error = 0;
  socklen_t length = sizeof error;
  if (getsockopt(s, SOL_SOCKET, SO_ERROR, &error, &length) < 0) return -1;
  return error ? (errno = error, -1) : 0;
}

int main(int argc, char **argv) {
  if (argc != 5) return fprintf(stderr, "usage: connect PID HOST PORT TIMEOUT_MS\n"), 2;
  signal(SIGPIPE, SIG_IGN);
  char path[64];
  snprintf(path, sizeof path, "/proc/%d/ns/net", atoi(argv[1]));
  int ns = open(path, O_RDONLY | O_CLOEXEC);
  if (ns < 0) return fail(path);
  if (setns(ns, CLONE_NEWNET) < 0) return fail("setns");
  struct sockaddr_storage to;
  socklen_t size;
  if (address_of(argv[2], atoi(argv[3]), &to, &size) < 0) return fail(argv[2]);
  int s = socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (s < 0) return fail("socket");
  if (connect_within(s, &to, size, atoi(argv[4])) < 0) return fail("connect");
  if (fcntl(s, F_SETFL, 0) < 0) return fail("fcntl");
  if (write(1, "", 1) != 1) return fail("stdout");

  // One process per direction: each may block for as long as its side does not read.
  pid_t parent = getpid(), sender = fork();
  if (sender < 0) return fail("fork");
  if (sender == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(0);
    close(1);
    copy(0, s);
    shutdown(s, SHUT_WR);
    _exit(0);
  }
  copy(s, 1);
  kill(sender, SIGKILL);
  return 0;
}
