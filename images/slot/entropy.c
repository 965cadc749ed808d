// entropy.so, preloaded into applications: after a restore, OpenSSL takes new seeds from the kernel before its next random byte.
//
// Clones start with equal memory, so with equal random generators. OpenSSL asks getpid() before it generates, to notice fork(): a
// process id other than last time makes each of its generators reseed itself from its parent, and the first one from the kernel. This
// library answers that one question. After a restore (the helper then wrote a new generation into `block`) OpenSSL >= 1.1.1 gets, at
// these places only, an id that it never saw before. So every generator of every thread reseeds exactly once per generation, under the
// locks OpenSSL itself holds, with no call into it from here. Calling RAND_poll() from getpid() instead is not safe there: the first
// generator of a new thread asks while it holds the lock that RAND_poll() wants. LibreSSL's arc4random asks in the same way.
//
// Whatever else exports RAND_poll (OpenSSL < 1.1.1, which asks before it takes its lock) has it called, once per generation. Threads
// that ask meanwhile wait for its end; the poller's own nested calls do not. Everybody else gets the process id and nothing else.
//
// One file for glibc and musl: no libc among its needs, no thread-local storage, system calls by hand; what it asks of the dynamic
// loader is weak, and where that is missing it only returns the process id. Until a restore it does nothing else either.
#include "entropy.h"

#include <stddef.h>
#include <sys/syscall.h>

typedef struct {
  const char *fname;
  void *fbase;
  const char *sname;
  void *saddr;
} Info;  // Dl_info of both libcs

extern int dladdr(const void *, Info *) __attribute__((weak));
extern void *dlopen(const char *, int) __attribute__((weak));
extern void *dlsym(void *, const char *) __attribute__((weak));
extern int *__errno_location(void) __attribute__((weak));

enum { LAZY = 1, NOLOAD = 4 };  // RTLD_* of both libcs
enum { FUTEX_WAIT_PRIVATE = 128, FUTEX_WAKE_PRIVATE = 129 };
enum { WAIT_TRIES = 10 };  // of 100 ms

typedef enum { UNKNOWN, PLAIN, FORK_ID, POLL } Kind;

__attribute__((used, aligned(REKINDLE_GENERATION_ALIGN))) static volatile struct rekindle_generation block = {
    .magic = {'r', 'e', 'k', 'i', 'n', 'd', 'l', 'e', '-', 'e', 'n', 't', 'r', 'o', 'p', 'y'},
};

static long syscall4(long number, long a, long b, long c, long d) {
#if defined(__x86_64__)
  long result;
  register long r10 __asm__("r10") = d;
  __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
  return result;
#elif defined(__aarch64__)
  register long x8 __asm__("x8") = number;
  register long x0 __asm__("x0") = a;
  register long x1 __asm__("x1") = b;
  register long x2 __asm__("x2") = c;
  register long x3 __asm__("x3") = d;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
  return x0;
#else
#error "entropy.so knows x86_64 and aarch64"
#endif
}

static int same(const char *a, const char *b) {
  while (*a && *a == *b) a++, b++;
  return *a == *b;
}

// The base name is `name`, or begins with it where `name` is a library's stem.
static int is_file(const char *path, const char *name, int stem) {
  const char *base = path;
  for (const char *p = path; *p; p++) {
    if (*p == '/') base = p + 1;
  }
  while (*name && *base == *name) base++, name++;
  return !*name && (stem || !*base);
}

// A symbol of exactly this object: neither one of its dependencies nor one that another object interposes.
static void *own_symbol(const Info *object, const char *name) {
  Info at;
  void *symbol = dlsym(NULL, name);  // RTLD_DEFAULT: the main program and what it is linked to
  if (symbol && dladdr(symbol, &at) && at.fbase == object->fbase) return symbol;
  void *handle = dlopen(object->fname, LAZY | NOLOAD);
  symbol = handle ? dlsym(handle, name) : NULL;
  return symbol && dladdr(symbol, &at) && at.fbase == object->fbase ? symbol : NULL;
}

// The function that the direct call before this return address goes to; NULL if it is another instruction.
static const void *called_before(const void *address) {
  const unsigned char *next = address;
#if defined(__x86_64__)
  if (next[-5] != 0xe8) return NULL;
  uint32_t offset = next[-4] | next[-3] << 8 | next[-2] << 16 | (uint32_t)next[-1] << 24;
  return next + (int32_t)offset;
#else
  uint32_t word = *(const uint32_t *)(next - 4);
  return word >> 26 == 0x25 ? next - 4 + ((int32_t)(word << 6) >> 4) : NULL;  // bl: 26 bits of words
#endif
}

// What the code at this return address is. `poll` is set for POLL.
static Kind classify(const void *address, int (**poll)(void)) {
  Info object = {0};
  if (!dladdr || !dlopen || !dlsym || !dladdr(address, &object) || !object.fname || !object.fbase) return PLAIN;
  // OpenSSL's FIPS provider, and the OpenSSL inside Python's `cryptography`: nothing to ask them, and no other use of getpid.
  if (is_file(object.fname, "fips.so", 0) || is_file(object.fname, "_rust.abi3.so", 0)) return FORK_ID;
  *poll = (int (*)(void))own_symbol(&object, "RAND_poll");
  if (!*poll) return PLAIN;
  unsigned long (*version)(void) = (unsigned long (*)(void))own_symbol(&object, "OpenSSL_version_num");
  if (!version || version() < 0x10101000UL) return POLL;
  if (is_file(object.fname, "libcrypto", 1)) return FORK_ID;
  // OpenSSL within a program, as in Node: only OpenSSL's own question may get the other answer, not the program's. All of it comes
  // through openssl_get_fork_id(), mostly a bare jump to getpid(): then the instruction before the address is a call of that function.
  const void *asker = own_symbol(&object, "openssl_get_fork_id");
  if (!asker) return POLL;
  if (asker == object.saddr || asker == called_before(address)) return FORK_ID;
  // Called through a stub, within a library: by its callers' names, as they are in OpenSSL 1.1.1 to 3.6.
  static const char *const callers[] = {"ossl_prov_drbg_generate", "ossl_drbg_get_seed", "ossl_rand_drbg_new", "RAND_DRBG_generate"};
  for (size_t i = 0; object.sname && i < sizeof callers / sizeof *callers; i++) {
    if (same(object.sname, callers[i])) return FORK_ID;
  }
  return PLAIN;
}

// Return addresses seen since the restore, (address << 2 | kind) in one word so that threads need no lock. Two that share a place
// displace each other, which only costs time.
static uint64_t places[256];

static Kind kind_of(const void *address, int (**poll)(void)) {
  uint64_t key = (uint64_t)(uintptr_t)address << 2;
  uint64_t *place = &places[(key * 0x9e3779b97f4a7c15ULL) >> 56];
  uint64_t seen = __atomic_load_n(place, __ATOMIC_RELAXED);
  if ((seen & ~3ULL) == key && (seen & 3) != POLL) return seen & 3;
  Kind kind = classify(address, poll);
  __atomic_store_n(place, key | kind, __ATOMIC_RELAXED);
  return kind;
}

// A process id that OpenSSL has not seen: negative, with the process id (22 bits at most) and the number of restores (9 bits, from 1)
// that this memory lived through. Generation and number change in one step, so that no thread sees an old number with a new generation.
static int fork_id(int pid, uint64_t generation) {
  static uint64_t state;  // 55 bits of the generation, 9 bits of the number
  uint64_t old = __atomic_load_n(&state, __ATOMIC_ACQUIRE);
  while ((old ^ generation << 9) >> 9) {
    uint64_t next = generation << 9 | ((old + 1) & 511);
    if (__atomic_compare_exchange_n(&state, &old, next, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) old = next;
  }
  return (int)(0x80000000U | (uint32_t)(old & 511) << 22 | (uint32_t)pid);
}

static void poll_once(int (*poll)(void), uint64_t generation) {
  static uint64_t polled;  // the last generation for which RAND_poll() has returned
  static int poller;       // the thread that is in it, 0 for none
  int me = (int)syscall4(SYS_gettid, 0, 0, 0, 0);
  for (int tries = 0; __atomic_load_n(&polled, __ATOMIC_ACQUIRE) != generation; tries++) {
    int other = 0;
    if (__atomic_load_n(&poller, __ATOMIC_ACQUIRE) == me) return;
    // A thread that did not finish in time is one that a fork() left behind in the parent: take its place.
    if (tries >= WAIT_TRIES) other = __atomic_load_n(&poller, __ATOMIC_ACQUIRE);
    if (__atomic_compare_exchange_n(&poller, &other, me, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
      // It may have been done between the look at `polled` and here.
      if (__atomic_load_n(&polled, __ATOMIC_ACQUIRE) != generation) poll();
      __atomic_store_n(&polled, generation, __ATOMIC_RELEASE);
      __atomic_store_n(&poller, 0, __ATOMIC_RELEASE);
      syscall4(SYS_futex, (long)&poller, FUTEX_WAKE_PRIVATE, 1 << 30, 0);
      return;
    }
    const long timeout[2] = {0, 100000000};
    syscall4(SYS_futex, (long)&poller, FUTEX_WAIT_PRIVATE, other, (long)timeout);
  }
}

__attribute__((visibility("default"))) int getpid(void) {
  const void *caller = __builtin_extract_return_addr(__builtin_return_address(0));
  int pid = (int)syscall4(SYS_getpid, 0, 0, 0, 0);
  uint64_t generation = __atomic_load_n(&block.generation, __ATOMIC_ACQUIRE);
  if (generation == 0) return pid;

  // getpid() never changes errno; the loader and RAND_poll() may.
  int *error = __errno_location ? __errno_location() : NULL;
  int before = error ? *error : 0;
  int (*poll)(void) = NULL;
  Kind kind = kind_of(caller, &poll);
  if (kind == POLL) poll_once(poll, generation);
  if (error) *error = before;
  return kind == FORK_ID ? fork_id(pid, generation) : pid;
}
