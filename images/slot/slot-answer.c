// A parked slot answers the probes of its container (REKINDLE_PARKED_PORTS): kubelet knows nothing of parked, and would kill it.
//
// Every connection ends in a reset of ours or an end of theirs (SO_LINGER), so that none stays behind in TIME_WAIT: the application binds the same
// ports a moment later, and not every one says SO_REUSEADDR. Who connects is nobody in particular, so there is one table, no
// memory beside it, and for one visitor more than it holds the oldest goes: a probe, which speaks at once, is served in a flood too.
#define _GNU_SOURCE
#include "slot.h"
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HEAD_BYTES = 16384, VISIT_MS = 2000, GOODBYE_MS = 500, AGAIN_MS = 1000, AGAIN_SOON_MS = 50, AT_ONCE = 16 };

#define REST "Content-Length: 0\r\nConnection: close\r\n\r\n"
static const char ok[] = "HTTP/1.1 200 OK\r\n" REST;
// Probes of Kubernetes GET. Nobody who wanted something done may believe that it was.
static const char unavailable[] = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n" REST;

static enum answering answering = SILENT;
static struct { uint16_t number; int listener, told; int64_t again_at; } ports[PORTS];
static int port_count;
static struct visitor { int fd, answered, newlines, bytes; char method[4]; int64_t until; } visitors[VISITORS];
static int visitor_count;

void answer_at(const char *text) {
  while (text && *text) {
    char *end;
    long number = strtol(text, &end, 10);
    if (*text < '0' || *text > '9' || number < 1 || number > 65535 || (*end && *end != ',') || port_count == PORTS) {
      dprintf(2, "slot: REKINDLE_PARKED_PORTS wants at most %d ports between commas, and has from here on: %s\n", PORTS, text);
      return;
    }
    ports[port_count].number = (uint16_t)number;
    ports[port_count++].listener = -1;
    text = end + (*end == ',');
  }
}

static int listen_at(uint16_t number) {
  struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(number)};
  struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(number)};
  struct linger reset = {1, 0};
  int yes = 1, no = 0, fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), only_v4 = fd < 0;
  if (only_v4) fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  if (!only_v4) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
  // An application that ended may have left connections in TIME_WAIT.
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  // What is accepted here inherits it.
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
  if ((only_v4 ? bind(fd, (struct sockaddr *)&v4, sizeof v4) : bind(fd, (struct sockaddr *)&v6, sizeof v6)) || listen(fd, VISITORS)) {
    int error = errno;
    close(fd);
    errno = error;
    return -1;
  }
  return fd;
}

static void open_ports(int64_t now) {
  for (int i = 0; i < port_count; i++) {
    if (ports[i].listener >= 0 || now < ports[i].again_at) continue;
    ports[i].again_at = now + (answering == ANSWERING_WHERE_FREE ? AGAIN_SOON_MS : AGAIN_MS);
    ports[i].listener = listen_at(ports[i].number);
    if (ports[i].listener >= 0 || answering == ANSWERING_WHERE_FREE || ports[i].told) continue;
    ports[i].told = 1;
    dprintf(2, "slot: cannot answer probes at port %d while parked, and goes on trying: %s\n", ports[i].number, strerror(errno));
  }
}

static void dismiss(int i) {
  close(visitors[i].fd);
  visitors[i] = visitors[--visitor_count];
}

void answer(enum answering wanted) {
  if (wanted == answering) return;
  answering = wanted;
  for (int i = 0; i < port_count; i++) {
    ports[i].again_at = 0;
    if (wanted != SILENT || ports[i].listener < 0) continue;
    close(ports[i].listener);
    ports[i].listener = -1;
  }
  if (wanted != SILENT) return open_ports(now_ms());
  while (visitor_count) dismiss(0);
}

static int oldest(void) {
  int found = -1;
  for (int i = 0; i < visitor_count; i++)
    if (found < 0 || visitors[i].until < visitors[found].until) found = i;
  return found;
}

static void welcome(int port, int64_t now) {
  for (int i = 0; i < AT_ONCE; i++) {
    int fd = accept4(ports[port].listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)) {
      // It would be told again at once, for ever.
      if (visitor_count) dismiss(oldest());
      else close(ports[port].listener), ports[port].listener = -1, ports[port].again_at = now + AGAIN_MS;
    }
    if (fd < 0) return;
    if (visitor_count == VISITORS) dismiss(oldest());
    visitors[visitor_count++] = (struct visitor){.fd = fd, .until = now + VISIT_MS};
  }
}

static void say_so(struct visitor *v, int64_t now) {
  int reads = !memcmp(v->method, "GET ", 4) || !memcmp(v->method, "HEAD", 4);
  const char *text = reads ? ok : unavailable;
  send(v->fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT);
  v->answered = 1;
  v->until = now + GOODBYE_MS;  // theirs to end: they may not have read it yet
}

// False when the visit is over.
static int attend(struct visitor *v, int64_t now) {
  char text[512];
  ssize_t n = recv(v->fd, text, sizeof text, MSG_DONTWAIT);
  if (n < 0) return errno == EAGAIN || errno == EINTR;
  if (n == 0) return 0;
  // An empty line ends the head; of the rest nothing is looked at.
  for (ssize_t i = 0; i < n && !v->answered; i++) {
    if (v->bytes < 4) v->method[v->bytes] = text[i];
    v->bytes++;
    if (text[i] == '\n') v->newlines++;
    else if (text[i] != '\r') v->newlines = 0;
    if (v->newlines == 2) say_so(v, now);
  }
  return v->bytes <= HEAD_BYTES;
}

int answer_poll(struct pollfd *p) {
  for (int i = 0; i < port_count; i++) *p++ = (struct pollfd){ports[i].listener, POLLIN, 0};
  for (int i = 0; i < visitor_count; i++) *p++ = (struct pollfd){visitors[i].fd, POLLIN, 0};
  return port_count + visitor_count;
}

void answer_turn(const struct pollfd *p, int n) {
  if (answering == SILENT) return;
  int64_t now = now_ms();
  // Backwards, and before anybody new comes, so that places in the table and in `p` agree.
  for (int i = n - port_count - 1; i >= 0 && i < visitor_count; i--) {
    const struct pollfd *of = p + port_count + i;
    if (of->fd != visitors[i].fd) continue;
    if ((of->revents && !attend(visitors + i, now)) || now >= visitors[i].until) dismiss(i);
  }
  for (int i = 0; i < port_count; i++)
    if (ports[i].listener >= 0 && p[i].fd == ports[i].listener && p[i].revents) welcome(i, now);
  open_ports(now);
}

int64_t answer_due(void) {
  int64_t due = INT64_MAX;
  if (answering == SILENT) return due;
  for (int i = 0; i < port_count; i++)
    if (ports[i].listener < 0 && ports[i].again_at < due) due = ports[i].again_at;
  for (int i = 0; i < visitor_count; i++)
    if (visitors[i].until < due) due = visitors[i].until;
  return due;
}
