// Preloaded into criu on machines without CAP_SYS_RESOURCE (nested sandboxes), where prlimit(2) refuses to read the limits of another user's
// process: they are then read from /proc/PID/limits. criu calls prlimit through syscall(3), so that is what is interposed.
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

// Names in /proc/PID/limits, by RLIMIT_ number (fs/proc/base.c of the kernel).
static const char *const names[] = {
    "Max cpu time", "Max file size", "Max data size", "Max stack size", "Max core file size", "Max resident set", "Max processes", "Max open files",
    "Max locked memory", "Max address space", "Max file locks", "Max pending signals", "Max msgqueue size", "Max nice priority", "Max realtime priority",
    "Max realtime timeout"};
enum { LIMITS = sizeof names / sizeof *names };

static long kernel(long number, const long a[6]) {
#if defined(__x86_64__)
  register long r10 __asm__("r10") = a[3], r8 __asm__("r8") = a[4], r9 __asm__("r9") = a[5];
  long result;
  __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
  return result;
#elif defined(__aarch64__)
  register long x8 __asm__("x8") = number, x0 __asm__("x0") = a[0], x1 __asm__("x1") = a[1], x2 __asm__("x2") = a[2], x3 __asm__("x3") = a[3],
                x4 __asm__("x4") = a[4], x5 __asm__("x5") = a[5];
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
  return x0;
#else
#error "not ported to this architecture"
#endif
}

static uint64_t value(const char *word) { return strcmp(word, "unlimited") ? strtoull(word, NULL, 10) : UINT64_MAX; }

static int read_limits(int pid, unsigned resource, uint64_t limits[2]) {
  char path[64], line[256], soft[32], hard[32];
  snprintf(path, sizeof path, "/proc/%d/limits", pid);
  FILE *f = fopen(path, "re");
  int found = 0;
  while (f && !found && fgets(line, sizeof line, f)) {
    size_t n = strlen(names[resource]);
    if (strncmp(line, names[resource], n) || sscanf(line + n, "%31s %31s", soft, hard) != 2) continue;
    limits[0] = value(soft);
    limits[1] = value(hard);
    found = 1;
  }
  if (f) fclose(f);
  return found;
}

long syscall(long number, ...) {
  long a[6];
  va_list arguments;
  va_start(arguments, number);
  for (int i = 0; i < 6; i++) a[i] = va_arg(arguments, long);
  va_end(arguments);
  long result = kernel(number, a);
  // prlimit64(pid, resource, new, old), reading only
  if (number == SYS_prlimit64 && result == -EPERM && !a[2] && a[3] && (unsigned long)a[1] < LIMITS && read_limits((int)a[0], (unsigned)a[1], (uint64_t *)a[3])) return 0;
  if (result < 0 && result > -4096) {
    errno = (int)-result;
    return -1;
  }
  return result;
}
