// slot probe -- COMMAND…: an exec probe of a container that may be parked.
//
// The probe asks for a socket that process 1 listens at while no application is to be probed. It has no path, so that a read-only container has
// it too, and the kernel says whose it is: a sidecar, which shares the network, may take the name first but is not process 1 here.
#define _GNU_SOURCE
#include "slot.h"
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 16, AGAIN_MS = 1000, PATIENCE_MS = 500 };

static int listener = -1, told;
static int64_t again_at;

// The name begins with a zero byte, which is what makes it one without a path.
static socklen_t name_of(const char *pod_uid, const char *container, struct sockaddr_un *a) {
  *a = (struct sockaddr_un){.sun_family = AF_UNIX};
  snprintf(a->sun_path + 1, sizeof a->sun_path - 1, "rekindle/%s/%s", pod_uid, container);
  return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(a->sun_path + 1));
}

int stand_in(const char *pod_uid, const char *container, int wanted) {
  if (!wanted && listener >= 0) close(listener), listener = -1;
  int64_t now = wanted && listener < 0 ? now_ms() : 0;
  if (!wanted || listener >= 0 || now < again_at) return listener;
  struct sockaddr_un a;
  socklen_t size = name_of(pod_uid, container, &a);
  again_at = now + AGAIN_MS;
  listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (listener < 0) return -1;
  if (!bind(listener, (struct sockaddr *)&a, size) && !listen(listener, BACKLOG)) return again_at = 0, listener;
  int error = errno;
  close(listener);
  listener = -1;
  if (!told++) dprintf(2, "slot: exec probes of this container cannot be told that it is parked: %s\n", strerror(error));
  return -1;
}

void stand_in_turn(void) {
  for (int i = 0; i < BACKLOG && listener >= 0; i++) {
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd >= 0) close(fd);
    else if (errno == EAGAIN) return;
    else if (errno != EINTR && errno != ECONNABORTED) {
      // No descriptor is left: it would be told again at once, for ever.
      close(listener);
      listener = -1;
      again_at = now_ms() + AGAIN_MS;
    }
  }
}

static int somebody_stands_in(void) {
  const char *pod_uid = getenv("REKINDLE_POD_UID"), *container = getenv("REKINDLE_CONTAINER");
  struct sockaddr_un a;
  struct ucred who = {0};
  struct timeval patience = {0, PATIENCE_MS * 1000};
  socklen_t size = sizeof who;
  int fd = pod_uid && container ? socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0) : -1;
  if (fd < 0) return 0;
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  return !connect(fd, (struct sockaddr *)&a, name_of(pod_uid, container, &a)) && !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) && who.pid == 1;
}

int probe(char **command) {
  if (somebody_stands_in()) return 0;
  execvp(command[0], command);
  int error = errno;
  dprintf(2, "slot: cannot run the probe %s: %s\n", command[0], strerror(error));
  return error == ENOENT ? 127 : 126;
}
